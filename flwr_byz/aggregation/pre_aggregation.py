"""Rows that are too long are left out of their median; that costs no pass over the data."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..checks import check_number

TrimNorm = float | Literal["auto"] | None


class NoRowsLeft(ValueError):
    """No row is left for the median."""


def select(kept: NDArray[np.bool_], block: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the `kept` rows of a block: a copy, or the block itself where all are kept."""
    return block if kept.all() else block[kept]


def too_long(norms: NDArray[np.float64], trim_norm: TrimNorm) -> NDArray[np.bool_]:
    """Mark the rows whose norm is above τ (the paper's Remark 2).

    "auto" is twice the median of the norms (k,); None marks nothing. Raises NoRowsLeft where all
    rows are too long.
    """
    if trim_norm is None:
        return np.zeros(len(norms), dtype=np.bool_)
    with np.errstate(all="ignore"):
        limit = 2.0 * float(np.median(norms)) if trim_norm == "auto" else trim_norm
    marked: NDArray[np.bool_] = norms > limit
    if marked.all():
        shortest = f"the shortest batch mean has norm {norms.min():.6g}"
        raise NoRowsLeft(f"trim_norm = {trim_norm} leaves no batch: {shortest}")
    return marked


def check_trim_norm(trim_norm: TrimNorm) -> None:
    """Check that τ is a positive number, "auto" or None."""
    if trim_norm is not None and not (isinstance(trim_norm, str) and trim_norm == "auto"):
        check_number("trim_norm", trim_norm, above=0, note=', "auto" or None')
