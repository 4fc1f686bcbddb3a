"""One picture an experiment: its measure round by round, a panel for each attack."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .results import RunResult

# Two colours that colour-blind readers tell apart (Okabe and Ito), and two line styles.
STYLES = {
    "fedavg": ("FedAvg", "#D55E00", "--"),
    "geometric-median-of-means": ("GeometricMedianOfMeans", "#0072B2", "-"),
}
TITLES = {
    "linear-regression": "Linear regression: distance from the true parameters",
    "digits": "Handwritten digits: accuracy on held-out images",
}
ATTACKS = {
    "none": "Nobody attacks",
    "sign-flip": "Sign flip × 10",
    "scale": "Scaled × 100",
    "gaussian-noise": "Gaussian noise, σ = 200",
    "constant": "Zeros",
    "label-flip": "Flipped labels",
    "model-replacement": "Model replacement",
    "inner-product-manipulation": "Inner product × −10",
    "small-inner-product-manipulation": "Inner product × −½",
    "a-little-is-enough": "A little is enough",
    "min-max": "Min-Max",
    "min-sum": "Min-Sum",
    "fang-trimmed-mean": "Fang: trimmed mean",
    "fang-krum": "Fang: Krum",
    "mimic": "Mimic",
    "batch-takeover": "Batch takeover",
    "adaptive": "Adaptive",
    "non-finite": "NaN",
    "malformed": "No model",
    "silent": "Silence",
}
DIVERGED = 1e9  # drawn at the edge of the picture


def draw(results: Sequence[RunResult], measure: str, path: Path) -> list[Path]:
    """Draw the runs of one experiment; return the PNG and the SVG written.

    Parameters
    ----------
    results : sequence of RunResult
        Of one experiment, any rules and attacks.
    measure : {"error", "accuracy"}
        Error is drawn on a logarithmic axis.
    path : Path
        Of the picture, without an ending.
    """
    attacks = list(dict.fromkeys(result.run.attack for result in results))
    figure, panels = plt.subplots(
        1, len(attacks), figsize=(3.4 * len(attacks), 4.0), sharey=True, squeeze=False
    )
    for panel, attack in zip(panels[0], attacks, strict=True):
        for result in results:
            if result.run.attack == attack:
                _line(panel, result, measure)
        panel.set_title(ATTACKS[attack], fontsize=11)
        panel.set_xlabel("round")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    first = panels[0][0]
    if measure == "error":
        first.set_yscale("log")
        drawn = np.minimum(np.concatenate([result.values for result in results]), DIVERGED)
        first.set_ylim(drawn.min() / 8, drawn.max() * 8)
        first.set_ylabel("error  ‖θ − θ*‖  (log scale)")
    else:
        first.set_ylim(0, 1.02)
        first.set_ylabel("accuracy")
    run = results[0].run
    byzantine = f"{run.num_byzantine} of {run.num_clients} clients are Byzantine"
    figure.suptitle(f"{TITLES[run.experiment]} — {byzantine}", fontsize=13)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=2, frameon=False, fontsize=11)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    paths = [path.with_suffix(ending) for ending in (".png", ".svg")]
    for picture in paths:
        undated = {"Date": None} if picture.suffix == ".svg" else {}
        figure.savefig(picture, dpi=150, metadata=undated)
    plt.close(figure)
    return paths


def _line(panel: Axes, result: RunResult, measure: str) -> None:
    label, colour, style = STYLES[result.run.rule]
    values = np.array(result.values)
    limit = DIVERGED if measure == "error" else 1.0
    diverged = not np.isfinite(values[-1]) or values[-1] >= DIVERGED
    values = np.minimum(values, limit)
    panel.plot(values, style, color=colour, label=label, linewidth=2.2)
    ours = result.run.rule == "geometric-median-of-means"
    number = _short(values[-1]) if measure == "error" else f"{values[-1]:.0%}"
    panel.annotate(
        "diverged" if diverged else number,
        (len(values) - 1, values[-1]),
        textcoords="offset points",
        xytext=(0, -13 if ours else 6),
        color=colour,
        ha="right",
        fontsize=10,
        fontweight="bold",
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
