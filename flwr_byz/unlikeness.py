"""How unlike the clients of a federation are, from a pilot, and the strategy that suits them.

Clients that train from one model reply differently for two reasons: each draws other samples (the
variance *within* a client), and their data differ (the variance *between* clients). Two replies of
each client from the same model tell them apart, as in an analysis of variance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .aggregation import num_batches
from .checks import check_number

Kind = Literal["alike", "moderately unlike", "strongly unlike", "unknown"]

ALIKE, STRONGLY_UNLIKE = 2.0, 20.0  # ratios below and above; measured: see docs/how-unlike.md
_REPEATED = 1e6  # a ratio above it: replies that differ by rounding alone, as on a GPU
_ENOUGH_TRUSTED = 50  # samples, as in the benchmark
_MEASURED_ALIKE, _MEASURED_UNLIKE = 0.4, 0.2  # Byzantine share of clients, in the benchmark
_FEW = 10  # clients
_BLOCK = 1 << 16  # coordinates at once
_HUGE = 1e200  # stands for a squared distance that overflows: as far away as can be


@dataclass(frozen=True)
class Unlikeness:
    """How unlike clients are; variances are summed over coordinates.

    Attributes
    ----------
    within : float
        Variance of one reply of a client about the client's own mean.
    between : float
        Variance of the clients' means about their common one; by chance below zero where clients
        are alike.
    ratio : float
        between / within; infinite where clients reply the same every time.
    least, most : float
        The ratio of the honest clients alone lies in between, whichever q of all are Byzantine.
    num_clients, num_byzantine : int
        m, of those whose replies are finite, and q.
    """

    within: float
    between: float
    ratio: float
    least: float
    most: float
    num_clients: int
    num_byzantine: int

    @property
    def kind(self) -> Kind:
        """What the ratio means; "unknown" where clients reply the same every time."""
        return kind_of(self.ratio)


@dataclass(frozen=True)
class Advice:
    """The strategy that suits the clients of a pilot.

    Attributes
    ----------
    strategy : str
        Lines of Python that make it.
    reasons : tuple of str
    doubts : tuple of str
        What is uncertain about it.
    """

    strategy: str
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]


def kind_of(ratio: float) -> Kind:
    """Return what a ratio of the variance between clients to that within them means."""
    if not ratio <= _REPEATED:
        return "unknown"
    if ratio < ALIKE:
        return "alike"
    return "moderately unlike" if ratio < STRONGLY_UNLIKE else "strongly unlike"


def measure_unlikeness(
    replies: Mapping[Any, Sequence[ArrayLike]] | ArrayLike, *, num_byzantine: int
) -> Unlikeness:
    """Measure how unlike clients are, up to q of whom may be Byzantine.

    Let d_ij be half the mean squared distance of a reply of client i from one of client j ≠ i, and
    w_i that of two replies of client i. Then w_i has the mean W_i, the variance within, and d_ij
    the mean ‖μ_i − μ_j‖²/2 + (W_i + W_j)/2. With the medians

        within = med_i w_i,    between = med_i med_{j≠i} d_ij − within,

    of which the nested one is that of the scale S_n (Rousseeuw, Croux 1993), colluders below half
    of the clients do not carry the ratio away. Means in place of the medians make the usual
    unbiased estimate: the variance of the clients' means less within/r, of r replies.

    `least` and `most` are exact: the medians of any m − q of m numbers lie between two order
    statistics of all. Where q ≥ m/3, colluders that reply from far away can make `most` infinite.

    Parameters
    ----------
    replies : mapping of clients to two vectors or more, or array (m, r, d) with r ≥ 2
        What clients reply after training from one model, all from the same one: weights or updates.
        A client with a reply that is not finite is left out.
    num_byzantine : int
        q.

    Raises
    ------
    ValueError
        Where a client has a single reply, lengths differ, all replies are equal, or no more than 2q
        clients are left.
    """
    check_number("num_byzantine", num_byzantine, whole=True, least=0)
    of_clients = _finite(replies)
    m, q = len(of_clients), num_byzantine
    if m <= max(2 * q, 1):
        needed = f"more than {max(2 * q, 1)} clients with finite replies"
        raise ValueError(f"a pilot with num_byzantine={q} needs {needed}, got {m}")
    own, others = _half_squared_distances(of_clients)
    rows = [_medians(np.delete(row, i), q) for i, row in enumerate(others)]
    within_least, within, within_most = _medians(own, q)
    least, middle, most = (
        _medians(np.array(column), q)[place]
        for place, column in enumerate(zip(*rows, strict=True))
    )
    if middle == 0:
        raise ValueError("the replies of most clients are equal: they do not train, or not apart")
    return Unlikeness(
        within=within,
        between=middle - within,
        ratio=_ratio(middle, within),
        least=_ratio(least, within_most),
        most=_ratio(most, within_least),
        num_clients=m,
        num_byzantine=q,
    )


def advise(
    found: Unlikeness,
    *,
    num_trusted: int = 0,
    api: Literal["serverapp", "server"] = "serverapp",
) -> Advice:
    """Return the strategy that suits clients as unlike as was found.

    It follows from the worst cases of a benchmark: digits, 20 clients.

    Parameters
    ----------
    found : Unlikeness
    num_trusted : int
        Samples that the server itself trusts.
    api : {"serverapp", "server"}
        The package whose strategy it is: of Flower's Message API, or of the classic one.
    """
    check_number("num_trusted", num_trusted, whole=True, least=0)
    m, q, kind = found.num_clients, found.num_byzantine, found.kind
    if kind == "alike" and 4 * q <= m:
        strategy = _code(api, "GeometricMedianOfMeans", f"num_byzantine={q}", 'trim_norm="auto"')
    else:
        options = ["rule=SpectralFilter()", f"num_byzantine={q}"]
        if num_trusted and kind in ("strongly unlike", "unknown"):
            options.append("server_update_fn=train_on_trusted")
        strategy = _code(api, "RobustFedAvg", *options)
    return Advice(strategy, _reasons(found, num_trusted), _doubts(found, num_trusted))


def _finite(replies: Mapping[Any, Sequence[ArrayLike]] | ArrayLike) -> list[NDArray[Any]]:
    """Return the replies (r, d) of each client all of whose replies are finite."""
    given = replies if isinstance(replies, Mapping) else dict(enumerate(np.asarray(replies)))
    found, dim = [], None
    for client, vectors in given.items():
        rows = [np.asarray(vector) for vector in vectors]
        if len(rows) < 2:
            raise ValueError(f"client {client!r} has {len(rows)} replies: a pilot needs two")
        for row in rows:
            if row.ndim != 1 or row.dtype.kind not in "fiu":
                what = f"an array of shape {row.shape} and dtype {row.dtype}"
                raise ValueError(f"client {client!r} replies {what}, no vector of real numbers")
            dim = len(row) if dim is None else dim
            if len(row) != dim:
                raise ValueError(f"client {client!r} replies {len(row)} numbers, others {dim}")
        if all(np.isfinite(row).all() for row in rows):
            found.append(np.stack(rows))
    return found


def _half_squared_distances(
    of_clients: Sequence[NDArray[Any]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return w (m,) and d (m, m), as in `measure_unlikeness`; the diagonal of d has no meaning."""
    sizes = np.array([len(rows) for rows in of_clients])
    products = np.zeros((sizes.sum(), sizes.sum()))
    with np.errstate(all="ignore"):  # what overflows is far away
        for start in range(0, of_clients[0].shape[1], _BLOCK):
            block = np.concatenate([rows[:, start : start + _BLOCK] for rows in of_clients])
            block = block.astype(np.float64)
            products += block @ block.T
        squares = products.diagonal()
        distances = squares[:, None] + squares - 2 * products
    distances = np.nan_to_num(distances.clip(0, _HUGE), nan=_HUGE)
    averages = np.repeat(np.diag(1 / sizes), sizes, axis=1)
    halves = averages @ distances @ averages.T / 2
    return halves.diagonal() * sizes / (sizes - 1), halves


