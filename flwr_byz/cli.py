"""The command ``flwr-byz``."""

import json
import sys
from importlib.metadata import version
from math import ceil, inf, isnan, nan
from pathlib import Path
from typing import Annotated

import click
from rich.console import Console
from rich.table import Column, Table
from typer import Argument, Exit, Option, Typer

from .theory import Plan, TimeToTarget, plan, time_to_target

_Row = tuple[str | float | None, ...]
_ROWS_SHOWN = 12
_OPTIONS = {
    "num_clients": "--clients",
    "num_byzantine": "--byzantine",
    "samples_per_client": "--samples",
    "num_batches": "--batches",
    "target_error": "--target-error",
}

app = Typer(add_completion=False)


def _print_version(asked: bool) -> None:
    if asked:
        print(version("flwr-byz"))
        raise Exit()


_VERSION = Option("--version", callback=_print_version, is_eager=True, help="Print the version.")


@app.callback()
def options(_: Annotated[bool, _VERSION] = False) -> None:
    """Federated learning with Flower when you cannot trust every client."""


@app.command("plan")
def plan_command(
    dim: Annotated[int, Option("--dim", "-d", help="Parameters of the model, d.")],
    num_clients: Annotated[int | None, Option("--clients", "-m", help="Clients m.")] = None,
    num_byzantine: Annotated[
        int | None, Option("--byzantine", "-q", help="At most q are Byzantine.")
    ] = None,
    samples: Annotated[
        list[int] | None, Option("--samples", "-n", help="Samples N/m of all, or of each client.")
    ] = None,
    target_error: Annotated[
        float | None, Option(help="Find what is left out of -m, -q, -n, or else the fewest k.")
    ] = None,
    num_batches: Annotated[
        int | None, Option("--batches", "-k", help="By default those of the least expected error.")
    ] = None,
    epsilon: Annotated[float | None, Option(help="The smallest k ≥ 2(1+ε)q instead.")] = None,
    confidence: Annotated[float, Option(help="The probability of the guarantee.")] = 0.99,
    step_size: Annotated[float | None, Option("--step", help="η; L/(2M²) by default.")] = None,
    local_steps: Annotated[
        int | None, Option(help="Clients take so many steps, and reply weights.")
    ] = None,
    distance: Annotated[float | None, Option(help="‖θ0 − θ*‖ at the start; √d by default.")] = None,
    latencies: Annotated[str | None, Option(help="Seconds of a reply, as 16x1,4x10.")] = None,
    quorum: Annotated[
        int | None, Option(help="Batches an asynchronous step awaits; by default more than half.")
    ] = None,
    timeout: Annotated[float | None, Option(help="Seconds until a client is given up.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print JSON instead of tables.")] = False,
    plot: Annotated[Path | None, Option(help="Draw error over k to this PNG, SVG or PDF.")] = None,
) -> None:
    """Plan a training: its settings, its expected error and its guarantee.

    It is for linear regression with Gaussian data; for other problems see flwr_byz.theory.plan.
    """
    sizes = samples[0] if samples and len(samples) == 1 else samples
    try:
        made = plan(
            num_clients=num_clients,
            num_byzantine=num_byzantine,
            samples_per_client=sizes or None,
            dim=dim,
            num_batches=num_batches,
            epsilon=epsilon,
            target_error=target_error,
            distance=distance,
            confidence=confidence,
            step_size=step_size,
            local_steps=local_steps,
        )
    except TypeError as error:  # a size is missing, or one too many given
        raise click.UsageError(_with_options(str(error))) from None
    times = None
    if latencies is not None:
        seconds = _latencies_of(latencies)
        times = time_to_target(made, seconds, quorum=quorum, timeout=timeout)
    elif quorum is not None or timeout is not None:
        raise click.UsageError("--quorum and --timeout need --latencies")
    if plot is not None:
        draw_trade_off(made, plot)
    if as_json:
        timed = {} if times is None else {"time_to_target": times.to_dict()}
        print(json.dumps(made.to_dict() | timed, indent=2))
    else:
        print_plan(made, Console(), times)


def _latencies_of(text: str) -> list[float]:
    """Return the seconds of each client of a text such as ``16x1,4x10``."""
    found = []
    for part in text.split(","):
        number, times, seconds = part.rpartition("x")
        try:
            found += [float(seconds)] * (int(number) if times else 1)
        except ValueError:
            raise click.UsageError(f"--latencies {part}: give such as 16x1,4x10") from None
    return found


def _with_options(text: str) -> str:
    """Name options as on the command line."""
    for name, option in _OPTIONS.items():
        text = text.replace(name, option)
    return text


