"""Client mods, under the names of Flower's own room."""

from .byzantine_mod import ByzantineMod
from .client_momentum import ClientMomentum, momentum

__all__ = ["ByzantineMod", "ClientMomentum", "momentum"]
