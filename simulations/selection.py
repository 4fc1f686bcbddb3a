"""The two selection rules of the paper's section 6, left there as an open question.

Both average a subset of the vectors, and resist weaker adversaries than the geometric median of
means: one that cannot foresee the server's random bits, and one whose replies are long. Neither has
a guarantee in the paper.
"""

import numpy as np
from numpy.typing import NDArray

from flwr_byz.aggregation import mean

Vectors = NDArray[np.floating]


def mean_of_random_subset(vectors: Vectors, num_selected: int, *, seed: int) -> NDArray[np.float64]:
    """Average a uniformly random subset of so many of the vectors (m, d).

    Raises ValueError where `num_selected` is not between 1 and m.
    """
    _check(vectors, num_selected)
    chosen = np.random.default_rng(seed).choice(len(vectors), size=num_selected, replace=False)
    return mean([vectors[i] for i in sorted(chosen)])


def mean_of_smallest_norms(vectors: Vectors, num_selected: int) -> NDArray[np.float64]:
    """Average the vectors of smallest Euclidean norm (the first ones among equal norms).

    With `num_selected` = m − q, as many vectors are left out as there may be Byzantine clients.
    Raises ValueError where `num_selected` is not between 1 and m.
    """
    _check(vectors, num_selected)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=1)
    chosen = np.argsort(norms, kind="stable")[:num_selected]
    return mean([vectors[i] for i in sorted(chosen)])


def _check(vectors: Vectors, num_selected: int) -> None:
    if not 1 <= num_selected <= len(vectors):
        raise ValueError(
            f"num_selected must be between 1 and the number of vectors {len(vectors)}, "
            f"got {num_selected}"
        )