_App = Annotated[Path, Argument(metavar="APP", help="A folder with pyproject.toml.")]
_Nodes = Annotated[int | None, Option(help="Clients; by default those of pyproject.toml, or 10.")]
_RunConfig = Annotated[str, Option(help="Overrides, in the form of flwr run.")]


@app.command("redteam")
def redteam_command(
    folder: _App,
    num_byzantine: Annotated[
        int | None, Option("--byzantine", "-q", help="Clients that attack; a fifth by default.")
    ] = None,
    nodes: _Nodes = None,
    rounds: Annotated[int | None, Option(help="Rounds; by default those of the app.")] = None,
    attack: Annotated[
        list[str] | None,
        Option("--attack", "-a", help='Such as "SignFlip(scale=10)"; by default six attacks.'),
    ] = None,
    run_config: _RunConfig = "",
    metric: Annotated[
        str | None, Option(help="The app's metric to compare; by default found by its name.")
    ] = None,
    higher_is_better: Annotated[
        bool | None, Option("--higher-is-better/--lower-is-better", help="Direction of the metric.")
    ] = None,
    seed: Annotated[int, Option(help="Seed of the Byzantine clients and of random attacks.")] = 0,
    results: Annotated[
        Path, Option(help="A folder; runs whose results it holds are not repeated.")
    ] = Path("results/redteam"),
    timeout: Annotated[float, Option(help="Seconds after which a run counts as hung.")] = 600.0,
) -> None:
    """Attack an unchanged Flower app, with its own strategy and with GeometricMedianOfMeans.

    Reports which attacks break either strategy, and what the swap costs in a clean run.
    """
    from .redteam import command, flower_app

    trial = command.Trial(
        app=flower_app.FlowerApp.read(folder),
        attacks=attack or command.DEFAULT_ATTACKS,
        num_nodes=nodes,
        num_byzantine=num_byzantine,
        num_rounds=rounds,
        run_config=run_config,
        seed=seed,
        timeout=timeout,
        metric=metric,
        higher_is_better=higher_is_better,
    )
    try:
        command.red_team(trial, results, Console())
    except KeyboardInterrupt:
        print("interrupted: the same command resumes where it stopped", file=sys.stderr)
        raise Exit(130) from None


@app.command("advise")
def advise_command(
    folder: _App,
    num_byzantine: Annotated[
        int | None,
        Option("--byzantine", "--num-byzantine", "-q", help="At most q; a fifth by default."),
    ] = None,
    trusted: Annotated[int, Option(help="Samples that the server itself has and trusts.")] = 0,
    nodes: _Nodes = None,
    run_config: _RunConfig = "",
    seed: Annotated[int, Option(help="Seed of the clients' draws.")] = 0,
    results: Annotated[
        Path, Option(help="A folder; a pilot that it holds is not repeated.")
    ] = Path("results/advise"),
    timeout: Annotated[float, Option(help="Seconds after which the pilot counts as hung.")] = 600.0,
) -> None:
    """Measure how unlike the clients of a Flower app are, and name the strategy for them.

    A pilot runs the app, unchanged, in a simulation: each client trains the first model twice.
    """
    from .redteam import advise, flower_app

    question = advise.Question(
        app=flower_app.FlowerApp.read(folder),
        num_nodes=nodes,
        num_byzantine=num_byzantine,
        num_trusted=trusted,
        run_config=run_config,
        seed=seed,
        timeout=timeout,
    )
    try:
        advise.answer(question, results, Console())
    except KeyboardInterrupt:
        raise Exit(130) from None


