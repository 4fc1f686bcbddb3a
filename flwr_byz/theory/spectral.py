"""A certificate of one round that needs no constants: from the covariance of what was received.

The mean of k vectors of which a fraction α is arbitrary can be far from the mean of the others only
if it makes them scatter along that direction. So their covariance certifies the mean: this is what
spectral filters use (L. Su and J. Xu, "Securing Distributed Gradient Descent in High Dimensional
Statistical Learning", 2018). The honest vectors' own covariance has the norm v(1 + √(d/k))² for a
variance v in each of d directions, so that the certificate is of use where k is not much below d.
"""

from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_number


def spectral_radius(alpha: float, variance: float) -> float:
    """Return √(α·λ/(1 − α)), how far the mean of all vectors can be from the honest ones' mean.

    λ is the largest eigenvalue of the covariance of all vectors, `variance` here. With Δ from the
    mean of the honest to that of the arbitrary vectors, the covariance is at least α(1 − α)ΔΔᵀ, and
    the mean is off by α‖Δ‖. It is attained where honest vectors are equal, and arbitrary ones, too.

    Raises ValueError unless 0 ≤ α < 1 and λ ≥ 0.
    """
    check_number("alpha", alpha, least=0, below=1)
    check_number("variance", variance, least=0)
    return sqrt(alpha * variance / (1 - alpha))


def spectral_certificate(vectors: ArrayLike, num_byzantine: int) -> float:
    """Return the `spectral_radius` of k vectors (k, d), at most q of which are Byzantine.

    It holds for the plain mean, whatever the honest vectors' distribution. For vectors that a
    filter has kept it bounds how far their mean is from that of the honest ones among them.

    Raises ValueError unless vectors are finite, and 0 ≤ q < k.

    Examples
    --------
    >>> import numpy as np
    >>> from flwr_byz.theory import spectral_certificate
    >>> vectors = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [4.0, 0.0]])
    >>> float(np.linalg.norm(vectors.mean(axis=0))), round(spectral_certificate(vectors, 1), 6)
    (1.0, 1.0)
    """
    values = np.asarray(vectors, dtype=np.float64)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"vectors must be finite, of shape (k, d), got shape {values.shape}")
    check_number("num_byzantine", num_byzantine, whole=True, least=0, below=len(values))
    unit = float(np.abs(values).max(initial=0)) or 1.0  # so that no square overflows
    values = values / unit
    spread = np.linalg.norm(values - values.mean(axis=0), ord=2) if values.size else 0.0
    return unit * spectral_radius(num_byzantine / len(values), float(spread) ** 2 / len(values))
