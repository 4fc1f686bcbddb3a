"""Wrappers pass on what they do not define, whatever a version of Flower has there."""

from abc import update_abstractmethods
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar

Wrapper = TypeVar("Wrapper", bound=type)


def passes_on_to(attribute: str) -> Callable[[Wrapper], Wrapper]:
    """Let a class take all public names that it does not define from its instances' attribute."""

    def public(self: Any, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return getattr(getattr(self, attribute), name)

    def decorated(wrapper: Wrapper) -> Wrapper:
        inherited = {name for base in wrapper.__mro__[1:] for name in vars(base) if name[0] != "_"}
        passed_on = {
            name: property(attrgetter(f"{attribute}.{name}"))
            for name in inherited - vars(wrapper).keys()
        }
        for name, value in (passed_on | {"__getattr__": public}).items():
            setattr(wrapper, name, value)
        update_abstractmethods(wrapper)
        return wrapper

    return decorated