def print_plan(made: Plan, console: Console, times: TimeToTarget | None = None) -> None:
    """Print a plan as tables, with its time to target where that was asked for."""
    sizes = made.samples_per_client
    samples = sizes if isinstance(sizes, int) else f"{min(sizes)} to {max(sizes)}"
    console.print(
        f"m = {made.num_clients} clients with {samples} samples each, "
        f"q = {made.num_byzantine} of them Byzantine, d = {made.dim} parameters"
    )
    bound = made.guarantee
    if bound is None:
        needed = made.samples_for_guarantee and f"{made.samples_for_guarantee} samples a client"
        proved: list[_Row] = [("no bound", made.guarantee_fails), ("needed", needed)]
    else:
        proved = [
            ("error that may remain", bound.floor),
            ("factor of a round", bound.contraction),
            ("confidence", f"{bound.confidence:g}"),
        ]
    if made.local_steps is None:
        what = "twice an honest batch's norm" if bound is None else "no good batch is longer"
        mode: list[_Row] = [("trim norm τ", made.trim_norm, what)]
    else:
        mode = [("local steps", f"{made.local_steps}", "clients reply weights")]
    tables: dict[str, list[_Row]] = {
        "Settings": [
            ("batches k", f"{made.num_batches}", "each averages its clients' replies"),
            ("step η", made.step_size, "L/(2M²) unless given"),
            *mode,
            ("gap γ", made.gamma, "1/N, at most 0.0005"),
            ("rounds", made.rounds, "until a tenth of the error is left of ‖θ0 − θ*‖"),
        ],
        "Expected on linear regression with Gaussian features (no proof)": [
            ("error under the strongest attack", made.expected_error),
            ("error in a clean run", made.clean_error),
            ("factor of a round", made.expected_contraction),
            ("the paper's order √(dk/N)", made.error_rate),
            ("no method beats √(d/N)", made.minimax_rate),
        ],
        "Proved for it": proved,
    }
    if times is not None:
        tables["Time to target (no proof)"] = [
            _time("synchronous rounds", times.rounds, times.seconds_per_round, "round"),
            _time("asynchronous steps", times.steps, times.seconds_per_step, "step"),
            ("quorum of a step", f"{times.quorum}", "batches that have to hold a new reply"),
        ]
    for title, rows in tables.items():
        console.print(f"\n[bold]{title}")
        table = Table(show_header=False)
        for row in rows:
            table.add_row(*map(_cell, row))
        console.print(table)
    for heading, reasons in (
        ("The expected error is uncertain:", made.doubts),
        ("Better:", made.hints),
        ("Time:", () if times is None else times.hints),
    ):
        if reasons:
            console.print(f"\n[bold]{heading}", *(f"- {reason}" for reason in reasons), sep="\n")

    console.print("\n[bold]Trade-off over k")
    names = ("k", "error, attacked", "clean run", "√(dk/N)", "proved")
    curve = Table(*(Column(name, justify="right") for name in names))
    shown = made.trade_off[:: -ceil(len(made.trade_off) / _ROWS_SHOWN)]
    for point in made.trade_off:
        style = "bold" if point.num_batches == made.num_batches else None
        if point in shown or style:
            errors = point.expected_error, point.clean_error, point.error_rate, point.floor
            curve.add_row(f"{point.num_batches}", *map(_cell, errors), style=style)
    console.print(curve)


def draw_trade_off(made: Plan, path: Path) -> None:
    """Draw error over k to a file, in the format of its ending."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise click.UsageError("--plot needs Matplotlib: pip install 'flwr-byz[plots]'") from None
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, name, colour, style in (
        ("expected, strongest attack", "expected_error", "#D55E00", "-"),
        ("expected, clean run", "clean_error", "#0072B2", "-"),
        ("the paper's order √(dk/N)", "error_rate", "#666666", "--"),
        ("proved", "floor", "#009E73", ".-"),
    ):
        errors = {point.num_batches: getattr(point, name) for point in made.trade_off}
        drawn = [nan if error in (None, inf) else error for error in errors.values()]
        if not all(map(isnan, drawn)):
            axes.plot(list(errors), drawn, style, color=colour, label=label, linewidth=2.2)
    chosen = f"the plan, k = {made.num_batches}"
    axes.axvline(made.num_batches, color="#999999", linewidth=1, zorder=0, label=chosen)
    axes.set(yscale="log", xlabel="number of batches k", ylabel="error  ‖θ − θ*‖  (log scale)")
    size = f"m = {made.num_clients}, q = {made.num_byzantine}"
    if isinstance(made.samples_per_client, int):
        size += f", N/m = {made.samples_per_client}"
    axes.set_title(f"{size}, d = {made.dim}")
    axes.legend(frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--plot {path}: {error}") from None


def _time(name: str, number: int | None, seconds: float, unit: str) -> _Row:
    """Return the row of a mode in which a training takes that number of rounds or steps."""
    if number is None:
        return name, "never", None
    return name, f"{number * seconds:.3g} s", f"{number} {unit}s of {seconds:.3g} s"


def _cell(value: str | float | None) -> str:
    """Write a number with three digits, infinity as "no bound", None as a dash."""
    if value is None or isinstance(value, str):
        return value or "–"
    return "no bound" if value == inf else f"{value:.3g}"


def main() -> None:
    """Run the command; bad input gets one line on stderr and the exit code 2."""
    try:
        sys.exit(app(standalone_mode=False))
    except click.Abort:
        sys.exit(130)
    except (click.ClickException, ValueError) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"flwr-byz: {' '.join(text.split())}", file=sys.stderr)
        sys.exit(2)
