"""Attacks as text: the names of their classes, and calls such as ``SignFlip(scale=10)``."""

import ast
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
    """Return the attack with a name; ValueError names the nearest match, or else all of them."""
    if name in CLASSES:
        return CLASSES[name]
    lowered = {each.lower(): each for each in CLASSES}
    near = get_close_matches(re.sub(r"[-_ ]", "", name.lower()), lowered, n=1)
    hint = f"did you mean {lowered[near[0]]!r}?" if near else f"choose from {', '.join(CLASSES)}"
    raise ValueError(f"no attack is called {name!r}; {hint}")


def parse_attack(text: str) -> Attack:
    """Make an attack of `flwr_byz.attacks` from its class and keywords of literals.

    Raises ValueError where the text has another form, or the attack or a parameter does not exist.
    """
    try:
        parsed = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        parsed = None
    call = parsed if isinstance(parsed, ast.Call) else None
    name = parsed if call is None else call.func
    if not isinstance(name, ast.Name) or (call is not None and call.args):
        raise ValueError(f'write an attack as "SignFlip" or "SignFlip(scale=10)", got {text!r}')
    kind = attack_class(name.id)
    try:
        keywords = [] if call is None else call.keywords
        return kind(**{str(each.arg): ast.literal_eval(each.value) for each in keywords})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r}: {error}") from None
