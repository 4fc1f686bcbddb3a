"""What a Byzantine client sends: pure functions of vectors. NumPy only; nothing knows Flower.

Vectors are gradients, or updates: trained weights minus the weights that the client was sent.
"""

from .attack import Attack, Knowledge
from .blind import GaussianNoise, NonFinite, Scale, SignFlip, Silent
from .omniscient import ALittleIsEnough, InnerProductManipulation

__all__ = [
    "ALittleIsEnough",
    "Attack",
    "GaussianNoise",
    "InnerProductManipulation",
    "Knowledge",
    "NonFinite",
    "Scale",
    "SignFlip",
    "Silent",
]
