"""``flwr-byz redteam``: run an app under attacks, with its own strategy and with the robust one."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ..aggregation.batches import check_count
from ..attacks import Knowledge
from ..attacks.names import parse_attack
from . import runs
from .flower_app import FlowerApp
from .process import run_apart
from .report import draw, notes, table, write_page
from .runs import NO_ATTACK, STRATEGIES, Job, Run, RunResult
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

    def runs(self) -> list[Run]:
        """Return the runs, the clean one with the app's own strategy first.

        Raises ValueError where an option is out of range, or an attack unknown or impossible.
        """
        m = self.app.num_nodes if self.num_nodes is None else self.num_nodes
        q = max(1, m // 5) if self.num_byzantine is None else self.num_byzantine
        if q < 1 or 2 * q >= m:
            allowed = "at least one and fewer than half of the nodes"
            raise ValueError(f"the Byzantine clients must be {allowed}, got {q} of {m}")
        check_count("rounds", self.num_rounds, least=1)
        check_count("seed", self.seed, least=0)
        for attack in self.attacks:
            try:
                rehearse(attack, m, q)
            except ValueError as error:
                raise ValueError(f"--attack {attack!r}: {error}") from None
        app = str(self.app.folder), self.app.digest(), self.run_config
        return [
            Run(*app, m, q, self.num_rounds, self.seed, attack, strategy)
            for attack in (NO_ATTACK, *dict.fromkeys(self.attacks))
            for strategy in STRATEGIES
        ]


def red_team(
    trial: Trial,
    folder: Path,
    timeout: float,
    metric: str | None,
    higher_is_better: bool | None,
    console: Console,
) -> None:
    """Do the runs that the folder of results lacks; print and write the table and the verdict.

    Raises ValueError where an option is wrong, or the app is refused or fails in its clean run.
    """
    planned = trial.runs()
    run_config = trial.app.run_config(trial.run_config)
    if timeout <= 0:
        raise ValueError(f"timeout must be positive, got {timeout}")
    _check_installed()
    folder = folder.resolve()
    file = folder / "runs.jsonl"
    done = {run: result for run, result in runs.load(file, timeout).items() if run in planned}
    reference = folder / f"models-{planned[0].title}.npz"
    if not reference.exists():
        done.pop(planned[0], None)
    per_client = max(trial.app.client_resources.get("num_cpus", 1), 1e-9)
    num_actors = max(1, int((os.cpu_count() or 2) / per_client))
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(planned))
        for number, run in enumerate(planned):
            progress.update(bar, completed=number, description=f"{run.attack}, {run.strategy}")
            if run not in done:
                job_folder = folder / "runs" / run.title
                job = Job(run, trial.app, run_config, num_actors, job_folder, reference)
                shutil.rmtree(job_folder, ignore_errors=True)
                job_folder.mkdir(parents=True)

                def advance(share: float, number: int = number) -> None:
                    progress.update(bar, completed=number + share)

                events = run_apart(job, timeout, advance)
                runs.append(file, run, events)
                done[run] = runs.result_of(run, events)
            if number == 0:
                _check_clean(done[run], folder)
                measure = choose_measure(done[run], metric, higher_is_better)
        progress.update(bar, completed=len(planned), description="done")
    _report([done[run] for run in planned], Standard.of(done[planned[0]], measure), folder, console)


def _report(
    results: Sequence[RunResult], standard: Standard, folder: Path, console: Console
) -> None:
    pairs = zip(results[::2], results[1::2], strict=True)
    rows = [Row(own.run.attack, own, robust) for own, robust in pairs]
    first = results[0].run
    clients = f"{first.num_byzantine} Byzantine among {first.num_nodes} clients"
    title = f"{Path(first.app).name} with {clients}"
    conclusion = verdict(rows, standard)
    picture, svg = draw(rows, standard, title, folder / "redteam")
    page = folder / "redteam.html"
    write_page(page, title, conclusion, rows, standard, svg)
    console.print(f"\n[bold]{title}")
    console.print(table(rows, standard))
    for note in notes(rows):
        console.print(f"- {note}", markup=False, highlight=False)
    console.print(f"\n{conclusion}\n", style="bold", markup=False, highlight=False)
    console.print(f"{page}\n{picture}\n{folder / 'runs.jsonl'}", markup=False, highlight=False)


def _check_clean(clean: RunResult, folder: Path) -> None:
    if clean.end == "refused":
        raise ValueError(clean.reason)
    if clean.end != "finished" or not clean.finite:
        why = clean.reason or "its model is not finite"
        log = folder / "runs" / clean.run.title / "log.txt"
        raise ValueError(f"the app fails without any attack: {why}; its log is {log}")


def rehearse(text: str, num_clients: int, num_byzantine: int) -> None:
    """Attack with made-up vectors; raise ValueError where that is impossible, as for a client."""
    attack, rng = parse_attack(text), np.random.default_rng(0)
    if missing := ", ".join(sorted(attack.knows - {"model", "honest"})):
        raise ValueError(
            f"{type(attack).__name__} needs {missing}, which no client of an app knows"
        )
    own, honest, model = rng.normal(size=3), rng.normal(size=(num_byzantine, 3)), np.zeros(3)
    colluders = range(num_byzantine)
    attack(Knowledge(own, num_clients, num_byzantine, rng, honest, 0, colluders, model))


def _check_installed() -> None:
    """Raise ValueError where a trial cannot run here."""
    missing = [name for name in ("ray", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ValueError(f"a trial needs {' and '.join(missing)}: pip install 'flwr-byz[redteam]'")
    try:
        from . import simulate  # noqa: F401
    except ImportError as error:
        raise ValueError(str(error)) from None
