"""What the numbers of a matrix say, in sentences."""

import math
import re
from collections.abc import Sequence

from clients.experiments import AttackName

from ..picture import ATTACKS
from .engine import NOBODY
from .findings import Comparison, Option, Place, Study, Value, Worst, is_own, is_stock

OURS = Option("ours")
WELL_FORMED, ALL = "well-formed attacks", "all attacks"


def split_title(split: str) -> str:
    """Return what a split is called."""
    kind, _, alpha = split.partition("-")
    return f"Dirichlet {alpha}" if alpha else {"iid": "IID", "sorted": "sorted by label"}[kind]


def problem_title(study: Study) -> str:
    """Return what is trained, and what is measured."""
    measured = "accuracy on held-out images" if study.measure == "accuracy" else "error ‖θ − θ*‖"
    return f"{cap(study.problem)}: {measured} after {counted(study.rounds, 'round')}"


def number(measure: str, value: float, digits: int = 3) -> str:
    """Round a number of a measure: accuracy to a tenth, an error to significant digits."""
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else "−∞" if value < 0 else "∞"
    if measure == "accuracy":
        text = f"{value:.1f}"
    else:
        text = f"{value:.{digits}g}" if abs(value) < 1e3 else f"{value:.1e}"
        text = re.sub(r"e\+?(-?)0*", r"e\1", text)
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def value_in_words(measure: str, value: Value) -> str:
    """Tell a mean, with its spread where there is more than one seed."""
    mean = number(measure, value.mean)
    mean = f"{mean}\N{NO-BREAK SPACE}%" if measure == "accuracy" else f"error {mean}"
    if value.number == 1:
        return mean
    return f"{mean} ({number(measure, value.least)}–{number(measure, value.most)})"


def amount(measure: str, value: Value) -> str:
    """Tell a difference, with its spread where there is more than one seed."""
    mean, least, most = (number(measure, v, 2) for v in (value.mean, value.least, value.most))
    unit = "points" if measure == "accuracy" else "in error"
    return f"{mean} {unit}" + (f" ({least} to {most})" if value.number > 1 else "")


def verdict(study: Study, comparison: Comparison, other: str = "") -> str:
    """Say whether the new is better than the other, which can go without saying, by how much."""
    if study.is_as_good(comparison.new, comparison.base):
        return f"as good as {other}" if other else "as good"
    is_better = study.is_better(comparison.new, comparison.base)
    word, by = ("better", comparison.gain) if is_better else ("worse", comparison.loss)
    word += f" than {other}" if other else ""
    if not math.isfinite(by.mean):
        return f"{word} without bound"
    told = f"{word} by {amount(study.measure, by)}"
    return f"{told}, though not with every seed" if by.least < 0 else told


def worst_in_words(study: Study, worst: Worst) -> str:
    """Tell a worst case and its attack."""
    return f"{value_in_words(study.measure, worst.value)} under {attack_title(worst.attack)}"


def listed(words: Sequence[str], mark: str = ",") -> str:
    """Join words: "a, b and c"."""
    return " and ".join(filter(None, (f"{mark} ".join(words[:-1]), *words[-1:])))


def named(options: Sequence[Option]) -> str:
    """Join the titles of rules, which may have commas."""
    return listed([option.title for option in options], ";")


def attack_title(attack: AttackName) -> str:
    """Return an attack in quotes."""
    return f"“{ATTACKS[attack]}”"


def share(study: Study) -> str:
    """Tell how many clients are Byzantine where a matrix is looked at more closely."""
    return f"q = {study.q} of {study.m} ({100 * study.q / study.m:.3g}\N{NO-BREAK SPACE}%)"


def kinds(study: Study) -> list[tuple[str, list[AttackName]]]:
    """Return the attacks that a worst case is taken over: well-formed ones, and all."""
    both = [(WELL_FORMED, study.well_formed), (ALL, study.attacks)]
    if not study.well_formed or study.well_formed == study.attacks:
        both = both[1:]
    return [(name, attacks) for name, attacks in both if attacks]


