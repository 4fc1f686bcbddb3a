"""Between the strategies and Flower's grid: replies as they arrive, within limits."""

from .arrivals import Unreadable
from .client import GuardedClient
from .grid import ArrivingGrid, AsyncGrid
from .limits import ReplyTooLarge, room_for

__all__ = ["ArrivingGrid", "AsyncGrid", "GuardedClient", "ReplyTooLarge", "Unreadable", "room_for"]
