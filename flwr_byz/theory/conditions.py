"""A theorem says nothing outside of its conditions: an error names the one that fails."""

from math import isfinite


class ConditionFails(ValueError):
    """A condition of the paper does not hold, so its conclusion cannot be had.

    Attributes
    ----------
    condition : str
        As the paper writes it.
    value, limit : float
        The two sides: `value` had to be at most `limit`, below it, or above it.
    """

    def __init__(self, condition: str, value: float, limit: float, hint: str = "") -> None:
        factor = f", {value / limit:.3g} times as much" if value > limit > 0 else ""
        hint = f"; {hint}" if hint else ""
        super().__init__(
            f"{condition} does not hold: {value:.4g} against {limit:.4g}{factor}{hint}"
        )
        self.condition = condition
        self.value = value
        self.limit = limit


def require_at_most(condition: str, value: float, limit: float, hint: str = "") -> None:
    """Raise ConditionFails unless value ≤ limit."""
    if not value <= limit:
        raise ConditionFails(condition, value, limit, hint)


def require_below(condition: str, value: float, limit: float, hint: str = "") -> None:
    """Raise ConditionFails unless value < limit."""
    if not value < limit:
        raise ConditionFails(condition, value, limit, hint)


def require_above(condition: str, value: float, limit: float, hint: str = "") -> None:
    """Raise ConditionFails unless value > limit."""
    if not value > limit:
        raise ConditionFails(condition, value, limit, hint)


def require_positive(**values: float) -> None:
    """Raise ValueError where a named number is not positive and finite."""
    for name, value in values.items():
        if not (value > 0 and isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")


def require_count(name: str, value: int, *, least: int) -> None:
    """Raise ValueError where a named number is no integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def require_nonnegative(**values: float) -> None:
    """Raise ValueError where a named number is not finite and at least 0."""
    for name, value in values.items():
        if not (value >= 0 and isfinite(value)):
            raise ValueError(f"{name} must be finite and at least 0, got {value}")


def require_batches(num_batches: int, num_byzantine: int) -> None:
    """Raise ValueError where k < 1 or q < 0, ConditionFails unless q/k < 1/2."""
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}")
    if num_byzantine < 0:
        raise ValueError(f"num_byzantine must be at least 0, got {num_byzantine}")
    require_below("q/k < 1/2", num_byzantine / num_batches, 0.5)
