"""Attacks as text: the names of their classes, and calls such as ``SignFlip(scale=10)``."""

import ast
import re
from difflib import get_close_matches
from typing import Any

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


def parse_call(text: str, what: str, example: str) -> tuple[str, dict[str, Any]]:
    """Return name and keywords of ``"Name"`` or ``"Name(keyword=literal)"``; else ValueError."""
    try:
        match ast.parse(text.strip(), mode="eval").body:
            case ast.Name(name):
                return name, {}
            case ast.Call(ast.Name(name), [], keywords):
                return name, {str(each.arg): ast.literal_eval(each.value) for each in keywords}
    except (SyntaxError, ValueError):
        pass
    name = example.partition("(")[0]
    raise ValueError(f'write {what} as "{name}" or "{example}", got {text!r}')


def parse_attack(text: str) -> Attack:
    """Make an attack of `flwr_byz.attacks` from its class and keywords of literals.

    Raises ValueError where the text has another form, or the attack or a parameter does not exist.
    """
    name, keywords = parse_call(text, "an attack", "SignFlip(scale=10)")
    kind = attack_class(name)
    try:
        return kind(**keywords)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r}: {error}") from None
