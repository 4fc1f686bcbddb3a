"""``flwr-byz advise``: how unlike the clients of an app are, and which strategy suits them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from .. import json_lines
from ..checks import check_number
from ..pages import Table
from ..unlikeness import Unlikeness, advise, measure_unlikeness
from .command import check_can_be_judged, runner, sizes
from .flower_app import FlowerApp
from .runs import Run, load

_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, with the defaults of the command where an option is None."""

    app: FlowerApp
    num_nodes: int | None = None
    num_byzantine: int | None = None
    num_trusted: int = 0
    run_config: str = ""
    seed: int = 0
    timeout: float = 600.0


def answer(question: Question, folder: Path, console: Console) -> None:
    """Do the pilot, unless the folder holds it, and print the advice; raise ValueError without."""
    app = question.app
    m, q = sizes(app, question.num_nodes, question.num_byzantine)
    check_number("trusted", question.num_trusted, whole=True, least=0)
    check_number("timeout", question.timeout, above=0)
    check_number("seed", question.seed, whole=True, least=0)
    run_config = app.run_config(question.run_config)
    run = Run(app, run_config, m, 0, _ROUNDS, question.seed, folder.resolve(), strategy="pilot")
    run_apart = runner()
    result = load(run, question.timeout)
    if result is None or result.end != "finished":
        result = run_apart(run, question.timeout)
    check_can_be_judged(result)
    api, rejected, replies = read_pilot(run)
    try:
        found = measure_unlikeness(replies, num_byzantine=q)
    except ValueError as error:
        usual = "".join(f"; {reason}" for reason, _ in Counter(rejected).most_common(1))
        raise ValueError(f"{error}{usual}; the log is {run.folder / 'log.txt'}") from None
    title = f"{app.folder.name} with {m} clients, at most {q} of them Byzantine"
    if question.num_byzantine is None:
        title += " (a fifth, as --byzantine is not given)"
    console.print(Text(title, "bold"))
    console.print(_table(found).for_terminal())
    given = advise(found, num_trusted=question.num_trusted, api=api)
    console.print(Text("\nTake", "bold"))
    console.print(Text(given.strategy), soft_wrap=True)
    missing = m - found.num_clients
    doubts = [*given.doubts]
    if missing:
        doubts.append(f"{missing} of {m} clients were not asked, or sent no two usable replies.")
    for heading, lines in (("Why", given.reasons), ("Uncertain", doubts)):
        if lines:
            console.print(Text(f"\n{heading}", "bold"))
            console.print(Text("\n".join(f"- {line}" for line in lines)))


def read_pilot(
    run: Run,
) -> tuple[Literal["serverapp", "server"], list[str], dict[str, list[NDArray[np.floating]]]]:
    """Return the app's API, the reasons of rejections, and the updates of who replied each time."""
    events = list(json_lines.read(run.folder / "events.jsonl"))
    rounds = [event for event in events if event["event"] == "replies"]
    numbers = {event["round"] for event in rounds}
    if len(numbers) < _ROUNDS:
        raise ValueError(f"the app ended after {len(numbers)} of {_ROUNDS} rounds of the pilot")
    reasons = [reason for event in rounds for reason in event["rejected"]]
    updates: dict[str, list[NDArray[np.floating]]] = {}
    for number in numbers:
        with np.load(run.replies(number)) as file:
            for client, update in file.items():
                updates.setdefault(client, []).append(update)
    complete = {client: each for client, each in updates.items() if len(each) == _ROUNDS}
    return rounds[0]["api"], reasons, complete


def _table(found: Unlikeness) -> Table:
    rows = [
        ["variance within a client", f"{found.within:.3g}", ""],
        ["variance between clients", f"{found.between:.3g}", ""],
        ["ratio: between / within", f"{found.ratio:.3g}", _within(found.ratios)],
        ["share: between / length²", f"{found.share:.3g}", _within(found.shares)],
        ["clients are", found.kind, ""],
    ]
    honest = f"of the honest alone, whichever {found.num_byzantine} are Byzantine"
    return Table(["measured", "", honest], rows)


def _within(limits: tuple[float, float]) -> str:
    return "{:.3g} to {:.3g}".format(*limits)
