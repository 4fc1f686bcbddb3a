"""The constants of Assumptions 1 to 4: those of linear regression, and estimates from gradients."""

from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..aggregation import geometric_median
from ..checks import check_number
from .conditions import require_curvature, require_nonnegative, require_positive, require_sample

_ROUNDING = 1e-6  # of a matrix's largest entry or eigenvalue, at most


@dataclass(frozen=True, kw_only=True)
class Constants:
    """The constants of Assumptions 1 to 4, which the theorems need.

    Attributes
    ----------
    L, M : float
        F is L-strongly convex, its gradient M-Lipschitz (Assumption 1); 0 < L ≤ M.
    sigma_1, alpha_1, sigma_2, alpha_2 : float
        Sub-exponential parameters of ⟨∇f(X, θ*), v⟩, ‖v‖ = 1 (Assumption 2), and those of
        ⟨h(X, θ) − E h(X, θ), v⟩/‖θ − θ*‖ with h(X, θ) = ∇f(X, θ) − ∇f(X, θ*) (Assumption 3).
    M_prime : float
        M′: the mean gradient of a batch is M′-Lipschitz with probability 1 − δ/3 (Assumption 4).
        It does not grow with the size of a batch: that of a small batch serves larger ones.

    Raises ValueError where a number is not positive and finite, ConditionFails where L > M.
    """

    L: float
    M: float
    sigma_1: float
    alpha_1: float
    sigma_2: float
    alpha_2: float
    M_prime: float

    def __post_init__(self) -> None:
        require_positive(**vars(self))
        require_curvature(self.L, self.M)


