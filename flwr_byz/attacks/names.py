"""The attacks by the names of their classes."""

import re
from difflib import get_close_matches

from .. import attacks
from .attack import Attack

CLASSES: dict[str, type[Attack]] = {
    name: kind
    for name in attacks.__all__
    if isinstance(kind := getattr(attacks, name), type)
    and issubclass(kind, Attack)
    and kind is not Attack
}


def attack_class(name: str) -> type[Attack]:
    """Return the attack of `flwr_byz.attacks` with a name.

    Raises
    ------
    ValueError
        Where no attack has this name; it names the nearest match, or else all of them.
    """
    if name in CLASSES:
        return CLASSES[name]
    lowered = {each.lower(): each for each in CLASSES}
    near = get_close_matches(re.sub(r"[-_ ]", "", name.lower()), lowered, n=1)
    hint = f"did you mean {lowered[near[0]]!r}?" if near else f"choose from {', '.join(CLASSES)}"
    raise ValueError(f"no attack is called {name!r}; {hint}")
