"""Attacks as text, such as ``SignFlip(scale=10)``."""

import ast

import numpy as np

from ..attacks import Attack, Knowledge
from ..attacks.names import attack_class

DEFAULT_ATTACKS = (
    "SignFlip(scale=10)",
    "GaussianNoise",
    "ALittleIsEnough(z=1.5)",
    "InnerProductManipulation(epsilon=10)",
    "NonFinite",
    "Malformed",
)


def parse_attack(text: str) -> Attack:
    """Make an attack of `flwr_byz.attacks` from its class and keywords of literals.

    Raises ValueError where the text has another form, the attack or a parameter does not exist, or
    the attack needs to know what a client cannot.
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
    if missing := sorted(kind.knows - {"model", "honest"}):
        raise ValueError(f"{name.id} needs {', '.join(missing)}, which no client of an app knows")
    try:
        keywords = [] if call is None else call.keywords
        return kind(**{str(each.arg): ast.literal_eval(each.value) for each in keywords})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r}: {error}") from None


def rehearse(attack: Attack, num_clients: int, num_byzantine: int) -> None:
    """Attack with made-up vectors; raise ValueError where so many clients make it impossible."""
    rng = np.random.default_rng(0)
    own, honest, model = rng.normal(size=3), rng.normal(size=(num_byzantine, 3)), np.zeros(3)
    colluders = range(num_byzantine)
    attack(Knowledge(own, num_clients, num_byzantine, rng, honest, 0, colluders, model))
