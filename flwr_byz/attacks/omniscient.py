"""Attacks that know what every honest client sends; all colluders send the same vector."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .attack import Attack, Knowledge, check_finite


def _honest(knowledge: Knowledge, attack: Attack) -> NDArray[np.float64]:
    if knowledge.honest is None or len(knowledge.honest) == 0:
        raise ValueError(
            f"{type(attack).__name__} needs to know what the honest clients send; "
            "knowledge.honest holds no vectors"
        )
    return knowledge.honest


@dataclass(frozen=True)
class InnerProductManipulation(Attack):
    """Send −ε times the mean μ of the honest vectors (Xie, Koyejo, Gupta 2019).

    Parameters
    ----------
    epsilon : float, default 0.5
        ε ≥ 0: small to stay among the honest vectors, large (10) to outweigh them in a mean.
    """

    omniscient: ClassVar[bool] = True
    epsilon: float = 0.5

    def __post_init__(self) -> None:
        check_finite("epsilon", self.epsilon, least=0.0)

    def __call__(self, knowledge: Knowledge) -> NDArray[np.float64]:
        """Return −ε·μ."""
        mean: NDArray[np.float64] = _honest(knowledge, self).mean(axis=0)
        return -self.epsilon * mean


@dataclass(frozen=True)
class ALittleIsEnough(Attack):
    """Send μ − z·σ, inside the spread of the honest vectors (Baruch, Baruch, Goldberg 2019).

    μ and σ are the mean and the standard deviation (n − 1) of each coordinate over the honest
    vectors.

    Parameters
    ----------
    z : float, optional
        By default the largest that hides among the honest majority:
        Φ⁻¹((m − q − s)/(m − q)) with s = ⌊m/2⌋ + 1 − q. Needed where that has no value (one
        honest client, or s ≤ 0: the colluders are a majority).
    """

    omniscient: ClassVar[bool] = True
    z: float | None = None

    def __post_init__(self) -> None:
        if self.z is not None:
            check_finite("z", self.z)

    def __call__(self, knowledge: Knowledge) -> NDArray[np.float64]:
        """Return μ − z·σ."""
        honest = _honest(knowledge, self)
        z = self.z if self.z is not None else _largest_hidden_z(knowledge)
        spread = honest.std(axis=0, ddof=1) if len(honest) > 1 else np.zeros(honest.shape[1])
        deviation: NDArray[np.float64] = honest.mean(axis=0) - z * spread
        return deviation


def _largest_hidden_z(knowledge: Knowledge) -> float:
    num_honest = knowledge.num_clients - knowledge.num_byzantine
    num_supporters = knowledge.num_clients // 2 + 1 - knowledge.num_byzantine
    if not 0 < num_supporters < num_honest:
        raise ValueError(
            f"ALittleIsEnough has no z of its own for num_clients={knowledge.num_clients}, "
            f"num_byzantine={knowledge.num_byzantine}: give z"
        )
    return NormalDist().inv_cdf((num_honest - num_supporters) / num_honest)
