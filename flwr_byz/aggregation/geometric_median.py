"""The (1+γ)-approximate geometric median (the paper's equation 6), with a certificate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_number, wrong_value
from .batches import num_batches
from .bounds import c_alpha, certified_c_alpha, sharp_c_alpha
from .careful import Median, careful_median
from .fast_median import combine, fast_median
from .gram import Gram, gram
from .row_map import RowMap, map_products, map_weights, select, selects
from .rows import ReplyRows, Rows, StoredRows
from .rule import Combination
from .threads import one_blas_thread
from .vectors import Vectors, as_vectors, check_finite

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_GAMMA, _GAMMA_MIXED = 1e-9, 1e-5


def geometric_median(
    points: ArrayLike | Sequence[ArrayLike],
    weights: ArrayLike | None = None,
    *,
    gamma: float = 1e-9,
) -> Median:
    """Compute a (1+γ)-approximate geometric median.

    It minimises ``sum(weights[i] * norm(z - points[i]))`` over z, to a certified relative gap of at
    most γ. Where the minimiser is not unique (collinear points) it is one of them. Arbitrary points
    with a share α < 1/2 of the weight move the median by at most (1 − α)/√(1 − 2α) times the radius
    of the others.

    Parameters
    ----------
    points : array-like (n, d) or sequence of n equal-length vectors
        Real, finite, any float or integer dtype; n ≥ 1. An array (n, d) is not copied. Points in
        float32 are processed in float32 where that certifies γ, all others in float64.
    weights : array-like (n,), optional
        Nonnegative masses of the points, not all zero; equal by default.
    gamma : float, default 1e-9
        γ > 0, the required gap. Below about 1e-13 rounding decides; compare the returned gap.

    Raises ValueError where a point is not finite, not real or of another length (the message names
    its row), a weight is negative or not finite, or γ is not positive.

    Notes
    -----
    One pass over the data forms the inner products of the points, Weiszfeld's fixed point on their
    n × n matrix finds the weights, and one more pass forms the combination and measures the
    distances from it, which certify it by the strong convexity of the objective. Where that fails
    (the median is one of the points, points are collinear, cancellation destroys the inner
    products), the same is done in float64 with Newton's method and weak duality.

    Examples
    --------
    >>> import numpy as np
    >>> from flwr_byz.aggregation import geometric_median
    >>> points = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0], [0.0, 1e9]])
    >>> bool(np.linalg.norm(geometric_median(points).point) < 2)
    True
    """
    vectors = as_vectors(points, "points")
    check_number("gamma", gamma, above=0)
    mass = _as_mass(weights, len(vectors))
    share = mass[mass > 0] / mass.max()
    share /= share.sum()
    rows = _as_rows(vectors)
    measured = gram(rows)
    if not measured.finite.all():
        check_finite(vectors, "points")
    median = median_of_rows(rows, share, gamma, select(mass > 0), measured)
    with np.errstate(over="ignore"):
        objective = float(np.float64(median.objective) * mass.sum())
    point = median.point.astype(np.float64, copy=False)
    return Median(point, objective, median.gap, median.residual, median.weights, median.iterations)


@dataclass(frozen=True)
class GeometricMedian:
    """The rule of the paper: the (1+γ)-approximate geometric median of the rows, certified.

    Parameters
    ----------
    gamma : float, optional
        γ > 0, the largest gap. By default 1e-9, and 1e-5 for rows in float32 that pre-aggregation
        mixes: these lie so close together that a smaller gap takes more passes over the data.

    Raises ValueError where `gamma` is out of range.
    """

    gamma: float | None = None

    needs_products: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.gamma is not None:
            check_number("gamma", self.gamma, above=0)

    def num_batches(self, num_clients: int, num_byzantine: int) -> int:
        """Return the paper's k, at least 4q."""
        return num_batches(num_clients, num_byzantine)

    def combine(
        self, rows: Rows, measured: Gram, row_map: RowMap, num_byzantine: int
    ) -> Combination:
        """Return the median of the mapped rows; its bound is `certified_c_alpha`."""
        num_rows = len(rows) if row_map is None else len(row_map)
        alpha = num_byzantine / num_rows
        mass, gamma = np.full(num_rows, 1 / num_rows), self.gamma or _GAMMA
        if row_map is not None and not selects(row_map):
            row_map, counts = np.unique(row_map, axis=0, return_counts=True)
            mass = counts / num_rows  # rows with the same neighbours are one
            if self.gamma is None and rows.dtype == _FLOAT32:
                gamma = _GAMMA_MIXED
            heaviest = int(np.argmax(counts))
            if mass[heaviest] > 0.5:  # then it is the median, exactly
                weights = row_map[heaviest]
                return Combination(
                    combine(rows, weights), weights, sharp_c_alpha(alpha), 0, gap=0.0, residual=0.0
                )
        median = median_of_rows(rows, mass, gamma, row_map, measured)
        doubt = ""
        if median.gap > gamma:
            gap = f"the geometric median is certified to a gap of {median.gap:.2g} only"
            doubt = f"{gap}, not gamma={gamma:.2g}"
        holds = median.residual < 1 - 2 * alpha
        return Combination(
            point=median.point,
            weights=median.weights,
            bound=certified_c_alpha(alpha, median.residual) if holds else inf,
            iterations=median.iterations,
            gap=median.gap,
            residual=median.residual,
            doubt=doubt,
        )

    def kappa(self, num_rows: int, num_byzantine: int) -> float:
        """Return 4(1 + q/(k − 2q))² (Allouah et al. 2023, "Fixing by Mixing")."""
        return 4 * (1 + num_byzantine / (num_rows - 2 * num_byzantine)) ** 2

    def guarantee(self, num_rows: int, num_byzantine: int) -> str:
        """Say what Lemma 1 says of so many rows, and what the sharp factor is."""
        alpha = num_byzantine / num_rows
        return (
            f"an exact median is within {c_alpha(alpha):.3g} times the largest honest batch's "
            f"distance from the true one (the paper's Lemma 1), and within "
            f"{sharp_c_alpha(alpha):.3g} times it (Minsker 2015, Lemma 2.1); byz-bound is the "
            "factor of each round's own median"
        )


