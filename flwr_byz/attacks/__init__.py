"""What a Byzantine client sends, and who is Byzantine when; NumPy alone, without Flower.

Vectors are gradients, or updates: trained weights minus the weights that the server sent.
"""

from ..renamed import renamed_in
from .attack import Attack, Direction, Knowledge
from .blind import Constant, GaussianNoise, LabelFlip, Malformed, NonFinite, Scale, SignFlip, Silent
from .defense_aware import Adaptive, BatchTakeover, FangKrum, FangTrimmedMean, ModelReplacement
from .hidden_shift import HiddenShift
from .omniscient import ALittleIsEnough, InnerProductManipulation, Mimic, MinMax, MinSum
from .schedule import Fixed, FreshEachRound, Rotating, Schedule, one_per_batch, packed

__all__ = [
    "ALittleIsEnough",
    "Adaptive",
    "Attack",
    "BatchTakeover",
    "Constant",
    "Direction",
    "FangKrum",
    "FangTrimmedMean",
    "Fixed",
    "FreshEachRound",
    "GaussianNoise",
    "HiddenShift",
    "InnerProductManipulation",
    "Knowledge",
    "LabelFlip",
    "Malformed",
    "Mimic",
    "MinMax",
    "MinSum",
    "ModelReplacement",
    "NonFinite",
    "Rotating",
    "Scale",
    "Schedule",
    "SignFlip",
    "Silent",
    "one_per_batch",
    "packed",
]

renamed_in(__name__, aimed="defense_aware")
