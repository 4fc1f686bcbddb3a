"""How unlike the clients of a federation are, from a pilot, and the strategy that suits them.

Clients that train from one model reply differently for two reasons: each draws other samples (the
variance *within* a client), and their data differ (the variance *between* clients). Two replies of
each client to the same model tell them apart, as in an analysis of variance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .aggregation import num_batches
from .checks import check_choice, check_number

Kind = Literal["alike", "moderately unlike", "strongly unlike"]

# Between the values measured on digits, of any batch size: see docs/how-unlike.md.
ALIKE_RATIO, ALIKE_SHARE = 2.0, 0.36  # below one of them
STRONG_RATIO, STRONG_SHARE = 10.0, 0.95  # above both

_ENOUGH_TRUSTED = 50  # samples, as in the benchmark
_MEASURED_ALIKE, _MEASURED_UNLIKE = 0.4, 0.2  # Byzantine share of clients, in the benchmark
_FEW = 10  # clients
_BLOCK = 1 << 16  # coordinates at once
_HUGE = 1e200  # stands for a square that overflows


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
    share : float
        between in units of the squared length of a reply: what of it is due to whose it is.
    ratios, shares : (float, float)
        The limits within which both are for the honest clients alone, whichever q of all the
        clients are Byzantine.
    num_clients, num_byzantine : int
        m, of those whose replies are finite, and q.
    """

    within: float
    between: float
    ratio: float
    share: float
    ratios: tuple[float, float]
    shares: tuple[float, float]
    num_clients: int
    num_byzantine: int

    @property
    def kind(self) -> Kind:
        """What ratio and share mean."""
        return kind_of(self.ratio, self.share)


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


def kind_of(ratio: float, share: float) -> Kind:
    """Return what a ratio and a share, as in `Unlikeness`, mean together.

    The ratio grows with clients' batches and local steps; the share grows as a model nears its
    optimum, where all that is left of a reply is its difference from others. So clients are alike
    where one of the two says so, and strongly unlike where both do.
    """
    if ratio < ALIKE_RATIO or share < ALIKE_SHARE:
        return "alike"
    is_strong = ratio > STRONG_RATIO and share > STRONG_SHARE
    return "strongly unlike" if is_strong else "moderately unlike"


