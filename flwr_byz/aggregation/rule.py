"""What a rule is: it combines rows whose inner products are known, and says how far to trust it."""

from dataclasses import dataclass
from math import nan
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .gram import Gram
from .row_map import RowMap
from .rows import Rows


@dataclass(frozen=True, eq=False)
class Combination:
    """A combination of rows.

    Attributes
    ----------
    point : ndarray (d,)
        In the rows' precision.
    weights : ndarray (k,), float64
        Of the rows.
    bound : float
        The factor of the rule's `guarantee`, for these rows and weights; infinity where none holds.
    iterations : int
        Steps of the solver.
    gap, residual : float
        Of a geometric median, else NaN: as of `Median`.
    spread : float
        Of a spectral filter, else NaN: the square root of the weighted covariance's largest
        eigenvalue.
    doubt : str
        What the log should say of it; empty where it is as asked for.
    """

    point: NDArray[np.floating]
    weights: NDArray[np.float64]
    bound: float
    iterations: int
    gap: float = nan
    residual: float = nan
    spread: float = nan
    doubt: str = ""


class Rule(Protocol):
    """A rule: a frozen object that holds its options."""

    @property
    def needs_products(self) -> bool:
        """Whether it needs the inner products of however few dimensions."""

    def num_batches(self, num_clients: int, num_byzantine: int) -> int:
        """Return the k that suits m clients, q of them Byzantine."""

    def combine(
        self, rows: Rows, measured: Gram, row_map: RowMap, num_byzantine: int
    ) -> Combination:
        """Combine the k' mapped rows ``row_map @ rows``, of which q < k'/2 may be Byzantine.

        `measured` are the measures of the rows; those that the map uses are finite.
        """

    def kappa(self, num_rows: int, num_byzantine: int) -> float:
        """Return κ with ‖result − mean‖² ≤ κ·(mean squared distance of the honest rows from it).

        The mean is that of any k − q rows, as the honest ones are: (q, κ)-robustness (Allouah et
        al. 2023, "Fixing by Mixing").
        """

    def guarantee(self, num_rows: int, num_byzantine: int) -> str:
        """Say how far so many Byzantine rows of all can lead the result."""
