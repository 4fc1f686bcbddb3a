"""The paper's bounds as functions."""


def c_alpha(alpha: float) -> float:
    """Return C_α = 2(1 − α)/(1 − 2α), equation (7).

    Where at least a fraction 1 − α of points lies within r of a place, their geometric median lies
    within C_α·r of it, wherever the others are (Lemma 1).

    Parameters
    ----------
    alpha : float
        Fraction of arbitrary points, 0 ≤ α < 1/2.

    Raises
    ------
    ValueError
        Where α is out of range.
    """
    if not 0 <= alpha < 0.5:
        raise ValueError(f"alpha must be in [0, 1/2), got {alpha}")
    return 2 * (1 - alpha) / (1 - 2 * alpha)
