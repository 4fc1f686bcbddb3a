"""What to use when, what robustness costs rare labels, and how well attackers are detected."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from clients.own_rules import OWN
from clients.rules import title
from clients.run import NO_ATTACK
from flwr_byz.pages import Cell, Table

from .detection import FLAGGED
from .look import Look, Part
from .tables import STUDY, Study, at, costs, joined, name_of, number

_ALONE = "ServerAlone"

_CHOICE = """Of each split and problem, the rule whose worst case over well-formed attacks is the \
best, and the best rule of this package; rules of which runs are missing are left out. A worst \
case has the least and the most over seeds beside it, and stands for so many attacks: over more of \
them it can only be worse, so compare rows of as many. With trusted=n the server holds n samples \
that no client has, and "the server alone" trains on nothing else. The time is the server's \
without attack."""

_MINORITY = """Without attack: the accuracy on all images held out and on the class that the model \
does worst on, and by how much each is above that of FedAvg."""

_DETECTION = f"""Over well-formed attacks of the same clients in every round. A client is flagged \
where its mean evidence ends above {FLAGGED:g}: as in the audit trail, how much farther than the \
median reply its own is from the new model, here with what the server made of it on its own data. \
Honest clients flagged without any attack do not count. Precision is the share of Byzantine \
clients among the flagged, over the runs that flag any; recall the share of flagged among the \
Byzantine."""


def families(studies: Sequence[Study]) -> list[Study]:
    """Join the studies of a problem whatever its options, of as many clients and rounds."""
    return joined(studies, lambda run: (name_of(run.problem), *run[STUDY[1:]]))


def choice(look: Look) -> Iterable[Part]:
    """Show what to use when, of a family of studies."""
    if len(best := choices(look.study, look.q, look.splits)):
        look.table(best, "choice")
        measure = look.study.measure
        rows = [
            (
                *(case.split, case.problem, case.who, case.option),
                number(measure, case.clean),
                _broken(_spread(measure, case.worst, case.least, case.most), case.broken),
                *(case.attack, f"{case.attacks}", _short(case.milliseconds)),
            )
            for case in best.itertuples()
        ]
        names = "data", "problem", "", "rule", "no attack", "worst", "attack", "of", "ms a round"
        yield look.section("what to use when", [], [Table(names, rows)], _CHOICE), 1


def choices(family: Study, num_byzantine: int, splits: Sequence[str]) -> pd.DataFrame:
    """Return the rules of the best worst cases over well-formed attacks, by split and problem.

    `who` says which of them a row is: the best of all, of this package, or the server alone.
    """
    studies = [Study(runs.reset_index(drop=True)) for _, runs in family.runs.groupby("problem")]
    found = [_choices(study, num_byzantine, split) for split in splits for study in studies]
    numbers = dict.fromkeys(("clean", "worst", "least", "most", "milliseconds"), float)
    return pd.concat(found, ignore_index=True).astype(numbers)


def _choices(study: Study, num_byzantine: int, split: str) -> pd.DataFrame:
    cells = at(study.cells, split, num_byzantine)
    worst = at(study.worst(study.well_formed), split, num_byzantine)
    worst = worst[worst.whole].sort_values("bad", kind="stable")
    own = study.runs.option[study.runs.rule.map(name_of).isin(OWN)]
    kinds = {
        "best": worst,
        "best of this package": worst[worst.option.isin(own)],
        "the server alone": worst[worst.option == title(_ALONE)],
    }
    names: dict[str, list[str]] = {}
    for who, ranked in kinds.items():
        for option in ranked.option.head(1):
            names.setdefault(option, []).append(who)
    clean = at(study.worst([NO_ATTACK]), split, num_byzantine).set_index("option")["mean"]
    cost = costs(study, num_byzantine, [split]).set_index("option")["mean"]
    kept = worst[worst.option.isin(names)]
    return pd.DataFrame(
        {
            "split": kept.split,
            "problem": study.runs.problem[0],
            "who": kept.option.map(lambda option: " and ".join(names[option])),
            "option": kept.option,
            "clean": kept.option.map(clean),
            "worst": kept["mean"],
            "least": kept.least,
            "most": kept.most,
            "attack": kept.attack,
            "attacks": cells.attack[cells.attack.isin(study.well_formed)].nunique(),
            "placement": kept.placement,
            "broken": kept.broken,
            "milliseconds": kept.option.map(cost),
        }
    )


def _spread(measure: str, mean: float, least: float, most: float) -> str:
    """Return a mean over seeds, with the least and the most where they differ."""
    text, *ends = (number(measure, value) for value in (mean, least, most))
    return text if ends[0] == ends[1] else f"{text} ({ends[0]}–{ends[1]})"


