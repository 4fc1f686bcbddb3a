"""Old names, which still work for one release and warn."""

import sys
from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any, NamedTuple, TypeVar
from warnings import warn

Class = TypeVar("Class", bound=type)


def renamed(**names: str) -> Callable[[Class], Class]:
    """Let a class answer to ``old="new"`` names: read, given to its constructor, or overridden."""

    def decorate(kind: Any) -> Any:
        construct = kind.__init__

        @wraps(construct)
        def __init__(self: Any, *args: Any, **options: Any) -> None:
            for old in names.keys() & options.keys():
                _warn(f"{kind.__name__}({old}=)", names[old])
                options[names[old]] = options.pop(old)
            construct(self, *args, **options)

        def __init_subclass__(cls: Any, /, **options: Any) -> None:
            super(kind, cls).__init_subclass__(**options)
            for old, new in names.items():
                if old in vars(cls):
                    _warn(f"{cls.__name__}.{old}", new, stacklevel=4)  # ABCMeta is between
                    setattr(cls, new, vars(cls)[old])
                elif new in vars(cls):
                    setattr(cls, old, _OldName(cls, old, new))

        for old, new in names.items():
            setattr(kind, old, _OldName(kind, old, new))
        kind.__init__, kind.__init_subclass__ = __init__, classmethod(__init_subclass__)
        return kind

    return decorate


def renamed_in(module: str, **names: str) -> None:
    """Let a module find renamed things by their old names."""

    def __getattr__(old: str) -> Any:
        if old not in names:
            raise AttributeError(f"module {module!r} has no attribute {old!r}")
        _warn(f"{module}.{old}", names[old])
        return getattr(sys.modules[module], names[old])

    vars(sys.modules[module])["__getattr__"] = __getattr__


class _OldName(NamedTuple):
    kind: type
    old: str
    new: str

    def __get__(self, instance: object, owner: type) -> Any:
        _warn(f"{owner.__name__}.{self.old}", self.new)
        method = vars(self.kind).get(self.new)
        if isinstance(method, FunctionType):  # of this class, also where super() asks
            return method.__get__(instance, owner)
        return getattr(owner if instance is None else instance, self.new)


def _warn(old: str, new: str, stacklevel: int = 3) -> None:
    text = f"{old} is now called {new}; the old name will be removed"
    warn(text, DeprecationWarning, stacklevel=stacklevel)