def linear_regression(n: float, d: int, delta: float) -> Constants:
    """Return the constants of linear regression with w ~ N(0, I), ζ ~ N(0, 1), Lemma 8.

    For n > 0 samples in a batch, d dimensions and 0 < δ < 1. M′ is that of the lemma's proof. Its
    statement prints d + 2√(d log(4/δ)) + 2 log(4/δ), which does not depend on n: a valid bound, too
    (‖w‖² of one sample exceeds it with probability δ/4, and the mean of n with less), but about d
    times as large where n is.
    """
    require_sample(n, d, delta)
    M_prime = (1 + sqrt(d / n) + sqrt(2 * log(4 / delta) / n)) ** 2
    scatter = {"sigma_1": sqrt(2), "alpha_1": sqrt(2), "sigma_2": sqrt(8), "alpha_2": 8.0}
    return Constants(L=1.0, M=1.0, M_prime=M_prime, **scatter)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Curvature and scatter of gradients: enough for expected errors, too little for a theorem.

    L and M are those of `Constants`. The variance of a coordinate of one sample's gradient at θ is
    about sigma² + growth²·‖θ − θ*‖². `skewness` is ‖E[g‖g‖²]‖/((d + 2)·sigma³) of one sample's
    centred gradient g at θ*: 0 for symmetric data, a third of the usual one in one dimension.
    `curvatures` (d,), `variances` (d,) and `skewnesses` (d,) are those along the Hessian's
    eigenvectors at θ*, of which L and M are the least and the largest curvature and sigma² the mean
    variance. Where M is much larger than L, errors are several times too large without them; see
    `from_matrices`.

    Raises ValueError where L, M, `sigma`, a curvature or a variance is not positive and finite,
    `growth` or a skewness not finite and at least 0, one of the tuples is missing or of another
    length, or L, M or sigma are not those of the tuples; ConditionFails where L > M.
    """

    L: float = 1.0
    M: float = 1.0
    sigma: float = 1.0
    growth: float = 1.0
    skewness: float = 0.0
    curvatures: tuple[float, ...] | None = None
    variances: tuple[float, ...] | None = None
    skewnesses: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        require_positive(L=self.L, M=self.M, sigma=self.sigma)
        require_nonnegative(growth=self.growth, skewness=self.skewness)
        require_curvature(self.L, self.M)
        of_each = self.curvatures, self.variances, self.skewnesses
        lengths = [len(values or ()) for values in of_each]
        if len({*lengths}) > 1:
            names = "curvatures, variances and skewnesses"
            raise ValueError(f"{names} must be as many, got {lengths}")
        for name in ("curvatures", "variances"):
            for value in getattr(self, name) or ():
                require_positive(**{name: value})
        for value in self.skewnesses or ():
            require_nonnegative(skewnesses=value)
        if self.curvatures and self.variances:
            sigma = sqrt(sum(self.variances) / len(self.variances))
            of_tuples = min(self.curvatures), max(self.curvatures), sigma
            if not np.allclose(of_tuples, (self.L, self.M, self.sigma), atol=0):
                found = "L={:.4g}, M={:.4g}, sigma={:.4g}".format(*of_tuples)
                raise ValueError(f"curvatures and variances have {found}: give these")

    @classmethod
    def from_matrices(
        cls,
        hessian: ArrayLike,
        covariance: ArrayLike,
        *,
        third_moment: ArrayLike | None = None,
        growth: float = 0.0,
    ) -> "Statistics":
        """Take them from F's Hessian at θ* and moments of one sample's gradient g there.

        `hessian` (d, d) is symmetric and positive definite, `covariance` (d, d) that of g, and
        `third_moment` (d,) E[g‖g‖²], 0 by default. Raises ValueError where they are not so.
        """
        hessian, covariance = _symmetric("hessian", hessian), _symmetric("covariance", covariance)
        curvatures, vectors = np.linalg.eigh(hessian)
        d, of_all = len(curvatures), np.linalg.eigvalsh(covariance)
        if of_all[0] < -_ROUNDING * of_all[-1]:
            raise ValueError(f"covariance must have no eigenvalue below 0, got {of_all[0]:.4g}")
        variances = np.einsum("ji,jk,ki->i", vectors, covariance, vectors)
        sigma = sqrt(max(float(variances.mean()), 0.0))
        third = np.zeros(d) if third_moment is None else np.asarray(third_moment, np.float64)
        skewnesses = np.abs(third @ vectors) / ((d + 2) * sigma**3) if sigma else third
        return cls(
            L=float(curvatures.min()),
            M=float(curvatures.max()),
            sigma=sigma,
            growth=growth,
            skewness=float(np.linalg.norm(skewnesses)),
            curvatures=tuple(curvatures.tolist()),
            variances=tuple(variances.tolist()),
            skewnesses=tuple(skewnesses.tolist()),
        )


LINEAR_REGRESSION = Statistics()
"""The statistics of linear regression with w ~ N(0, I), ζ ~ N(0, 1): all are 1."""


def estimate_statistics(
    parameters: ArrayLike, gradients: ArrayLike, *, samples_per_gradient: int = 1
) -> Statistics:
    """Estimate L, M and the scatter of gradients from gradients at a few parameter vectors.

    Of p > d vectors that span all directions the Hessian is fitted, what chance adds to the spread
    of its eigenvalues is taken off, and these are the curvatures; of fewer vectors, L and M are the
    least and the greatest curvature between any two of them, and over all directions L can be
    smaller and M larger. `sigma` is measured where the mean gradient is shortest, nearest to θ*, so
    it is a little too large; `growth` is the largest scatter of gradient differences per distance,
    or with a fitted Hessian the root mean square one, beside the root of the curvature there;
    `skewness` has what chance adds to it taken off. Take vectors along the path of a clean
    training, and honest gradients only.

    Parameters
    ----------
    parameters, gradients : array-like (p, d), (p, n, d)
        p ≥ 2 different vectors, and the gradients of the same n ≥ 2 samples or clients at each.
    samples_per_gradient : int, default 1
        Samples that each gradient averages: N/m for clients' gradients.

    Raises ValueError where shapes do not fit, a number is not finite, two vectors are equal, or the
    gradients show no strong convexity: ⟨∇F(θ) − ∇F(θ′), θ − θ′⟩ ≤ 0 for some pair.
    """
    theta = np.asarray(parameters, dtype=np.float64)
    grads = np.asarray(gradients, dtype=np.float64)
    if theta.ndim != 2 or len(theta) < 2:
        raise ValueError(f"parameters must have shape (p, d) with p >= 2, got {theta.shape}")
    p, d = theta.shape
    if grads.ndim != 3 or grads.shape[::2] != (p, d) or grads.shape[1] < 2:
        raise ValueError(f"gradients must have shape ({p}, n, {d}) with n >= 2, got {grads.shape}")
    if not (np.isfinite(theta).all() and np.isfinite(grads).all()):
        raise ValueError("parameters and gradients must be finite")
    check_number("samples_per_gradient", samples_per_gradient, least=1)

    means = grads.mean(axis=1)
    curvatures, slopes, growths = [], [], []
    for i, j in zip(*np.tril_indices(p, -1), strict=True):
        step, change = theta[i] - theta[j], means[i] - means[j]
        distance = float(np.linalg.norm(step))
        if distance == 0:
            raise ValueError(f"parameters {j} and {i} are equal")
        curvatures.append(float(change @ step) / distance**2)
        slopes.append(float(np.linalg.norm(change)) / distance)
        growths.append(_scatter(grads[i] - grads[j]) / distance)
    if min(curvatures) <= 0:
        raise ValueError(
            f"the mean gradient shows a curvature of {min(curvatures):.4g} between two of the "
            "parameters: not strongly convex there, so no L exists"
        )
    nearest = grads[int(np.argmin(np.linalg.norm(means, axis=1)))]
    one_sample, third = sqrt(samples_per_gradient), _third_moment(nearest)
    steps = theta - theta.mean(axis=0)
    if np.linalg.matrix_rank(steps) == d:
        hessian = np.linalg.lstsq(steps, means - means.mean(axis=0))[0]
        hessian = (hessian + hessian.T) / 2
        mean = float(np.trace(hessian)) / d
        along = np.array(growths) / np.sqrt(np.array(curvatures) / mean)
        growth = float(np.sqrt(np.square(along).mean()))
        kept = _kept(hessian - mean * np.eye(d), growth / sqrt(grads.shape[1]))
        return Statistics.from_matrices(
            mean * np.eye(d) + kept * (hessian - mean * np.eye(d)),
            samples_per_gradient * np.atleast_2d(np.cov(nearest.T)),
            third_moment=samples_per_gradient**2 * third,
            growth=one_sample * growth,
        )
    sigma = _scatter(nearest)
    skewness = float(np.linalg.norm(third)) / ((d + 2) * sigma**3) if sigma else 0.0
    return Statistics(
        L=min(curvatures),
        M=max(slopes),
        sigma=one_sample * sigma,
        growth=one_sample * max(growths),
        skewness=one_sample * skewness,
    )


def _symmetric(name: str, matrix: ArrayLike) -> NDArray[np.float64]:
    made = np.asarray(matrix, dtype=np.float64)
    if not np.allclose(made, made.T, atol=_ROUNDING * float(np.abs(made).max())):
        raise ValueError(f"{name} must be symmetric")
    return made


def measured_bias(
    gradients: ArrayLike, batch_samples: int, *, seed: int, num_batches: int = 1000
) -> float:
    """Return how far the median of means of skewed gradients is off their mean: measured.

    Batches are drawn from pilot gradients with replacement, and what chance adds to the distance is
    taken off. The model of `Statistics.skewness` has skewness·sigma/(2n) for it, to the first order
    in 1/n (Yin, Chen, Ramchandran and Bartlett 2018 bound the same for the coordinate-wise median).

    Parameters
    ----------
    gradients : array-like (n, d)
        Of pilot samples at one parameter vector.
    batch_samples : int
        How many samples a batch averages, N/k.
    seed, num_batches : int
        Of the draw; how many batches are drawn.

    Raises ValueError where gradients are not finite or of another shape, or a number is below 1.
    """
    pilot = np.asarray(gradients, dtype=np.float64)
    if pilot.ndim != 2 or not pilot.size or not np.isfinite(pilot).all():
        raise ValueError(f"gradients must be finite, of shape (n, d), got shape {pilot.shape}")
    check_number("batch_samples", batch_samples, whole=True, least=1)
    check_number("num_batches", num_batches, whole=True, least=1)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(pilot), size=batch_samples) for _ in range(num_batches))
    means = np.stack([pilot[batch].mean(axis=0) for batch in drawn])
    offset = geometric_median(means).point - pilot.mean(axis=0)
    chance = float(means.var(axis=0).sum()) / num_batches
    return sqrt(max(float(offset @ offset) - chance, 0.0))


def _kept(deviation: np.ndarray, error: float) -> float:
    """Return the share of a symmetric deviation (d, d) that is not chance, of so much an entry."""
    square = float(np.square(deviation).sum())
    return sqrt(max(1 - deviation.size * error**2 / square, 0.0)) if square else 0.0


def _scatter(gradients: np.ndarray) -> float:
    """Return the root mean variance (n − 1) of a coordinate over (n, d)."""
    return float(np.sqrt(gradients.var(axis=0, ddof=1).mean()))


def _third_moment(gradients: np.ndarray) -> np.ndarray:
    """Return E[g‖g‖²] of gradients (n, d), of a length whose square has no bias."""
    n = len(gradients)
    centred = gradients - gradients.mean(axis=0)
    squares = np.square(centred).sum(axis=1, keepdims=True)
    mean = (centred * squares).mean(axis=0)
    # The sample mean that was taken off moves it, too.
    moved = squares.mean() * centred + 2 * np.linalg.multi_dot([centred, centred.T, centred]) / n
    influence = centred * squares - moved
    square = float(np.square(mean).sum())
    noise = float(influence.var(axis=0, ddof=1).sum()) / n
    return np.asarray(mean * (sqrt(max(1 - noise / square, 0.0)) if square else 0.0))
