"""What a Byzantine client sends, and who is Byzantine when. NumPy only; nothing knows Flower.

Vectors are gradients, or updates: trained weights minus the weights that the client was sent.
"""

from .aimed import Adaptive, BatchTakeover, FangKrum, FangTrimmedMean, ModelReplacement
from .attack import Attack, Direction, Knowledge
from .blind import Constant, GaussianNoise, LabelFlip, Malformed, NonFinite, Scale, SignFlip, Silent
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