def _medians(values: NDArray[np.float64], left_out: int) -> tuple[float, float, float]:
    """Return the least, the usual and the greatest median of all but some of the values."""
    ordered, kept = np.sort(values), len(values) - left_out
    low, high = (kept - 1) // 2, kept // 2
    least = ordered[[low, high]].mean()
    most = ordered[[low + left_out, high + left_out]].mean()
    return float(least), float(np.median(ordered)), float(most)


def _ratio(all_in_all: float, within: float) -> float:
    """Return (all − within) / within."""
    return all_in_all / within - 1 if within > 0 and all_in_all < _HUGE / 4 else inf


def _code(api: str, name: str, *options: str) -> str:
    lines = [f"from flwr_byz.{api}.strategy import {name}", ""]
    if name == "RobustFedAvg":
        lines.insert(0, "from flwr_byz.aggregation import SpectralFilter")
    return "\n".join([*lines, f"strategy = {name}(", *(f"    {o}," for o in options), ")"])


def _reasons(found: Unlikeness, num_trusted: int) -> tuple[str, ...]:
    m, q, kind = found.num_clients, found.num_byzantine, found.kind
    made = [f"No rule holds where half of the clients are Byzantine: of {m}, at most {(m - 1) // 2}."]
    if kind == "unknown":
        made.append("Where it is not known how unlike clients are, the spectral filter loses least.")
    elif kind == "alike":
        made.append("Clients are alike: one is hardly farther from another than chance explains.")
        if 4 * q <= m:
            k = num_batches(m, q)
            made.append(f"{k} batches follow from q = {q}; their median is the simplest rule.")
        else:
            made.append(f"4q is above m = {m}: then the spectral filter loses less than a median.")
    elif kind == "moderately unlike":
        made.append("Clients differ: the spectral filter loses least to the worst attack.")
    else:
        made.append("Clients differ strongly: an honest one looks much like a malicious one.")
        if num_trusted:
            made.append(
                "train_on_trusted(server_round, arrays) returns the model after a few steps on data "
                "that you trust: a yardstick that does not follow the many."
            )
        else:
            made.append(
                f"Without data that the server trusts, no rule holds well: about {_ENOUGH_TRUSTED} "
                "samples change that (--trusted)."
            )
    if num_trusted and kind in ("alike", "moderately unlike"):
        made.append("Trusted data gains little where clients are no more unlike than these.")
    return tuple(made)


def _doubts(found: Unlikeness, num_trusted: int) -> tuple[str, ...]:
    m, q, kind = found.num_clients, found.num_byzantine, found.kind
    made = []
    if kind == "unknown":
        made.append(
            "Clients reply the same each time, as where they train on all of their data: there is "
            "no chance to compare their differences with."
        )
    elif others := [o for o in map(kind_of, (found.least, found.most)) if o != kind]:
        made.append(
            f"The ratio is anything from {found.least:.2g} to {found.most:.2g}, by which {q} "
            f"clients are Byzantine: they may as well be {' or '.join(dict.fromkeys(others))}."
        )
    if m < _FEW:
        made.append(f"{m} clients are few to judge a federation by.")
    share = _MEASURED_ALIKE if kind == "alike" else _MEASURED_UNLIKE
    if q > share * m:
        made.append(f"For clients like these, at most {share:.0%} Byzantine ones were measured.")
    if 0 < num_trusted < _ENOUGH_TRUSTED and kind in ("strongly unlike", "unknown"):
        made.append(f"{num_trusted} trusted samples are fewer than the {_ENOUGH_TRUSTED} measured.")
    return tuple(made)
