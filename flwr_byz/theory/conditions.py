"""Checks of arguments, and of the conditions under which a theorem holds."""

from math import isfinite


class ConditionFails(ValueError):
    """A condition of the paper does not hold, so its conclusion does not follow.

    Attributes
    ----------
    condition : str
        As the paper writes it.
    value, limit : float
        Its left and its right side.
    """

    def __init__(self, condition: str, value: float, limit: float, hint: str = "") -> None:
        sides = f"{value:.4g} against {limit:.4g}"
        factor = f", {value / limit:.3g} times as much" if value > limit > 0 else ""
        hint = f"; {hint}" if hint else ""
        super().__init__(f"{condition} does not hold: {sides}{factor}{hint}")
        self.condition, self.value, self.limit = condition, value, limit


def require(holds: bool, condition: str, value: float, limit: float, hint: str = "") -> None:
    """Raise ConditionFails with the other arguments unless the condition `holds`."""
    if not holds:
        raise ConditionFails(condition, value, limit, hint)


def require_positive(**values: float) -> None:
    """Raise ValueError where a named number is not positive and finite."""
    for name, value in values.items():
        if not (value > 0 and isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")


def require_nonnegative(**values: float) -> None:
    """Raise ValueError where a named number is not finite and at least 0."""
    for name, value in values.items():
        if not (value >= 0 and isfinite(value)):
            raise ValueError(f"{name} must be finite and at least 0, got {value}")


def require_count(name: str, value: int, *, least: int) -> None:
    """Raise ValueError unless a named number is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def require_curvature(L: float, M: float) -> None:
    """Raise ValueError unless 0 < L ≤ M."""
    require_positive(L=L, M=M)
    require(L <= M, "L ≤ M", L, M, "no function is more strongly convex than smooth")


def require_sample(n: float, d: int, delta: float) -> None:
    """Raise ValueError unless n > 0, d > 0 and 0 < δ < 1."""
    require_positive(n=n, d=d)
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}")


def require_honest_majority(num_batches: int, num_byzantine: int) -> None:
    """Raise ValueError where k < 1 or q < 0, ConditionFails unless q/k < 1/2."""
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}")
    if num_byzantine < 0:
        raise ValueError(f"num_byzantine must be at least 0, got {num_byzantine}")
    share = num_byzantine / num_batches
    require(share < 0.5, "q/k < 1/2", share, 0.5)
