"""One picture of a trial: how training went, what each node did, whom that makes suspect."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

# Colours that colour-blind readers tell apart (Okabe and Ito).
REPLIES = {
    "used": "#56B4E9",
    "rejected": "#D55E00",
    "error": "#E69F00",
    "silent": "#999999",
    "not asked": "#FFFFFF",
}
HONEST, ATTACKS = "#56B4E9", "#D55E00"
_BELOW: dict[str, Any] = {
    "loc": "upper center",
    "bbox_to_anchor": (0.5, -0.18),
    "frameon": False,
    "fontsize": 8,
    "handlelength": 1.2,
}


def draw(
    rounds: Sequence[Mapping[str, Any]],
    node_ids: Sequence[int],
    byzantine: Collection[int],
    values: Sequence[float],
    measure: str,
    path: Path,
) -> None:
    """Draw a trial.

    Parameters
    ----------
    rounds : sequence
        The lines of its audit trail, the last one of each round.
    node_ids : sequence of int
        By number of the node.
    byzantine : collection of int
        The numbers of those that attack.
    values : sequence of float
        The measure after each round, from round 0 on.
    measure : str
    path : Path
        Of the picture to write.
    """
    clients = [[line["clients"].get(str(node), {}) for line in rounds] for node in node_ids]
    names = [f"node {number}" for number in range(len(node_ids))]
    height = 1.6 + 0.32 * len(node_ids)
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(12, max(height, 3.6)), width_ratios=[3, 3, 2]
    )
    left.plot(range(len(values)), values, "o-", color="#0072B2", linewidth=2)
    left.set(xlabel="round", ylabel=measure, title=f"{measure} after each round")
    left.set_ylim(bottom=0)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(alpha=0.25)
    left.spines[["top", "right"]].set_visible(False)
    _draw_replies(middle, rounds, clients)
    suspicions = [row[-1].get("suspicion") or 0.0 for row in clients]
    colours = [ATTACKS if number in byzantine else HONEST for number in range(len(names))]
    right.barh(range(len(names)), suspicions, color=colours)
    right.set(xlim=(0, 1), xlabel="suspicion, 0 to 1", title="after the last round")
    right.legend(
        handles=[Patch(color=ATTACKS, label="attacks"), Patch(color=HONEST, label="honest")],
        ncol=2,
        **_BELOW,
    )
    for panel in (middle, right):
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_replies(
    panel: Axes, rounds: Sequence[Mapping[str, Any]], clients: list[list[dict[str, Any]]]
) -> None:
    kinds = list(REPLIES)
    grid = [[kinds.index(entry.get("reply", "not asked")) for entry in row] for row in clients]
    numbers = [line["round"] for line in rounds]
    edges = np.arange(len(numbers) + 1) + numbers[0] - 0.5
    panel.pcolormesh(
        edges,
        np.arange(len(grid) + 1) - 0.5,
        grid,
        cmap=ListedColormap(list(REPLIES.values())),
        vmin=-0.5,
        vmax=len(kinds) - 0.5,
        edgecolor="white",
    )
    kept = [line["round"] for line in rounds if line["kept"]]
    panel.set(xlabel="round", title="replies" + (f" (model kept in {kept})" if kept else ""))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [Patch(facecolor=c, edgecolor="#999999", label=k) for k, c in REPLIES.items()]
    panel.legend(handles=handles, ncol=5, columnspacing=1.0, **_BELOW)