def summary(study: Study, num_failed: int) -> list[tuple[str, list[str]]]:
    """Say what matters to who must choose a rule: headings, and sentences under each."""
    parts = [("What was played", played(study, num_failed))]
    for split in study.close_splits:
        heading = f"{split_title(split)}, {share(study)}"
        if not study.attacks:
            parts.append((heading, ["Nobody attacked in these runs.", *in_peace(study, split)]))
        elif split == "iid":
            parts.append((heading, [*ours(study, split), *in_peace(study, split)]))
        else:
            parts.append((heading, best_of_ours(study, split)))
    return parts


def played(study: Study, num_failed: int) -> list[str]:
    """Say what was played, and what is missing."""
    asked, done = len(study.cells), sum(cell in study.done for cell in study.cells)
    splits = listed([split_title(split) for split in study.splits])
    qs = listed([str(q) for q in study.qs])
    seeds = counted(len(study.seeds), "seed")
    stopped = sum(
        bool(outcome.stopped) for runs in study.outcomes.values() for outcome in runs.values()
    )
    sentences = [
        f"{study.m} clients; data split in {counted(len(study.splits), 'way')}: {splits}; "
        f"q = {qs} Byzantine; {counted(len(study.options), 'rule')}, "
        f"{counted(len(study.attacks), 'attack')}; {counted(study.rounds, 'round')}; {seeds}.",
        f"{counted(done, 'run')} of {thousands(asked)} "
        f"{'is' if done == 1 else 'are'} in this report; {thousands(num_failed)} failed to be "
        f"carried out; {thousands(stopped)} ended by an error at the server.",
    ]
    if len(study.seeds) == 1:
        sentences.append("With one seed there is no spread to tell: small differences mean little.")
    else:
        sentences.append(
            f"Each number is the mean over {seeds}; brackets hold the least and the most. "
            "A spread of a difference is over the differences seed by seed."
        )
    missing = [
        option
        for option in study.options
        if not all(
            study.is_whole(option, split, q, attacks)
            for split in study.splits
            for q in study.qs
            for attacks in ([NOBODY], study.attacks if q else [])
        )
    ]
    if missing:
        told = "every rule" if missing == study.options else named(missing)
        sentences.append(
            f"Runs are missing of {told}: a rule is compared in its worst case only where none is "
            "missing of it."
        )
    return sentences


def ours(study: Study, split: str) -> list[str]:
    """Say how ours does in its worst case, and which stock rules do better."""
    if OURS not in study.options:
        return [f"The rule “{OURS.title}” was not played."]
    sentences = []
    for kind, attacks in kinds(study):
        worst = study.worst(OURS, split, study.q, attacks)
        if worst is None or not study.is_whole(OURS, split, study.q, attacks):
            sentences.append(f"Over {kind}, runs of “{OURS.title}” are missing.")
            continue
        told = (
            f"In its worst case over {kind}, {OURS.title} comes to {worst_in_words(study, worst)}"
        )
        place = Place(OURS, split, study.q, worst.attack)
        comparisons = [
            ("itself with nobody attacking", study.under_attack(OURS, split, study.q, attacks)),
            (
                "FedAvg with nobody attacking",
                study.compare(place, study.mean_in_peace(split, study.q)),
            ),
        ]
        compared = [verdict(study, c, other) for other, c in comparisons if c]
        sentences.append(f"{told}{': ' if compared else ''}{'; '.join(compared)}.")
        sentences.append(_stock_against(study, split, kind, attacks, OURS, worst))
    return sentences


def in_peace(study: Study, split: str) -> list[str]:
    """Say what ours costs while nobody attacks."""
    comparison = study.in_peace(OURS, split, study.q)
    if comparison is None:
        return []
    told = (
        f"With nobody attacking, {OURS.title} set for q = {study.q} comes to "
        f"{value_in_words(study.measure, comparison.new)} and FedAvg to "
        f"{value_in_words(study.measure, comparison.base)}"
    )
    if study.is_better(comparison.base, comparison.new):
        return [f"{told}: it costs {amount(study.measure, comparison.loss)} in peace."]
    if study.is_better(comparison.new, comparison.base):
        return [f"{told}: it costs nothing in peace, and is {verdict(study, comparison)}."]
    return [f"{told}: as good, so it costs nothing in peace."]


