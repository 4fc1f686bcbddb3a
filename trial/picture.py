"""One picture of a trial: how training went, what each node did, and how suspect that makes it."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from clients.problem import make_problem
from flwr_byz import audit
from flwr_byz.pages import BLUE, COLOURS, STYLE, VERMILION, save
from simulations.outcome import load

from .deployment import Deployment

ORANGE, SKY, GREY = *COLOURS[1:3], "#999999"
REPLIES = {"used": SKY, "rejected": VERMILION, "error": ORANGE, "silent": GREY}
REPLIES["not asked"] = "#FFFFFF"


def rounds_of(deployment: Deployment) -> list[dict[str, Any]]:
    """Read the audit trail: the last line of each round, where one was run again."""
    return list({line["round"]: line for line in audit.read(deployment.audit)}.values())


def draw(deployment: Deployment, attacking: Collection[int]) -> Path:
    """Draw a trial, in which some nodes attacked; return the path of the SVG."""
    with mpl.rc_context(STYLE):
        return save(_figure(deployment, attacking), deployment.folder / "trial")[1]


def _figure(deployment: Deployment, attacking: Collection[int]) -> Figure:
    rounds = rounds_of(deployment)
    clients = [[r["clients"].get(str(node), {}) for r in rounds] for node in deployment.node_ids]
    names = [f"node {number}" for number in range(len(clients))]
    figure = Figure(figsize=(12, max(1.6 + 0.32 * len(names), 3.6)))
    left, middle, right = figure.subplots(1, 3, width_ratios=[3, 3, 2])
    ((run, outcome),) = load(deployment.folder / "runs.jsonl").items()
    measure = make_problem(run.problem, run.num_clients, run.seed).measure
    left.plot(outcome.values, "o-", color=BLUE, linewidth=2)
    left.set(xlabel="round", ylabel=measure, title=f"{measure} after each round")
    left.set_ylim(bottom=0)
    _draw_replies(middle, rounds, clients)
    suspicions = [row[-1].get("suspicion") or 0.0 for row in clients]
    colours = [VERMILION if number in attacking else SKY for number in range(len(names))]
    right.barh(range(len(names)), suspicions, color=colours)
    right.set(xlim=(0, 1), xlabel="suspicion, 0 to 1", title="after the last round")
    _explain(right, {"attacks": VERMILION, "honest": SKY})
    for panel in (middle, right):
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
    middle.grid(False)
    for panel in (left, middle):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_replies(
    panel: Axes, rounds: list[dict[str, Any]], clients: list[list[dict[str, Any]]]
) -> None:
    kinds = list(REPLIES)
    grid = [[kinds.index(entry.get("reply", "not asked")) for entry in row] for row in clients]
    columns = np.arange(len(rounds) + 1) + rounds[0]["round"] - 0.5
    colours = ListedColormap(list(REPLIES.values()))
    edges = columns, np.arange(len(grid) + 1) - 0.5
    panel.pcolormesh(*edges, grid, cmap=colours, vmin=0, vmax=len(kinds) - 1, edgecolor="white")
    kept = [line["round"] for line in rounds if line["kept"]]
    panel.set(xlabel="round", title="replies" + (f" (model kept in {kept})" if kept else ""))
    _explain(panel, REPLIES)


def _explain(panel: Axes, colours: dict[str, str]) -> None:
    """Put a legend below a panel."""
    handles = [Patch(facecolor=c, edgecolor=GREY, label=name) for name, c in colours.items()]
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "ncols": len(handles)}
    panel.legend(handles=handles, fontsize=8, handlelength=1.2, **place)
