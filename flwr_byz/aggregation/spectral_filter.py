"""The spectral filter: rows lose weight along the direction in which they spread the most."""

from dataclasses import dataclass
from math import inf, sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .bounds import resilience_factor
from .fast_median import combine
from .gram import Gram, distances_between, offset_products
from .row_map import RowMap, map_products, map_weights
from .rows import Rows
from .rule import Combination
from .threads import one_blas_thread

_CUT = 0.5  # of the weight of the row with the largest component
_ROUNDING = 1e-6  # of weights that are at most one


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
    row is farther off than k − q rows are spread, and the one with the largest component loses all
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
    of `flwr_byz.aggregation.bounds.resilience_factor`.
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
            weights, largest, iterations = _filter(products, num_byzantine)
            on_rows = map_weights(row_map, weights)
        return Combination(
            point=combine(rows, on_rows),
            weights=on_rows,
            bound=resilience_factor(weights, num_byzantine),
            iterations=iterations,
            spread=sqrt(largest),
        )

    def kappa(self, num_rows: int, num_byzantine: int) -> float | None:
        """Return None: its bound is measured in each round."""
        return None

    def guarantee(self, num_rows: int, num_byzantine: int) -> str:
        """Say what the bound means."""
        return (
            "the result is within byz-bound times (byz-spread + σ) of the mean of the honest "
            "batches, where byz-spread is the standard deviation that is left along the direction "
            "of the largest one, and σ the largest of the honest batches"
        )


def _filter(
    products: NDArray[np.float64], num_byzantine: int
) -> tuple[NDArray[np.float64], float, int]:
    """Return weights (k,) of sum one, their covariance's largest eigenvalue, and the steps."""
    k = len(products)
    left, iterations, radius = np.ones(k), 0, _squared_radius(products, k - num_byzantine)
    best, of_best, least = left / k, _top_direction(products, left / k)[0], inf
    while num_byzantine and (size := left.sum()) >= k - 2 * num_byzantine - _ROUNDING:
        largest, scores = _top_direction(products, left / size)
        iterations += 1
        if largest / size < least:
            best, of_best, least = left / size, largest, largest / size
        if not scores.max() > 0.0:
            break
        cut = 1.0 if largest > radius else _CUT
        left = left * (1 - cut * scores / scores.max())
        left[left < _ROUNDING] = 0.0  # also its equals, which rounding would leave a little
    return best, of_best, iterations


def _squared_radius(products: NDArray[np.float64], num_rows: int) -> float:
    """Return that of the smallest ball about a row that holds so many rows."""
    distances = np.sort(distances_between(products), axis=1)[:, num_rows - 1]
    return float(distances.min()) ** 2


def _top_direction(
    products: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the weighted covariance's largest eigenvalue, and squares along its eigenvector (k,).

    With D the square roots of the weights and C the inner products of the rows' offsets from their
    weighted mean, the eigenvalues are those of DCD, and the components along the eigenvector of the
    covariance are ``C @ D @ u / √λ`` for the eigenvector u of DCD. Rows without weight get zero.
    """
    scores = np.zeros(len(weights))
    active = weights > 0.0
    roots = np.sqrt(weights[active])
    offsets = offset_products(products[np.ix_(active, active)], weights[active])
    scale = float(offsets.diagonal().max())
    if not scale > 0.0:
        return 0.0, scores
    offsets /= scale  # no square of theirs overflows
    values, vectors = np.linalg.eigh(offsets * roots * roots[:, None])
    largest = max(float(values[-1]), 0.0)
    if largest > 0.0:
        scores[active] = np.square(offsets @ (roots * vectors[:, -1])) / largest
    return largest * scale, scores * scale