def median_of_rows(
    rows: Rows,
    mass: NDArray[np.float64],
    gamma: float,
    row_map: RowMap,
    measured: Gram,
) -> Median:
    """Find the geometric median of the k' mapped rows ``row_map @ rows``, to a gap of γ.

    Rows that `row_map` uses are finite; `mass` (k',) is positive and sums to one. `measured` is the
    `gram` of the rows. The returned weights are those of the rows (k,).
    """
    if rows.dim == 0:
        weights = map_weights(row_map, mass)
        return Median(np.zeros(0), 0.0, gap=0.0, residual=0.0, weights=weights, iterations=0)
    with one_blas_thread(), np.errstate(all="ignore"):
        median, products = None, measured.products
        if products is not None:
            products = map_products(row_map, products)
            median = fast_median(rows, mass, gamma, row_map, products, measured.norms)
        if median is None or not median.gap <= gamma:
            median = careful_median(rows, mass, gamma, row_map, products)
    return replace(median, weights=map_weights(row_map, median.weights))


def _as_rows(vectors: Vectors) -> Rows:
    if isinstance(vectors, np.ndarray) and vectors.dtype in (_FLOAT32, _FLOAT64):
        return StoredRows(vectors)
    all_float32 = all(row.dtype == _FLOAT32 for row in vectors)
    return ReplyRows([(row,) for row in vectors], _FLOAT32 if all_float32 else _FLOAT64)


def _as_mass(weights: ArrayLike | None, num_points: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(num_points)
    mass = np.asarray(weights, dtype=np.float64)
    if mass.shape != (num_points,):
        raise ValueError(f"weights must have shape ({num_points},), got {mass.shape}")
    if not (np.isfinite(mass).all() and (mass >= 0).all() and mass.any()):
        raise wrong_value("weights", "nonnegative, finite and not all zero", weights)
    return mass