def measure_unlikeness(
    updates: Mapping[Any, Sequence[ArrayLike]] | ArrayLike, *, num_byzantine: int
) -> Unlikeness:
    """Measure how unlike clients are, up to q of whom may be Byzantine.

    Let d_ij be half the mean squared distance of an update of client i from one of client j ≠ i,
    w_i that of two updates of client i, and l_i the mean squared length of its updates. Then w_i
    has the mean W_i, the variance within, and d_ij the mean ‖μ_i − μ_j‖²/2 + (W_i + W_j)/2. With
    medians,

        within = med_i w_i,  between = med_i med_{j≠i} d_ij − within,  share = between / med_i l_i,

    of which the nested one is that of the scale S_n (Rousseeuw, Croux 1993): a minority of
    colluders carries none of them away. With means in their place, between is the usual unbiased
    estimate: the variance of the clients' means less within/r, of r updates each.

    The limits are exact: the median of any m − q of m numbers lies between two of their order
    statistics. From q ≥ m/3 on, colluders that reply from far away can make the upper ones
    infinite.

    Parameters
    ----------
    updates : mapping of clients to two vectors or more, or array (m, r, d) with r ≥ 2
        Trained weights less those of the model that clients were sent: the same to all of them,
        each time. Or gradients. A client with an update that is not finite is left out.
    num_byzantine : int
        q.

    Raises
    ------
    ValueError
        Where a client has a single update, lengths differ, no more than 2q clients are left, or
        most of the updates are equal.
    """
    check_number("num_byzantine", num_byzantine, whole=True, least=0)
    of_clients = _finite(updates)
    m, q = len(of_clients), num_byzantine
    if m <= max(2 * q, 1):
        needed = f"more than {max(2 * q, 1)} clients with finite updates"
        raise ValueError(f"a pilot with num_byzantine={q} needs {needed}, got {m}")
    own, others, lengths = _squares(of_clients)
    rows = [_medians(np.delete(row, i), q) for i, row in enumerate(others)]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    apart = [_medians(column, q)[place] for place, column in enumerate(columns)]
    within, length = _medians(own, q), _medians(lengths, q)
    if apart[1] == 0:
        raise ValueError("most updates are equal: clients do not train, or all send one mean")
    between = [apart[0] - within[2], apart[1] - within[1], apart[2] - within[0]]
    return Unlikeness(
        within=within[1],
        between=between[1],
        ratio=_quotient(between[1], within[1]),
        share=_quotient(between[1], length[1]),
        ratios=_limits(between, within),
        shares=_limits(between, length),
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
    check_choice("api", api, ("serverapp", "server"))
    q, kind = found.num_byzantine, found.kind
    if kind == "alike" and 4 * q <= found.num_clients:
        strategy = _code(api, "GeometricMedianOfMeans", f"num_byzantine={q}", 'trim_norm="auto"')
    else:
        options = ["rule=SpectralFilter()", f"num_byzantine={q}"]
        if num_trusted and kind != "alike":
            options.insert(1, "pre_aggregation=[FilteredClipping()]")
            options.append("server_update_fn=train_on_trusted")
        strategy = _code(api, "RobustFedAvg", *options)
    return Advice(strategy, _reasons(found, num_trusted), _doubts(found, num_trusted))


def _finite(updates: Mapping[Any, Sequence[ArrayLike]] | ArrayLike) -> list[NDArray[Any]]:
    """Return the updates (r, d) of each client all of whose updates are finite."""
    given = updates if isinstance(updates, Mapping) else dict(enumerate(np.asarray(updates)))
    found, dim = [], None
    for client, vectors in given.items():
        rows = [np.asarray(vector) for vector in vectors]
        if len(rows) < 2:
            raise ValueError(f"client {client!r} has {len(rows)} updates: a pilot needs two of it")
        for row in rows:
            if row.ndim != 1 or row.dtype.kind not in "fiu":
                what = f"shape {row.shape} and dtype {row.dtype}"
                raise ValueError(f"client {client!r} has an update of {what}, no real vector")
            dim = len(row) if dim is None else dim
            if len(row) != dim:
                raise ValueError(f"client {client!r} has {len(row)} numbers, others have {dim}")
        if all(np.isfinite(row).all() for row in rows):
            found.append(np.stack(rows))
    return found


def _squares(
    of_clients: Sequence[NDArray[Any]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return w (m,), d (m, m) and l (m,) of `measure_unlikeness`; d's diagonal has no meaning."""
    sizes = np.array([len(rows) for rows in of_clients])
    products = np.zeros((sizes.sum(), sizes.sum()))
    with np.errstate(all="ignore"):
        for start in range(0, of_clients[0].shape[1], _BLOCK):
            block = np.concatenate([rows[:, start : start + _BLOCK] for rows in of_clients])
            block = block.astype(np.float64)
            products += block @ block.T
        squares = products.diagonal()
        distances = squares[:, None] + squares - 2 * products
    distances, squares = (np.nan_to_num(a.clip(0, _HUGE), nan=_HUGE) for a in (distances, squares))
    np.fill_diagonal(distances, 0)
    averages = np.repeat(np.diag(1 / sizes), sizes, axis=1)
    halves = averages @ distances @ averages.T / 2
    return halves.diagonal() * sizes / (sizes - 1), halves, averages @ squares


def _medians(values: NDArray[np.float64], left_out: int) -> tuple[float, float, float]:
    """Return the least median of all but some of the values, the median of all, the greatest."""
    ordered, kept = np.sort(values), len(values) - left_out
    low, high = (kept - 1) // 2, kept // 2
    least = ordered[[low, high]].mean()
    most = ordered[[low + left_out, high + left_out]].mean()
    return float(least), float(np.median(ordered)), float(most)


def _limits(between: Sequence[float], unit: Sequence[float]) -> tuple[float, float]:
    """Return the least and the greatest quotient of numbers within limits, the unit positive."""
    least = min(_quotient(between[0], unit[0]), _quotient(between[0], unit[2]))
    most = max(_quotient(between[2], unit[0]), _quotient(between[2], unit[2]))
    return least, most


def _quotient(between: float, unit: float) -> float:
    """Return a quotient, infinite where there is no unit or `between` stands for infinity."""
    if abs(between) > _HUGE / 100:
        return inf if between > 0 else -inf
    return between / unit if unit > 0 else inf


def _code(api: str, name: str, *options: str) -> str:
    lines = [f"from flwr_byz.{api}.strategy import {name}", ""]
    if name == "RobustFedAvg":
        clips = any("FilteredClipping" in option for option in options)
        names = "FilteredClipping, SpectralFilter" if clips else "SpectralFilter"
        lines.insert(0, f"from flwr_byz.aggregation import {names}")
    return "\n".join([*lines, f"strategy = {name}(", *(f"    {o}," for o in options), ")"])


def _reasons(found: Unlikeness, num_trusted: int) -> tuple[str, ...]:
    m, q, kind = found.num_clients, found.num_byzantine, found.kind
    made = [
        f"No rule holds where half of the clients are Byzantine: of {m}, at most {(m - 1) // 2}."
    ]
    if kind == "alike":
        made.append("Clients are alike: what they agree on, or chance, outweighs whose data it is.")
        if 4 * q <= m:
            k = num_batches(m, q)
            made.append(f"k = {k} batches follow from q = {q}; their median is the simplest rule.")
        else:
            made.append(f"4q is above m = {m}: then the spectral filter loses less than a median.")
    elif kind == "moderately unlike":
        made.append(
            "Clients differ: what passes the spectral filter has to hide within the honest spread "
            "in every direction."
        )
    else:
        made.append("Clients differ strongly: an honest one looks much like a malicious one.")
    if num_trusted and kind == "alike":
        made.append("Trusted data gains little where clients are alike.")
    elif num_trusted:
        made.append(
            "train_on_trusted(server_round, arrays) returns the model after a few steps on "
            "data that you trust: a yardstick that does not follow the many."
        )
    elif kind == "strongly unlike":
        made.append(
            "Without data that the server trusts, no rule holds well here; on digits, "
            f"{_ENOUGH_TRUSTED} trusted samples changed that (--trusted)."
        )
    elif kind == "moderately unlike":
        made.append("The less alike clients are, the more trusted data gain (--trusted).")
    made.append("It takes the options of Flower's FedAvg: keep those of your own strategy.")
    return tuple(made)


def _doubts(found: Unlikeness, num_trusted: int) -> tuple[str, ...]:
    m, q, kind = found.num_clients, found.num_byzantine, found.kind
    made = []
    limits = zip(found.ratios, found.shares, strict=True)
    others = dict.fromkeys(each for each in (kind_of(*limit) for limit in limits) if each != kind)
    if others:
        made.append(
            f"Depending on which {q} clients are Byzantine, those that are not may as well be "
            f"{' or '.join(others)}."
        )
    if m < _FEW:
        made.append(f"{m} clients are few to judge a federation by.")
    if found.within == 0:
        made.append(
            "Clients reply the same twice, by full batches or a seed of their own: the ratio has "
            "no meaning, and the share alone decides."
        )
    share = _MEASURED_ALIKE if kind == "alike" else _MEASURED_UNLIKE
    if q > share * m:
        made.append(f"For clients like these, at most {share:.0%} Byzantine ones were measured.")
    if 0 < num_trusted < _ENOUGH_TRUSTED and kind != "alike":
        made.append(f"{num_trusted} trusted samples are fewer than the {_ENOUGH_TRUSTED} measured.")
    return tuple(made)
