"""``flwr-byz redteam``: run an app under attacks, with its own strategy and with the robust one."""

import os
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
from .report import draw, notes, table, write_page
from .runs import NO_ATTACK, Job, Run, RunResult, load
from .verdict import Row, Standard, choose_measure, verdict

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

    def runs(self) -> list[Run]:
        """Return the runs, the reference first; raise ValueError where an option is wrong."""
        m = self.app.num_nodes if self.num_nodes is None else self.num_nodes
        q = max(1, m // 5) if self.num_byzantine is None else self.num_byzantine
        if q < 1 or 2 * q >= m:
            allowed = "at least one and fewer than half of the nodes"
            raise ValueError(f"the Byzantine clients must be {allowed}, got {q} of {m}")
        check_number("timeout", self.timeout, above=0)
        if self.num_rounds is not None:
            check_number("rounds", self.num_rounds, whole=True, least=1)
        check_number("seed", self.seed, whole=True, least=0)
        for attack in self.attacks:
            try:
                rehearse(attack, m, q)
            except ValueError as error:
                raise ValueError(f"--attack {attack!r}: {error}") from None
        app = str(self.app.folder), self.app.digest(), self.run_config
        clean = Run(*app, m, q, self.num_rounds, self.seed, NO_ATTACK, "own")
        own = [clean, *(replace(clean, attack=attack) for attack in dict.fromkeys(self.attacks))]
        return [run for each in own for run in (each, replace(each, strategy="robust"))]


def red_team(trial: Trial, folder: Path, console: Console) -> None:
    """Do the runs that the folder lacks, and report; raise ValueError where that is impossible."""
    planned = trial.runs()
    run_config = trial.app.run_config(trial.run_config)
    run_apart = _runner()
    folder = folder.resolve()
    reference = folder / "runs" / planned[0].title / "models.npz"
    num_cpus = max(trial.app.client_resources.get("num_cpus", 1), 1e-9)
    num_actors = max(1, int((os.cpu_count() or 2) / num_cpus))
    results: list[RunResult] = []
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("")
        for run in progress.track(planned, task_id=bar):
            progress.update(bar, description=f"{run.attack}, {run.strategy}")
            own_folder = reference.parent.with_name(run.title)
            job = Job(run, trial.app, run_config, num_actors, own_folder, reference)
            result = load(job, trial.timeout) if reference.exists() else None
            results.append(result or run_apart(job, trial.timeout))
            if run.is_reference:
                _check_clean(results[0], job.folder / "log.txt")
                measure = choose_measure(results[0], trial.metric, trial.higher_is_better)
    _report(results, Standard.of(results[0], measure), folder, console)


def _report(results: list[RunResult], standard: Standard, folder: Path, console: Console) -> None:
    rows = [Row(*pair) for pair in zip(results[::2], results[1::2], strict=True)]
    run = results[0].run
    title = f"{Path(run.app).name} with {run.num_byzantine} Byzantine among {run.num_nodes} clients"
    conclusion = verdict(rows, standard)
    picture, svg = draw(rows, standard, title, folder / "redteam")
    page = folder / "redteam.html"
    write_page(page, title, conclusion, rows, standard, svg)
    console.print(f"\n{title}", style="bold", markup=False)
    console.print(table(rows, standard))
    for note in notes(rows):
        console.print(f"- {note}", markup=False, highlight=False)
    console.print(f"\n{conclusion}\n", style="bold", markup=False, highlight=False)
    console.print(f"{page}\n{picture}\n{folder / 'runs'}", markup=False, highlight=False)


def _check_clean(clean: RunResult, log: Path) -> None:
    if clean.end == "refused":
        raise ValueError(clean.reason)
    if clean.end != "finished" or not clean.finite:
        why = clean.reason or "its model is not finite"
        raise ValueError(f"the app fails without any attack: {why}; its log is {log}")


def rehearse(text: str, num_clients: int, num_byzantine: int) -> None:
    """Attack with made-up vectors; raise ValueError where that is impossible, as for a client."""
    attack, rng = parse_attack(text), np.random.default_rng(0)
    if missing := ", ".join(sorted(attack.requires - {"model", "honest"})):
        raise ValueError(f"it needs {missing}, which no client of an app knows")
    own, honest, model = rng.normal(size=3), rng.normal(size=(num_byzantine, 3)), np.zeros(3)
    colluders = range(num_byzantine)
    attack(Knowledge(own, num_clients, num_byzantine, rng, honest, 0, colluders, model))


def _runner() -> Callable[[Job, float], RunResult]:
    """Return the function that does a run; raise ValueError where none can be done here."""
    if missing := [name for name in ("ray", "matplotlib") if find_spec(name) is None]:
        raise ValueError(f"a trial needs {' and '.join(missing)}: pip install 'flwr-byz[redteam]'")
    try:
        from .simulate import run_apart
    except ImportError as error:
        raise ValueError(str(error)) from None
    return run_apart
