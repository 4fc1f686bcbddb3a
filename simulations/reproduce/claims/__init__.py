"""What the paper says, the runs that try it, and what they say: a figure and numbers each.

Nothing here is judged by eye: a verdict follows from the numbers, these from the runs.
"""

from .adversary import (
    BREAKDOWN,
    CORRUPTED_DATA,
    MOVING_SETS,
    ONE_BYZANTINE,
    SELECTION,
    STRONGEST_ATTACK,
)
from .claim import Claim
from .convergence import BOUND, CONVERGENCE, ROUNDS
from .fidelity import ENGINE
from .floor import CHOICE_OF_K, FLOOR_IN_D, FLOOR_IN_N, FLOOR_IN_Q, LOGISTIC, UNEVEN_DATA

CLAIMS: tuple[Claim, ...] = (
    CONVERGENCE,
    BOUND,
    FLOOR_IN_N,
    FLOOR_IN_D,
    FLOOR_IN_Q,
    CHOICE_OF_K,
    ROUNDS,
    ONE_BYZANTINE,
    MOVING_SETS,
    CORRUPTED_DATA,
    UNEVEN_DATA,
    BREAKDOWN,
    SELECTION,
    LOGISTIC,
    STRONGEST_ATTACK,
    ENGINE,
)
