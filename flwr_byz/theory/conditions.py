"""Checks of arguments, and of the conditions under which a theorem holds."""

from ..checks import check_number


class ConditionFails(ValueError):
    """A condition of the paper does not hold, so its conclusion does not follow.

    `condition` is as the paper writes it, `value` and `limit` are its left and its right side.
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
    """Check that named numbers are positive and finite."""
    for name, value in values.items():
        check_number(name, value, above=0)


def require_nonnegative(**values: float) -> None:
    """Check that named numbers are finite and at least 0."""
    for name, value in values.items():
        check_number(name, value, least=0)


def require_curvature(L: float, M: float) -> None:
    """Check that 0 < L ≤ M."""
    require_positive(L=L, M=M)
    require(L <= M, "L ≤ M", L, M, "no function is more strongly convex than smooth")


def require_sample(n: float, d: int, delta: float) -> None:
    """Check that n > 0, d > 0 and 0 < δ < 1."""
    require_positive(n=n, d=d)
    check_number("delta", delta, above=0, below=1)


def require_honest_majority(num_batches: int, num_byzantine: int) -> None:
    """Check that k ≥ 1 and q ≥ 0; raise ConditionFails unless q/k < 1/2."""
    check_number("num_batches", num_batches, least=1)
    check_number("num_byzantine", num_byzantine, least=0)
    share = num_byzantine / num_batches
    require(share < 0.5, "q/k < 1/2", share, 0.5)
