"""Plan a training: from m, q, N/m and d to its settings, its expected error and its guarantee."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt
from numbers import Integral
from typing import Any

import numpy as np

from ..checks import check_number
from .conditions import require_positive
from .constants import LINEAR_REGRESSION, Statistics
from .descent import step_size as step_size_of
from .plans import Plan
from .setting import Setting
from .sharp import Precision, gaussian_precision

_MOST_CLIENTS, _MOST_SAMPLES = 10**9, 10**15  # that are looked for


def plan(
    *,
    num_clients: int | None = None,
    num_byzantine: int | None = None,
    samples_per_client: int | Sequence[int] | None = None,
    dim: int,
    num_batches: int | None = None,
    epsilon: float | None = None,
    target_error: float | None = None,
    distance: float | None = None,
    confidence: float = 0.99,
    step_size: float | None = None,
    local_steps: int | None = None,
    statistics: Statistics | None = None,
    precision: Callable[[float], Precision] | None = None,
) -> Plan:
    """Choose k, τ, γ, η and the number of rounds, predict the error, and bound it.

    Parameters
    ----------
    num_clients, num_byzantine : int
        m and q, the most Byzantine clients in any one round.
    samples_per_client : int or sequence of m int
        N/m ≥ 1. Of different sizes, expected errors take the harmonic mean, the guarantee the
        smallest; they need m.
    dim : int
        d ≥ 1, the number of parameters.
    num_batches : int, optional
        k, from 2q + 1 to m; by default that of `epsilon`, or else the one of the least expected
        error, 1000 or 4q at most.
    epsilon : float, optional
        ε > 0 for the smallest k ≥ 2(1+ε)q, as of `aggregation.num_batches`.
    target_error : float, optional
        The expected error to reach. Leave out one of m, q and N/m, and the fewest clients, the most
        Byzantine ones or the fewest samples a client are found with which it is reached; or leave
        out none and no k, and the fewest batches are.
    distance : float, optional
        ‖θ0 − θ*‖ > 0, or a bound on it; √d by default (θ0 = 0, coordinates of θ* of size 1).
    confidence : float, default 0.99
        The probability of the guarantee.
    step_size : float, optional
        η < 2/M; L/(2M²) by default.
    local_steps : int, optional
        Full gradient steps of η that a client takes before it replies its weights. By default
        clients reply gradients, and the server steps.
    statistics : Statistics, optional
        Curvature, scatter and skewness of the problem's gradients, for the expected errors: by
        default those of linear regression. See `estimate_statistics`.
    precision : callable, optional
        Maps the number of samples of a batch to its `Precision`, for the guarantee. By default that
        of linear regression with Gaussian data, or with `statistics` no guarantee at all.

    Raises TypeError where an argument is missing or of a wrong kind, ValueError where one is out of
    range or the target cannot be reached.
    """
    sizes: dict[str, Any] = {
        "num_clients": num_clients,
        "num_byzantine": num_byzantine,
        "samples_per_client": samples_per_client,
    }
    missing = [name for name, size in sizes.items() if size is None]
    if len(missing) > (target_error is not None):
        raise TypeError(f"plan needs {' and '.join(missing)}; a target_error finds one of them")
    check_number("dim", dim, whole=True, least=1)
    check_number("confidence", confidence, above=0, below=1)
    scatter = LINEAR_REGRESSION if statistics is None else statistics
    if scatter.curvatures is not None and len(scatter.curvatures) != dim:
        raise ValueError(f"statistics are of {len(scatter.curvatures)} directions, dim is {dim}")
    distance = sqrt(dim) if distance is None else distance
    require_positive(distance=distance)
    step = step_size_of(scatter.L, scatter.M) if step_size is None else step_size
    check_number("step_size", step, above=0, below=2 / scatter.M)
    if local_steps is not None:
        check_number("local_steps", local_steps, whole=True, least=1)
    if statistics is None and precision is None:

        def precision(batch_samples: float) -> Precision:
            return gaussian_precision(batch_samples, dim)

    if "num_clients" in missing:  # to begin with
        check_number("num_byzantine", num_byzantine, whole=True, least=0, most=_MOST_CLIENTS // 3)
        check_number("samples_per_client", samples_per_client, whole=True, least=1)
        if num_batches is not None:
            check_number("num_batches", num_batches, whole=True, least=1)
        sizes["num_clients"] = max(2 * sizes["num_byzantine"] + 1, num_batches or 0)
    sizes |= dict.fromkeys({"num_byzantine"} & {*missing}, 0)
    sizes |= dict.fromkeys({"samples_per_client"} & {*missing}, 1)
    setting = Setting(
        **{name: _plain(size) for name, size in sizes.items()},
        dim=int(dim),
        num_batches=_plain(num_batches),
        epsilon=epsilon,
        distance=float(distance),
        confidence=float(confidence),
        step_size=float(step),
        local_steps=_plain(local_steps),
        statistics=scatter,
        precision=precision,
    )
    if target_error is not None:
        check_number("target_error", target_error, above=0)
        if not missing and num_batches is not None:
            raise TypeError("a target_error finds a size or num_batches: leave one of them out")
        setting = _reaching(target_error, setting, *(missing or ["num_batches"]))
    return setting.plan(setting.chosen_batches)


def _reaching(target: float, setting: Setting, name: str) -> Setting:
    """Return the setting that just reaches a target, with another value for what is named."""

    def having(size: int) -> Setting:
        changed: dict[str, Any] = {name: size}
        return replace(setting, **changed)

    def error(size: int) -> float:
        tried = having(size)
        return tried.expected_error(tried.chosen_batches)

    m, k = setting.num_clients, setting.num_batches
    least = 2 * setting.num_byzantine + 1
    sizes = {  # errors fall along each
        "num_clients": range(m, _MOST_CLIENTS + 1),
        "num_byzantine": range(((k or m) - 1) // 2, -1, -1),
        "samples_per_client": range(1, _MOST_SAMPLES + 1),
        "num_batches": range(least, setting.chosen_batches + 1),
    }[name]
    place = bisect_left(sizes, True, key=lambda size: error(size) <= target)
    if place == len(sizes):
        least_error = f"{name}={sizes[-1]} leaves {error(sizes[-1]):.4g}"
        raise ValueError(f"target_error={target:.4g} is out of reach: {least_error}")
    return having(sizes[place])


def _plain(size: Any) -> Any:
    """Return a size that may be one of NumPy's as an int, sizes as a tuple, others as they are."""
    if isinstance(size, np.ndarray):
        size = size.tolist()
    if isinstance(size, Integral) and not isinstance(size, bool):
        return int(size)
    is_many = isinstance(size, Sequence) and not isinstance(size, str)
    return tuple(map(_plain, size)) if is_many else size
