"""Attacks as text, such as ``SignFlip(scale=10)``."""

import ast

import numpy as np

from .. import attacks
from ..attacks import Attack, Knowledge

DEFAULT_ATTACKS = (
    "SignFlip(scale=10)",
    "GaussianNoise",
    "ALittleIsEnough(z=1.5)",
    "InnerProductManipulation(epsilon=10)",
    "NonFinite",
    "Malformed",
)

_KNOWN_TO_CLIENTS = {"model", "honest"}


def parse_attack(text: str) -> Attack:
    """Make the attack that a text names: a class of `flwr_byz.attacks`, and keywords of literals.

    Raises
    ------
    ValueError
        Where the text is of another form, names no attack or a parameter that the attack has not,
        or where the attack needs to know what a client cannot.
    """
    try:
        parsed = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        parsed = None
    call = parsed if isinstance(parsed, ast.Call) else None
    name = parsed if call is None else call.func
    if not isinstance(name, ast.Name) or (call is not None and call.args):
        raise ValueError(
            f'an attack reads like "SignFlip" or "SignFlip(scale=10)", this one {text!r}'
        )
    kind = getattr(attacks, name.id, None)
    if not (isinstance(kind, type) and issubclass(kind, Attack) and kind is not Attack):
        raise ValueError(f"{name.id!r} is no attack; there are {', '.join(_possible())}")
    if missing := sorted(kind.requires - _KNOWN_TO_CLIENTS):
        raise ValueError(f"{name.id} needs {', '.join(missing)}, which no client of an app knows")
    try:
        parameters = {
            str(keyword.arg): ast.literal_eval(keyword.value)
            for keyword in ([] if call is None else call.keywords)
        }
        attack: Attack = kind(**parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r}: {error}") from None
    return attack


def rehearse(attack: Attack, num_clients: int, num_byzantine: int) -> None:
    """Carry out an attack on made-up vectors of three coordinates.

    Raises
    ------
    ValueError
        Where it is impossible among so many clients.
    """
    rng = np.random.default_rng(0)
    knowledge = Knowledge(
        own=rng.normal(size=3),
        num_clients=num_clients,
        num_byzantine=num_byzantine,
        rng=rng,
        honest=rng.normal(size=(num_byzantine, 3)),
        model=rng.normal(size=3),
        byzantine=range(num_byzantine),
    )
    attack(knowledge)


def _possible() -> list[str]:
    kinds = {name: getattr(attacks, name) for name in attacks.__all__}
    return [
        name
        for name, kind in kinds.items()
        if isinstance(kind, type)
        and issubclass(kind, Attack)
        and kind is not Attack
        and kind.requires <= _KNOWN_TO_CLIENTS
    ]
