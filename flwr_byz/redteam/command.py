"""``flwr-byz redteam``: run an app under attacks, with its own strategy and with the robust one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ..attacks import Knowledge
from ..attacks.names import parse_attack
from ..checks import check_number
from .flower_app import FlowerApp
from .report import report
from .runs import Run, RunResult, load
from .verdict import Standard, choose_measure

DEFAULT_ATTACKS = (
    "SignFlip(scale=10)",
    "GaussianNoise",
    "ALittleIsEnough(z=1.5)",
    "InnerProductManipulation(epsilon=10)",
    "NonFinite",
    "Malformed",
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is tried, with the defaults of the command where an option is None."""

    app: FlowerApp
    attacks: Sequence[str]
    num_nodes: int | None = None
    num_byzantine: int | None = None
    num_rounds: int | None = None
    run_config: str = ""
    seed: int = 0
    timeout: float = 600.0
    metric: str | None = None
    higher_is_better: bool | None = None

    def runs(self, results: Path) -> list[Run]:
        """Return the runs, the reference first; raise ValueError where an option is wrong."""
        m, q = sizes(self.app, self.num_nodes, self.num_byzantine)
        check_number("timeout", self.timeout, above=0)
        if self.num_rounds is not None:
            check_number("rounds", self.num_rounds, whole=True, least=1)
        check_number("seed", self.seed, whole=True, least=0)
        for attack in self.attacks:
            try:
                rehearse(attack, m, q)
            except ValueError as error:
                raise ValueError(f"--attack {attack!r}: {error}") from None
        run_config = self.app.run_config(self.run_config)
        clean = Run(self.app, run_config, m, q, self.num_rounds, self.seed, results.resolve())
        own = [clean, *(replace(clean, attack=attack) for attack in dict.fromkeys(self.attacks))]
        return [run for each in own for run in (each, replace(each, strategy="robust"))]


def red_team(trial: Trial, folder: Path, console: Console) -> None:
    """Do the runs that the folder lacks, and report; raise ValueError where that is impossible."""
    planned = trial.runs(folder)
    run_apart = runner()
    results: list[RunResult] = []
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("")
        for run in progress.track(planned, task_id=bar):
            progress.update(bar, description=f"{run.attack}, {run.strategy}")
            result = load(run, trial.timeout) if run.reference.exists() else None
            results.append(result or run_apart(run, trial.timeout))
            if run is planned[0]:
                clean = results[0]
                check_can_be_judged(clean)
                measure = choose_measure(clean, trial.metric, trial.higher_is_better)
    rows = {row[0].run.attack: row for row in zip(results[::2], results[1::2], strict=True)}
    report(rows, Standard.of(clean, measure), console)


def sizes(app: FlowerApp, num_nodes: int | None, num_byzantine: int | None) -> tuple[int, int]:
    """Return m and q, checked: by default the app's number of nodes, and a fifth of them."""
    m = app.num_nodes if num_nodes is None else num_nodes
    q = max(1, m // 5) if num_byzantine is None else num_byzantine
    half = f" (half of the {m} nodes)"
    check_number("byzantine", q, whole=True, least=1, below=m / 2, note=half)
    return m, q


def check_can_be_judged(clean: RunResult) -> None:
    """Raise ValueError where an app is refused, or does not end well without any attack."""
    if clean.end == "refused":
        raise ValueError(clean.reason)
    if clean.end != "finished" or not clean.finite:
        why, log = clean.reason or "its model is not finite", clean.run.folder / "log.txt"
        raise ValueError(f"the app fails without any attack: {why}; its log is {log}")


def rehearse(text: str, num_clients: int, num_byzantine: int) -> None:
    """Attack with made-up vectors; raise ValueError where that is impossible, as for a client."""
    attack, rng = parse_attack(text), np.random.default_rng(0)
    if missing := ", ".join(sorted(attack.requires - {"model", "honest"})):
        raise ValueError(f"it needs {missing}, which no client of an app knows")
    own, honest, model = rng.normal(size=3), rng.normal(size=(num_byzantine, 3)), np.zeros(3)
    colluders = range(num_byzantine)
    attack(Knowledge(own, num_clients, num_byzantine, rng, honest, 0, colluders, model))


def runner() -> Callable[[Run, float], RunResult]:
    """Return the function that does a run; raise ValueError where none can be done here."""
    needed = "ray", "matplotlib", "jinja2"
    if missing := ", ".join(name for name in needed if find_spec(name) is None):
        raise ValueError(f"a trial needs {missing}: pip install 'flwr-byz[redteam]'")
    try:
        from .simulate import run_apart
    except ImportError as error:
        raise ValueError(str(error)) from None
    return run_apart
