"""Checks of arguments: errors of one line that name the argument, its value and what to give.

A value of a wrong kind is a TypeError, any other wrong value a ValueError.
"""

from math import inf
from numbers import Integral, Real
from reprlib import Repr
from typing import Any

_bounded = Repr()
_bounded.maxstring = _bounded.maxother = 80  # characters


def shown(value: object) -> str:
    """Return what a value is written as, on one line and of bounded length."""
    return " ".join(_bounded.repr(value).split())


def wrong_kind(name: str, needed: str, value: object) -> TypeError:
    """Return the error of an argument that has to be of another kind."""
    kind = "a class" if isinstance(value, type) else type(value).__name__
    return TypeError(f"{name} must be {needed}, got {shown(value)} ({kind})")


def wrong_value(name: str, needed: str, value: object) -> ValueError:
    """Return the error of an argument that has to have another value."""
    return ValueError(f"{name} must be {needed}, got {shown(value)}")


def check_number(
    name: str,
    value: Any,
    *,
    whole: bool = False,
    least: float = -inf,
    above: float = -inf,
    most: float = inf,
    below: float = inf,
    note: str = "",
) -> None:
    """Check that a value is a finite number within limits; `note` is added to what is needed."""
    limits = {"of at least": least, "above": above, "at most": most, "below": below}
    given = {words: f"{limit:.15g}" for words, limit in limits.items() if abs(limit) < inf}
    bounds = " and ".join(f"{words} {limit}" for words, limit in given.items())
    noun = "a whole number" if whole else "a finite number"
    needed = " ".join(filter(None, (noun, bounds))) + note
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not is_number:
        raise wrong_kind(name, needed, value)
    if not (least <= value <= most and above < value < below):
        raise wrong_value(name, needed, value)


def check_choice(name: str, value: object, choices: tuple[Any, ...]) -> None:
    """Check that a value is one of several, which are of one type."""
    kind = type(choices[0])
    needed = " or ".join(map(repr, choices))
    if not isinstance(value, kind):
        raise wrong_kind(name, needed, value)
    if value not in choices:
        raise wrong_value(name, needed, value)


def check_kind(name: str, value: object, kind: type | tuple[type, ...], needed: str) -> None:
    """Check that a value is of a kind."""
    if not isinstance(value, kind):
        raise wrong_kind(name, needed, value)


def check_function(name: str, value: object) -> None:
    """Check that a value can be called."""
    if not callable(value):
        raise wrong_kind(name, "a function", value)
