"""``flwr-byz redteam``: play an app under attacks, with its own strategy and with ours."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from . import outcome as outcomes
from .attack_text import parse_attack, rehearse
from .flower_app import FlowerApp
from .order import Order
from .outcome import PEACE, Outcome, Play, outcome_of
from .process import play_apart
from .report import draw, notes, table, write_page
from .verdict import Row, Standard, choose_measure, verdict

Strategies: tuple[Literal["own"], Literal["ours"]] = ("own", "ours")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is tried.

    Attributes
    ----------
    app : FlowerApp
    attacks : sequence of str
        As `parse_attack` reads them.
    num_nodes, num_byzantine : int, optional
        By default as many nodes as the app's federation has, and a fifth of them, at least one.
    num_rounds : int, optional
        By default as many as the app asks for.
    run_config : str
        Overrides, as ``flwr run`` takes them.
    seed : int
        Of who is Byzantine, of attacks, and of the random numbers that the app draws.
    """

    app: FlowerApp
    attacks: Sequence[str]
    num_nodes: int | None = None
    num_byzantine: int | None = None
    num_rounds: int | None = None
    run_config: str = ""
    seed: int = 0

    def plays(self) -> list[Play]:
        """Return the plays, the app's own strategy where nobody attacks first.

        Raises
        ------
        ValueError
            Where an option is out of range, or an attack is none or impossible.
        """
        m = self.app.num_nodes if self.num_nodes is None else self.num_nodes
        q = max(1, m // 5) if self.num_byzantine is None else self.num_byzantine
        if q < 1 or 2 * q >= m:
            raise ValueError(
                f"the Byzantine clients must be one at least and fewer than half of the nodes, "
                f"got {q} of {m}"
            )
        if self.num_rounds is not None and self.num_rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.num_rounds}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        for attack in self.attacks:
            try:
                rehearse(parse_attack(attack), m, q)
            except ValueError as error:
                raise ValueError(f"--attack {attack!r}: {error}") from None
        digest = self.app.digest()
        return [
            Play(
                app=str(self.app.folder),
                digest=digest,
                run_config=self.run_config,
                num_nodes=m,
                num_byzantine=q,
                num_rounds=self.num_rounds,
                seed=self.seed,
                attack=attack,
                strategy=strategy,
            )
            for attack in (PEACE, *dict.fromkeys(self.attacks))
            for strategy in Strategies
        ]


def red_team(
    trial: Trial,
    results: Path,
    timeout: float,
    metric: str | None,
    higher_is_better: bool | None,
    console: Console,
) -> None:
    """Play what is not in the results yet; print the table and the verdict, and write the files.

    Raises
    ------
    ValueError
        Where an option is wrong, or the app fails with its own strategy where nobody attacks.
    """
    _check_installed()
    plays = trial.plays()
    run_config = trial.app.run_config(trial.run_config)
    if timeout <= 0:
        raise ValueError(f"timeout must be positive, got {timeout}")
    results = results.resolve()
    file = results / "plays.jsonl"
    done = {play: each for play, each in outcomes.load(file, timeout).items() if play in plays}
    reference = results / f"models-{plays[0].title}.npz"
    if not reference.exists():
        done.pop(plays[0], None)
    with _progress(console) as progress:
        bar = progress.add_task("", total=len(plays))
        for number, play in enumerate(plays):
            progress.update(bar, completed=number, description=f"{play.attack}, {play.strategy}")
            if play not in done:
                folder = results / "plays" / play.title
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                order = Order(
                    play=play,
                    app=trial.app,
                    run_config=run_config,
                    byzantine=byzantine_of(play),
                    num_actors=_num_actors(trial.app),
                    folder=folder,
                    reference=reference,
                )

                def advance(rounds: int, of: int, number: int = number) -> None:
                    progress.update(bar, completed=number + (rounds / (of + 1) if of else 0))

                events = play_apart(order, timeout, advance)
                outcomes.append(file, play, events)
                made = outcome_of(play, events)
                assert made is not None
                done[play] = made
            if number == 0:
                _check_peace(done[play], results)
                measure = choose_measure(done[play], metric, higher_is_better)
        progress.update(bar, completed=len(plays), description="done")
    _report(plays, done, Standard.of(done[plays[0]], measure), results, console)


def byzantine_of(play: Play) -> frozenset[int]:
    """Return who is Byzantine: the same clients in all plays of a seed."""
    drawn = np.random.default_rng(play.seed).choice(
        play.num_nodes, play.num_byzantine, replace=False
    )
    return frozenset(int(client) for client in drawn)


def _report(
    plays: Sequence[Play],
    done: dict[Play, Outcome],
    standard: Standard,
    results: Path,
    console: Console,
) -> None:
    by_name = {(play.attack, play.strategy): done[play] for play in plays}
    rows = [
        Row(attack, by_name[attack, "own"], by_name[attack, "ours"])
        for attack in dict.fromkeys(play.attack for play in plays)
    ]
    first = plays[0]
    title = (
        f"{Path(first.app).name} with {first.num_byzantine} Byzantine among {first.num_nodes} "
        "clients"
    )
    said = verdict(rows, standard)
    picture, svg = draw(rows, standard, title, results / "redteam")
    page = results / "redteam.html"
    write_page(page, title, said, rows, standard, svg)
    console.print(f"\n[bold]{title}")
    console.print(table(rows, standard))
    for note in notes(rows):
        console.print(f"- {note}", markup=False, highlight=False)
    console.print(f"\n{said}\n", style="bold", markup=False, highlight=False)
    console.print(f"{page}\n{picture}\n{results / 'plays.jsonl'}", markup=False, highlight=False)


def _check_peace(peace: Outcome, results: Path) -> None:
    if peace.end == "finished" and peace.finite:
        return
    log = results / "plays" / peace.play.title / "log.txt"
    why = peace.reason or "its model is not finite"
    raise ValueError(f"the app fails where nobody attacks: {why}; its log is {log}")


def _num_actors(app: FlowerApp) -> int:
    """Return how many clients Ray lets run at a time."""
    return max(1, int((os.cpu_count() or 2) / max(app.client_resources.get("num_cpus", 1), 1e-9)))


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _check_installed() -> None:
    missing = [name for name in ("ray", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ValueError(f"a trial needs {' and '.join(missing)}: pip install 'flwr-byz[redteam]'")
