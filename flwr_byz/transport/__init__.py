"""Between the strategies and Flower's grid: replies as they arrive, within limits."""

from .client import GuardedClient
from .grid import ArrivingGrid, Unreadable
from .limits import ReplyTooLarge, room_for

__all__ = ["ArrivingGrid", "GuardedClient", "ReplyTooLarge", "Unreadable", "room_for"]
