"""The spectral filter: rows lose weight along the direction in which they spread the most."""

from dataclasses import dataclass
from math import inf, sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .bounds import filter_factor, resilience_factor
from .fast_median import combine
from .gram import Gram, distances_between, offset_products
from .row_map import RowMap, map_products, map_weights
from .rows import Rows
from .rule import Combination
from .threads import one_blas_thread

_CUT = 0.5  # of the weight of the row with the largest component
_ROUNDING = 1e-6  # of weights that are at most one
_SMALL, _LANCZOS = 64, 32  # rows, and steps for more of them
_NOTHING = 1e-14  # of a matrix whose entries are at most one


@dataclass(frozen=True)
class SpectralFilter:
    """The mean of the rows under weights that are cut where the rows spread the most.

    In each step, rows lose weight in proportion to their squared components along the top
    eigenvector of the rows' weighted covariance, the one with the largest loses half, until less
    than k − 2q of the weight k is left. Of all these weights, those are kept under which the
    weighted mean has the smallest variance, λ/W: λ the covariance's largest eigenvalue, W the
    weight left. A colluder that stays has to hide within the spread of the honest rows in every
    direction. The rule needs q: without it, the largest minority counts, which leaves a row or two.

    Where λ is above the squared radius of the smallest ball about a row that holds k − q rows, some
    row is farther off than k − q rows are spread, and the row with the largest component loses all
    its weight at once.

    Notes
    -----
    Filters of this kind are those of Diakonikolas, Kamath, Kane, Li, Moitra, Stewart 2017 ("Being
    Robust (in High Dimensions) Can Be Practical"), and of Su and Xu 2018 for gradient descent. The
    eigenvector is a combination of the rows, and so a k × k matrix gives it, whatever d. No bound
    on the honest rows' covariance is needed.

    The largest eigenvalue λ is measured in each round. The result is at most
    ``bound * (spread + σ)`` from the mean of any k − q rows, of which the honest ones are one
    choice, with ``spread = √λ``, σ² the largest eigenvalue of those rows' covariance, and the bound
    of `flwr_byz.aggregation.bounds.resilience_factor`. Before any row is seen, `filter_factor` of
    that module times σ bounds the same distance, for every q < k/2 and in any dimension.
    """

    needs_products: ClassVar[bool] = True

    def num_batches(self, num_clients: int, num_byzantine: int) -> int:
        """Return m: every client is a row, for the filter averages the rows that it keeps."""
        return num_clients

    def combine(
        self, rows: Rows, measured: Gram, row_map: RowMap, num_byzantine: int
    ) -> Combination:
        """Return the mean of the mapped rows under the filter's weights."""
        assert measured.products is not None
        with one_blas_thread(), np.errstate(all="ignore"):
            products = map_products(row_map, measured.products)
            weights, largest, iterations = filter_weights(products, num_byzantine)
            on_rows = map_weights(row_map, weights)
        return Combination(
            point=combine(rows, on_rows),
            weights=on_rows,
            bound=resilience_factor(weights, num_byzantine),
            iterations=iterations,
            spread=sqrt(largest),
        )

    def kappa(self, num_rows: int, num_byzantine: int) -> float:
        """Return the square of `filter_factor`: it holds of σ², which is at most that distance."""
        return filter_factor(num_rows, num_byzantine) ** 2

    def guarantee(self, num_rows: int, num_byzantine: int) -> str:
        """Say what the bound means."""
        return (
            "the result is within byz-bound times (byz-spread + σ) of the mean of the honest "
            "batches, where byz-spread is the standard deviation that is left along the direction "
            "of the largest one, and σ the largest of the honest batches"
        )


def filter_weights(
    products: NDArray[np.float64], num_byzantine: int
) -> tuple[NDArray[np.float64], float, int]:
    """Return weights (k,) of sum one, their covariance's largest eigenvalue, and the steps."""
    k = len(products)
    left, best, least, iterations = np.ones(k), np.full(k, 1 / k), inf, 0
    radius = _radius(products, k - num_byzantine)
    while num_byzantine and (size := left.sum()) >= k - 2 * num_byzantine - _ROUNDING:
        largest, scores = _top_direction(products, left / size)
        iterations += 1
        if largest / size < least:
            best, least = left / size, largest / size
        if not scores.max() > 0.0:
            break
        cut = 1.0 if sqrt(largest) > radius else _CUT
        left = left * (1 - cut * scores / scores.max())
        left[left < _ROUNDING] = 0.0  # also its equals, which rounding would leave a little
    scale, covariance, _ = _covariance(products, best)
    return best, scale * float(np.linalg.eigvalsh(covariance)[-1]), iterations


def _radius(products: NDArray[np.float64], num_rows: int) -> float:
    """Return the radius of the smallest ball about a row that holds so many rows."""
    distances = distances_between(products)
    return float(np.partition(distances, num_rows - 1, axis=1)[:, num_rows - 1].min())


def _covariance(
    products: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return a scale, the matrix (n, n) of the weighted covariance over it, and what makes it.

    With D the square roots of the n positive weights and C the inner products of the rows' offsets
    from their weighted mean, DCD has the eigenvalues of the covariance. The second matrix is CD.
    """
    active = weights > 0.0
    roots = np.sqrt(weights[active])
    products = products[np.ix_(active, active)]
    longest = float(products.diagonal().max()) or 1.0
    offsets = offset_products(products / longest, weights[active])  # no sum overflows
    scale = float(offsets.diagonal().max())
    offsets = offsets / scale if scale > 0.0 else np.zeros_like(offsets)  # no square overflows
    return longest * max(scale, 0.0), offsets * roots * roots[:, None], offsets * roots


def _top_direction(
    products: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the weighted covariance's largest eigenvalue, and squares along its eigenvector (k,).

    The components are ``C @ D @ u / √λ`` for the top eigenvector u of DCD; squares are over the
    scale, and rows without weight get zero.
    """
    scores = np.zeros(len(weights))
    scale, covariance, half = _covariance(products, weights)
    largest, vector = _top_eigenvector(covariance)
    if largest > 0.0:
        scores[weights > 0.0] = np.square(half @ vector) / largest
    return largest * scale, scores


def _top_eigenvector(matrix: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return nearly the largest eigenvalue of a positive semidefinite matrix, and its eigenvector.

    Of a large matrix by Lanczos' method with full orthogonalisation, from a vector that is always
    the same: k² work a step. A direction that spreads the rows nearly as much as any serves as well
    as the top one.
    """
    n, basis = len(matrix), np.eye(len(matrix))
    if n > _SMALL:
        basis = np.zeros((_LANCZOS, n))
        vector = matrix @ np.random.default_rng(0).standard_normal(n)
        for step in range(_LANCZOS):
            for _ in range(2):  # once leaves rounding where vectors are nearly dependent
                vector = vector - (basis[:step] @ vector) @ basis[:step]
            length = float(np.linalg.norm(vector))
            if not length > _NOTHING:
                break
            basis[step] = vector / length
            vector = matrix @ basis[step]
    values, vectors = np.linalg.eigh(basis @ matrix @ basis.T)
    return max(float(values[-1]), 0.0), vectors[:, -1] @ basis
