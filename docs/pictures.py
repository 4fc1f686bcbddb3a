"""Draw the pictures of the pages on attacks and rules, from the real classes.

``python docs/pictures.py FOLDER``; the site draws them when it is built.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from flwr.common import (
    Code,
    FitRes,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import strategy as flower
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from clients import peers
from flwr_byz import attacks
from flwr_byz.aggregation import (
    AdaptiveClipping,
    Bucketing,
    GeometricMedian,
    NearestNeighborMixing,
    SpectralFilter,
    geometric_median,
    geometric_median_of_means,
    num_batches,
    robust_mean,
    split_into_batches,
)
from flwr_byz.aggregation.pre_aggregation import PreAggregation
from flwr_byz.aggregation.rule import Rule as AggregationRule

Vectors = NDArray[np.float64]
Rule = Callable[[Vectors], Vectors]

m, q = 32, 4
k = num_batches(m, q)  # 16: two clients a batch
BYZANTINE = sorted(attacks.one_per_batch(m, q, k)(1))
HONEST = np.setdiff1d(np.arange(m), BYZANTINE)
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.hashsalt": "flwr-byz",
}
GREY, RED, ORANGE, BLUE = "0.6", "#c0392b", "#e67e22", "#1f5fa8"

_rng = np.random.default_rng(5)
_FEATURES = _rng.normal(size=(m, 24, 2))  # of 24 samples a client
_LABELS = _FEATURES @ np.array([-2.0, -1.0]) + 1.5 * _rng.normal(size=(m, 24))
_TRUSTED = _rng.normal(size=(50, 2))  # samples of the server's own
_TRUSTED_LABELS = _TRUSTED @ np.array([-2.0, -1.0]) + 1.5 * _rng.normal(size=50)
MODEL = np.zeros(2)


def gradients(labels: NDArray[np.float64]) -> Vectors:
    """Return each client's gradient of a linear regression at `MODEL`, (m, 2)."""
    residuals = _FEATURES @ MODEL - labels
    return np.asarray((_FEATURES * residuals[..., None]).mean(axis=1))


VECTORS = gradients(_LABELS)
MEAN = VECTORS[HONEST].mean(axis=0)
RADIUS = float(np.linalg.norm(VECTORS[HONEST] - MEAN, axis=1).mean())

ATTACKS: Mapping[str, attacks.Attack] = {
    "sign-flip": attacks.SignFlip(scale=2.0),
    "scale": attacks.Scale(scale=4.0),
    "gaussian-noise": attacks.GaussianNoise(scale=4.0),
    "constant": attacks.Constant(value=0.0),
    "label-flip": attacks.LabelFlip(),
    "inner-product-manipulation": attacks.InnerProductManipulation(epsilon=0.5),
    "a-little-is-enough": attacks.ALittleIsEnough(),
    "min-max": attacks.MinMax(),
    "min-sum": attacks.MinSum(),
    "mimic": attacks.Mimic(),
    "model-replacement": attacks.ModelReplacement(target=[0.25, -0.5]),
    "fang-trimmed-mean": attacks.FangTrimmedMean(),
    "fang-krum": attacks.FangKrum(),
    "batch-takeover": attacks.BatchTakeover(),
    "adaptive": attacks.Adaptive(),
    "hidden-shift": attacks.HiddenShift(),
}
"""Attacks that send vectors, with parameters for which the picture has room."""


def of_flower(strategy: flower.FedAvg) -> Rule:
    """Return what a strategy of Flower's makes of vectors, (m, d) to (d,)."""
    strategy.fit_metrics_aggregation_fn = dict  # otherwise each call logs a warning

    def rule(vectors: Vectors) -> Vectors:
        parameters = [ndarrays_to_parameters([vector]) for vector in vectors]
        replies = [FitRes(Status(Code.OK, ""), each, 1, {}) for each in parameters]
        aggregate, _ = strategy.aggregate_fit(1, [(None, reply) for reply in replies], [])
        return np.asarray(parameters_to_ndarrays(aggregate)[0])

    return rule


def means_median(vectors: Vectors, **options: object) -> Vectors:
    """Return the geometric median of the batch means."""
    return np.asarray(geometric_median_of_means(vectors, k, **options).point)


def own_gradient(model: Vectors) -> Vectors:
    """Return the gradient of the server's own samples."""
    return np.asarray(_TRUSTED.T @ (_TRUSTED @ model - _TRUSTED_LABELS) / len(_TRUSTED))


