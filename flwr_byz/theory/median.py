"""How far Byzantine points can move a geometric median (the paper's Lemma 1).

α, 0 ≤ α < 1/2, is the fraction of points that are arbitrary; all functions raise ValueError outside
of that range.
"""

from math import sqrt

from ..checks import check_number
from .conditions import require_nonnegative


def c_alpha(alpha: float) -> float:
    """Return C_α = 2(1 − α)/(1 − 2α), equation (7).

    Where a fraction 1 − α of points or more lies within r of some point x, their geometric median
    lies within C_α·r of x, whatever the other points are (Lemma 1).
    """
    check_number("alpha", alpha, least=0, below=0.5)
    return 2 * (1 - alpha) / (1 - 2 * alpha)


def sharp_c_alpha(alpha: float) -> float:
    """Return (1 − α)/√(1 − 2α), the smallest factor that can replace C_α in a Hilbert space.

    It is at most half of the paper's `c_alpha`: S. Minsker, "Geometric median and robust estimation
    in Banach spaces", Bernoulli 21 (2015), Lemma 2.1.
    """
    check_number("alpha", alpha, least=0, below=0.5)
    return (1 - alpha) / sqrt(1 - 2 * alpha)


def median_radius(
    alpha: float, radius: float, *, gamma: float = 0.0, largest: float = 0.0
) -> float:
    """Return C_α·r + γ·max‖z_i‖/(1 − 2α), how far a (1+γ)-approximate geometric median can be.

    All distances and norms are taken from one point x, as in Lemma 1. (In its proof, appendix A,
    the minimum that γ multiplies lacks its sum over i; the lemma has it.)

    Parameters
    ----------
    alpha : float
    radius : float
        r ≥ 0, the largest distance of the other points from x.
    gamma : float, default 0.0
        γ ≥ 0.
    largest : float, default 0.0
        max‖z_i‖ ≥ 0 over all points, the arbitrary ones included; needed where γ > 0. Trimming
        by norm bounds it (Remark 2).
    """
    require_nonnegative(radius=radius, gamma=gamma, largest=largest)
    if gamma > 0 and largest < radius:
        raise ValueError(f"largest must be at least radius = {radius}, got {largest}")
    return c_alpha(alpha) * radius + gamma * largest / (1 - 2 * alpha)
