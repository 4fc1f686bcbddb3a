"""The attacks that know the true parameters, which no client of a real server does."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from flwr_byz.attacks import Attack, Knowledge

_FAR = 1e6


@dataclass(frozen=True)
class AwayFromTruth(Attack):
    """Pull away from θ* with all the weight that a batch has: far off, along θ* − θ.

    The paper's adversary knows all data; this one also knows the true parameters, as no client
    does. A bound on ‖θ − θ*‖ that holds whatever is sent has to hold against it, too.

    Parameters
    ----------
    optimum : tuple of float
        θ*.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model"})
    common: ClassVar[bool] = True
    optimum: tuple[float, ...]

    def __call__(self, knowledge: Knowledge) -> NDArray[np.float64]:
        """Return a gradient whose descent, or an update that, leads straight away from θ*."""
        self.check_known(knowledge)
        assert knowledge.model is not None
        towards = np.asarray(self.optimum) - knowledge.model
        distance = float(np.linalg.norm(towards))
        sent = towards if knowledge.uses_gradients else -towards
        return self.length(knowledge) / distance * sent if distance > 0 else sent

    def length(self, knowledge: Knowledge) -> float:
        """Return the norm of what is sent."""
        return _FAR


@dataclass(frozen=True)
class AwayAmongShort(AwayFromTruth):
    """The same, but as long only as a selection of the m − q shortest replies still takes.

    That is, just shorter than the first honest reply that it then leaves out.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model", "honest"})

    def length(self, knowledge: Knowledge) -> float:
        """Return a little less than the norm of the honest reply that is the (m − 2q + 1)th."""
        assert knowledge.honest is not None
        norms = np.sort(np.linalg.norm(knowledge.honest, axis=1))
        left_out = knowledge.num_clients - 2 * knowledge.num_byzantine
        return float(norms[left_out]) * (1 - 1e-5)