def own_loss(vector: Vectors) -> float:
    """Return the loss, on the server's own samples, after a step along a gradient."""
    return float(np.square(_TRUSTED @ (MODEL - vector) - _TRUSTED_LABELS).mean())


def server_last(vectors: Vectors) -> Vectors:
    """Return the geometric median, after which the server takes five steps on its own samples."""
    model = MODEL - geometric_median(vectors).point
    for _ in range(5):
        model = model - 0.2 * own_gradient(model)
    return np.asarray(MODEL - model)


def robustly(*entries: PreAggregation, rule: AggregationRule = GeometricMedian()) -> Rule:
    """Return a rule of the package's behind pre-aggregation, one row a client."""
    options = {"rule": rule, "pre_aggregation": entries, "num_byzantine": q}
    return lambda vectors: robust_mean(vectors, **options).point


RULES: Mapping[str, Rule] = {
    "FedAvg": of_flower(flower.FedAvg()),
    "geometric median": lambda vectors: geometric_median(vectors).point,
    "geometric median of means": means_median,
    "geometric median of means, trimmed": partial(means_median, trim_norm="auto", num_byzantine=q),
    "mixing, geometric median": robustly(NearestNeighborMixing()),
    "clipping, geometric median": robustly(AdaptiveClipping()),
    "buckets, geometric median": robustly(Bucketing(2)),
    "spectral filter": robustly(rule=SpectralFilter()),
    "geometric median, server last": server_last,
    "FedMedian": of_flower(flower.FedMedian()),
    "FedTrimmedAvg": of_flower(flower.FedTrimmedAvg(beta=q / m)),
    "Krum": of_flower(flower.Krum(num_malicious_clients=q)),
    "Multi-Krum": of_flower(flower.Krum(num_malicious_clients=q, num_clients_to_keep=m - q)),
    "Bulyan": of_flower(flower.Bulyan(num_malicious_clients=q, to_keep=0)),
    "mixing, trimmed mean": lambda vectors: peers.trimmed_mean(
        peers.nearest_neighbor_mixing(vectors, q), q
    ),
    "centred clipping": lambda vectors: peers.centered_clipping(
        vectors, np.zeros(2), radius=None, num_steps=3
    ),
    "FLTrust": lambda vectors: peers.fltrust(vectors, own_gradient(MODEL)),
    "FedGreed": lambda vectors: peers.fedgreed(vectors, own_loss),
}


def attacked(attack: attacks.Attack) -> Vectors:
    """Return the vectors of all clients under an attack, (m, 2)."""
    vectors, flipped = VECTORS.copy(), gradients(-_LABELS)
    for client in BYZANTINE:
        knowledge = attacks.Knowledge(
            own=VECTORS[client],
            num_clients=m,
            num_byzantine=q,
            rng=np.random.default_rng(client),
            honest=VECTORS[HONEST],
            client=client,
            byzantine=BYZANTINE,
            model=MODEL,
            batches=split_into_batches(range(m), k),
            rule=means_median,
            relabelled=lambda client=client: flipped[client],
            uses_gradients=True,
        )
        vectors[client] = attack(knowledge)
    return vectors


def draw_cloud(axes: Axes, vectors: Vectors) -> None:
    """Draw what honest and Byzantine clients send, and the honest mean."""
    axes.scatter(*vectors[HONEST].T, s=14, color=GREY, label="honest clients send")
    axes.scatter(*vectors[BYZANTINE].T, s=32, color=RED, marker="x", label="Byzantine clients send")
    axes.scatter(*MEAN, s=70, color="black", marker="+", label="honest mean", zorder=3)
    axes.set_aspect("equal", adjustable="datalim")