def best_of_ours(study: Study, split: str) -> list[str]:
    """Compare the best of this package's rules to the best of Flower's, in their worst cases."""
    sentences = []
    for kind, attacks in kinds(study):
        own = study.ranking(split, study.q, attacks, is_own)
        if not own:
            sentences.append(f"Over {kind}, no rule of ours was played in full.")
            continue
        option, worst = own[0]
        others = (
            f" (as good: {named([best for best, _ in equals])})"
            if (equals := [c for c in own[1:] if study.is_as_good(c[1].value, worst.value)])
            else ""
        )
        sentences.append(
            f"Over {kind}, the best of ours in the worst case is {option.title}{others}: "
            f"{worst_in_words(study, worst)}."
        )
        sentences.append(_stock_against(study, split, kind, attacks, option, worst))
    return sentences


def changes(study: Study, split: str) -> list[list[str]]:
    """Say what client momentum and re-bucketing change: with, without, in peace, worst case."""

    def told(change: Comparison | None) -> str:
        if change is None:
            return "–"
        new, base = (value_in_words(study.measure, value) for value in (change.new, change.base))
        return f"{verdict(study, change)}: {new} against {base}"

    return [
        [effect.option.title, effect.base.title, told(effect.peace), told(effect.worst)]
        for effect in study.effects(split, study.q)
    ]


def advice(study: Study, split: str, attacks: Sequence[AttackName]) -> list[str]:
    """Tell the rule with the best worst case, with those as good, and the runner-up."""
    ranked = study.ranking(split, study.q, attacks)
    if not ranked:
        return ["no rule was played in full", "–"]
    top = ranked[0][1].value
    best = [case for case in ranked if study.is_as_good(case[1].value, top)]
    after = ranked[len(best) :]
    told = [
        f"{option.title}: {worst_in_words(study, worst)}" + _stopped_by(study, option, split)
        for option, worst in (*best, *after[:1])
    ]
    return ["; ".join(told[: len(best)]), told[-1] if after else "–"]


def counted(count: int, thing: str) -> str:
    """Tell a number of things."""
    return f"{thousands(count)} {thing}{'' if count == 1 else 's'}"


def thousands(count: int) -> str:
    """Return a whole number with thin spaces."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def cap(text: str) -> str:
    """Begin with a capital."""
    return text[:1].upper() + text[1:]


def _stock_against(
    study: Study,
    split: str,
    kind: str,
    attacks: Sequence[AttackName],
    option: Option,
    worst: Worst,
) -> str:
    """Say which of Flower's rules do better than one of ours in the worst case."""
    stock = study.ranking(split, study.q, attacks, is_stock)
    if not stock:
        return f"No rule of Flower's was played in full under {kind}."
    better = [case for case in stock if study.is_better(case[1].value, worst.value)]
    shown = better or stock[:1]
    told = [
        f"{rule.title} with {worst_in_words(study, case)}"
        + _by(study, split, (rule, case), (option, worst))
        + _stopped_by(study, rule, split)
        for rule, case in shown
    ]
    if better:
        count = "One rule" if len(better) == 1 else f"{thousands(len(better))} rules"
        return (
            f"{count} of Flower's {'does' if len(better) == 1 else 'do'} better than "
            f"{option.title} under {kind}: {'; '.join(told)}."
        )
    equals = sum(study.is_as_good(case.value, stock[0][1].value) for _, case in stock[1:])
    return (
        f"No rule of Flower's does better than {option.title} under {kind}; "
        f"the best of them is {told[0]}"
        + (
            f"; {counted(equals, 'other')} {'is' if equals == 1 else 'are'} as good."
            if equals
            else "."
        )
    )


def _by(study: Study, split: str, rule: tuple[Option, Worst], other: tuple[Option, Worst]) -> str:
    """Compare the worst cases of two rules."""
    places = (Place(option, split, study.q, worst.attack) for option, worst in (rule, other))
    comparison = study.compare(*places)
    return f", {verdict(study, comparison)}" if comparison else ""


def _stopped_by(study: Study, option: Option, split: str) -> str:
    stops = study.stops(option, split, study.q)
    if not stops:
        return ""
    return f" (its server is stopped by {listed([attack_title(attack) for attack in stops])})"
