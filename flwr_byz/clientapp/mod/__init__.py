"""Client mods, under the names of Flower's own room."""

from .byzantine_mod import ByzantineMod

__all__ = ["ByzantineMod"]