def draw_attack(attack: attacks.Attack) -> Figure:
    """Draw the cloud under an attack, and what two rules make of it."""
    figure, axes = plt.subplots(figsize=(5.2, 2.9))
    vectors = attacked(attack)
    draw_cloud(axes, vectors)
    mean, median = vectors.mean(axis=0), means_median(vectors)
    axes.scatter(*mean, s=36, color=ORANGE, marker="s", label="mean of all", zorder=3)
    label = "geometric median of means"
    axes.scatter(*median, s=36, color=BLUE, marker="D", label=label, zorder=3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def moved_by(rule: Rule, distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the aggregate is from the honest mean, for colluders at each distance."""
    direction = np.array([-0.6, 0.8]) * RADIUS
    vectors, moved = VECTORS.copy(), []
    for distance in distances:
        vectors[BYZANTINE] = MEAN + distance * direction
        moved.append(np.linalg.norm(rule(vectors) - MEAN) / RADIUS)
    return np.asarray(moved)


def draw_rule(name: str, curves: Mapping[str, NDArray[np.float64]], far: Vectors) -> Figure:
    """Draw where a rule puts the aggregate, and how far colluders can move it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.7), width_ratios=[1, 1.25])
    left.scatter(*VECTORS[HONEST].T, s=14, color=GREY, label="honest clients")
    left.scatter(*far[BYZANTINE].T, s=32, color=RED, marker="x", label="4 colluders")
    left.scatter(*MEAN, s=70, color="black", marker="+", label="honest mean", zorder=3)
    left.scatter(*RULES[name](far), s=36, color=BLUE, marker="D", label="aggregate", zorder=3)
    left.set_aspect("equal", adjustable="datalim")
    left.legend(loc="upper right")
    for other, moved in curves.items():
        is_this = other == name
        right.plot(DISTANCES, moved, color=BLUE if is_this else "0.85", lw=2 if is_this else 1)
        right.lines[-1].set_zorder(3 if is_this else 2)
    right.set(ylim=(0, 1.6), xlabel="distance of the colluders from the honest mean")
    right.set(ylabel="distance of the aggregate", title=name)
    return figure


DISTANCES = np.linspace(0.0, 16.0, 33)


def draw_malformed() -> Figure:
    """Draw the arrays of a model, and what each kind of `Malformed` makes of them."""
    model = [np.zeros((4, 3), np.float32), np.zeros(3, np.float32)]
    kinds = ["shape", "count", "dtype", "overflow", "empty", "bytes"]
    made = {"model": model}
    for kind in kinds:
        made[kind] = attacks.Malformed(kind=kind).corrupt(model, np.random.default_rng(0))
    figure, axes = plt.subplots(figsize=(6.4, 2.4))
    for row, (kind, arrays) in enumerate(made.items()):
        axes.text(-0.1, -row, kind, ha="right", va="center", color=RED if row else "black")
        for column, array in enumerate(arrays):
            axes.add_patch(Rectangle((2 * column, -row - 0.35), 1.9, 0.7, color="0.92"))
            text = f"{array.shape} {array.dtype}" + (" 1e300" if kind == "overflow" else "")
            axes.text(2 * column + 0.95, -row, text, ha="center", va="center")
    axes.set(xlim=(-1, 6), ylim=(-len(made) + 0.4, 0.6))
    axes.axis("off")
    return figure


def draw_schedules() -> Figure:
    """Draw who is Byzantine in each of ten rounds."""
    schedules = {
        "Fixed({2, 7, 11, 16})": attacks.Fixed({2, 7, 11, 16}),
        "FreshEachRound(20, 4)": attacks.FreshEachRound(20, 4),
        "Rotating(20, 4)": attacks.Rotating(20, 4),
        "one_per_batch(20, 4, 10)": attacks.one_per_batch(20, 4, 10),
        "packed(20, 4)": attacks.packed(20, 4),
    }
    figure, columns = plt.subplots(1, len(schedules), figsize=(8.4, 2.4), sharey=True)
    for axes, (name, schedule) in zip(columns, schedules.items(), strict=True):
        grid = np.zeros((20, 10))
        for server_round in range(1, 11):
            grid[sorted(schedule(server_round)), server_round - 1] = 1.0
        axes.imshow(grid, cmap="Reds", vmin=0, vmax=1.4, aspect="auto", origin="lower")
        axes.set_title(name, fontsize=6.5)
        axes.set_xlabel("round")
        axes.set(xticks=[0, 9], xticklabels=["1", "10"], yticks=range(0, 20, 2))
    columns[0].set_ylabel("client")
    return figure


def draw_all(folder: Path) -> None:
    """Draw every picture into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)

    def save(figure: Figure, name: str) -> None:
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)

    with mpl.rc_context(STYLE):
        for name, attack in ATTACKS.items():
            save(draw_attack(attack), name)
        save(draw_malformed(), "malformed")
        save(draw_schedules(), "schedules")
        curves = {name: moved_by(rule, DISTANCES) for name, rule in RULES.items()}
        far = VECTORS.copy()
        far[BYZANTINE] = MEAN + 3.0 * np.array([-0.6, 0.8]) * RADIUS
        for name in RULES:
            save(draw_rule(name, curves, far), name.replace(",", "").replace(" ", "-").lower())


if __name__ == "__main__":
    mpl.use("agg")
    draw_all(Path(sys.argv[1]))