def _broken(text: str, is_broken: bool) -> Cell:
    return Cell(f"{text}✗", "broken") if is_broken else Cell(text)


def minority(look: Look) -> Iterable[Part]:
    """Show what robustness costs the labels that a model does worst on."""
    found, made = least_classes(look.study, look.q, look.splits), []
    if len(found):
        look.table(found, "minority")
        for split, part in found.groupby("split", sort=False):
            columns = [
                _marked(part, name) if name in ("accuracy", "least_class") else _signed(part[name])
                for name in ("accuracy", "gain", "least_class", "least_class_gain")
            ]
            rows = list(zip(part.option, *columns, strict=True))
            names = "rule", "accuracy", "beside FedAvg", "worst class", "beside FedAvg"
            made.append(Table(names, rows, split))
        heading = "what robustness costs the class that does worst"
        yield look.section(heading, [], made, _MINORITY), len(made)


def least_classes(study: Study, num_byzantine: int, splits: Sequence[str]) -> pd.DataFrame:
    """Return the accuracy and that on the worst class without attack, over seeds.

    Gains are over FedAvg on the same split.
    """
    runs = study.runs.assign(least_class=_figure(study.runs, "least-class"))
    runs = runs[(runs.attack == NO_ATTACK) & (runs.num_byzantine == num_byzantine)]
    runs = runs[runs.split.isin(splits) & runs.least_class.notna()]
    cells = runs.groupby(["split", "option"], sort=False)
    found = cells.agg(
        accuracy=("final", "mean"),
        least_class=("least_class", "mean"),
        least=("least_class", "min"),
        most=("least_class", "max"),
        seeds=("seed_done", "nunique"),
    ).reset_index()
    mean = found[found.option == title("FedAvg")].set_index("split")
    found["gain"] = found.accuracy - found.split.map(mean.accuracy).astype(float)
    least = found.split.map(mean.least_class).astype(float)
    found["least_class_gain"] = found.least_class - least
    found["whole"] = found.seeds == study.runs.seed.nunique()
    order = {split: place for place, split in enumerate(splits)}
    return found.sort_values("split", key=lambda names: names.map(order), kind="stable")


def _marked(part: pd.DataFrame, name: str) -> list[Cell]:
    """Return percentages, in bold those that read as the best that lacks no run does."""
    texts = [number("accuracy", value) for value in part[name]]
    best = number("accuracy", part[name][part.whole].max())
    return [
        Cell(text + ("" if whole else "*"), "best" if whole and text == best else "")
        for text, whole in zip(texts, part.whole, strict=True)
    ]


def _signed(values: pd.Series) -> list[str]:
    return [("+" if value > 0 else "") + number("accuracy", value) for value in values]


def detection(look: Look) -> Iterable[Part]:
    """Show how well Byzantine clients are detected."""
    found, made = detections(look.study, look.q, look.splits), []
    if len(found):
        look.table(found, "detection")
        for split, part in found.groupby("split", sort=False):
            shares = [part[name].map(_percent) for name in ("precision", "recall")]
            nobody = part.nobody.astype(str) + " of " + part.runs.astype(str)
            rows = list(zip(part.option, *shares, nobody, strict=True))
            names = "rule", "precision", "recall", "runs that flag nobody"
            made.append(Table(names, rows, split))
        heading = "how well Byzantine clients are detected"
        yield look.section(heading, [], made, _DETECTION), len(made)


def detections(study: Study, num_byzantine: int, splits: Sequence[str]) -> pd.DataFrame:
    """Return mean precision and recall over runs under well-formed attacks, by split and option.

    Precision is over the runs that flag a client; `nobody` is how many of them flag none.
    """
    figures = {name: _figure(study.runs, name) for name in ("precision", "recall")}
    runs = study.runs.assign(**figures)
    runs = runs[runs.attack.isin(study.well_formed) & (runs.num_byzantine == num_byzantine)]
    runs = runs[runs.split.isin(splits) & runs.recall.notna()]
    cells = runs.assign(nobody=runs.precision.isna()).groupby(["split", "option"], sort=False)
    found = cells.agg(
        precision=("precision", "mean"),
        recall=("recall", "mean"),
        runs=("recall", "size"),
        nobody=("nobody", "sum"),
    ).reset_index()
    order = {split: place for place, split in enumerate(splits)}
    return found.sort_values("split", key=lambda names: names.map(order), kind="stable")


def _figure(runs: pd.DataFrame, name: str) -> pd.Series:
    """Return a further number of each run, NaN where it has none."""
    return pd.Series([each.get(name, math.nan) for each in runs.numbers], runs.index, float)


def _percent(share: float) -> str:
    return f"{number('accuracy', share)}" + ("" if math.isnan(share) else " %")


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
