"""How long clients take for a reply, in units of what a typical one takes.

A latency is named as a class with options, such as ``"TwoSpeed(factor=10)"``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from flwr_byz.attacks.names import parse_call


class Latency(Protocol):
    """How long clients take."""

    def __call__(self, client: int, num_clients: int, seed: int, task: int) -> float:
        """Return the time that a client takes for its `task`-th reply.

        It depends on the arguments alone.
        """


@dataclass(frozen=True)
class Equal:
    """Every reply takes one unit of time."""

    def __call__(self, client: int, num_clients: int, seed: int, task: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Lognormal:
    """Each reply takes a time of its own: its logarithm is normal, with median 0."""

    sigma: float = 1.0

    def __call__(self, client: int, num_clients: int, seed: int, task: int) -> float:
        """Return exp(sigma·z) for a standard normal z of the reply."""
        return float(np.exp(self.sigma * _rng(seed, client, task).normal()))


@dataclass(frozen=True)
class HeavyTail:
    """Each reply takes at least one unit, and a Pareto time: some take very long.

    The chance of more than t is ``t^(−alpha)``.
    """

    alpha: float = 1.5

    def __call__(self, client: int, num_clients: int, seed: int, task: int) -> float:
        """Return one plus a Lomax time."""
        return float(1.0 + _rng(seed, client, task).pareto(self.alpha))


@dataclass(frozen=True)
class TwoSpeed:
    """A share of the clients, drawn by the seed, takes `factor` times as long as the others.

    Times scatter by `jitter`, the standard deviation of their logarithm.
    """

    share: float = 0.2
    factor: float = 10.0
    jitter: float = 0.1

    def __call__(self, client: int, num_clients: int, seed: int, task: int) -> float:
        """Return the time of a fast client, or of a slow one."""
        is_slow = _rank(client, num_clients, seed) < round(self.share * num_clients)
        return (self.factor if is_slow else 1.0) * _jittered(self.jitter, seed, client, task)


@dataclass(frozen=True)
class DeviceClasses:
    """Three kinds of devices, as many of each: they take 1, 3 and 10 units of time.

    Times scatter by `jitter`, the standard deviation of their logarithm.
    """

    jitter: float = 0.3

    def __call__(self, client: int, num_clients: int, seed: int, task: int) -> float:
        """Return the time of a device of its kind."""
        unit = (1.0, 3.0, 10.0)[3 * _rank(client, num_clients, seed) // num_clients]
        return unit * _jittered(self.jitter, seed, client, task)


_CLASSES: Mapping[str, type[Latency]] = {
    kind.__name__: kind for kind in (Equal, Lognormal, HeavyTail, TwoSpeed, DeviceClasses)
}


def make_latency(text: str) -> Latency:
    """Make a latency from its class and options; raise ValueError where it is not known."""
    name, options = parse_call(text, "a latency", "TwoSpeed(factor=10)")
    if name not in _CLASSES:
        raise ValueError(f"latency must be one of {', '.join(_CLASSES)}, got {name!r}")
    kind = _CLASSES[name]
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := set(options) - known:
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}, got {text!r}")
    return kind(**options)


def _rng(seed: int, client: int, task: int) -> np.random.Generator:
    return np.random.default_rng([seed, client, task])


def _jittered(jitter: float, seed: int, client: int, task: int) -> float:
    return float(np.exp(jitter * _rng(seed, client, task).normal()))


def _rank(client: int, num_clients: int, seed: int) -> int:
    """Return the place of a client in an order of all that the seed draws."""
    return int(np.random.default_rng([seed, num_clients]).permutation(num_clients)[client])
