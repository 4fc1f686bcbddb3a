"""Plays in processes of their own: an attack that kills the server ends its play, nothing else."""

import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

from .. import json_lines
from ..environment import environment
from .order import Order
from .outcome import Event

_POLL_INTERVAL = 0.2

_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ADDRESS": "local",  # a Ray of its own, whatever else runs here
}


def play_apart(order: Order, timeout: float, advance: Callable[[int, int], None]) -> list[Event]:
    """Carry out a play in a new process; return all that it told, its end last.

    Parameters
    ----------
    order : Order
        Its folder is there and empty.
    timeout : float
        Seconds, after which the play counts as hung and its process is killed.
    advance : callable
        Called with the rounds done and their number.
    """
    from .play import carry_out

    since = time.monotonic()
    with environment(_ENVIRONMENT):
        process = get_context("spawn").Process(target=carry_out, args=(order,))
        process.start()
    try:
        while process.is_alive() and time.monotonic() - since < timeout:
            process.join(_POLL_INTERVAL)
            advance(*_rounds(list(json_lines.read(order.events))))
        hung = process.is_alive()
    finally:
        process.kill()  # also where this is interrupted; Ray's processes end with theirs
        process.join()
    events: list[Event] = list(json_lines.read(order.events))
    if not events or events[-1]["event"] != "end":
        reason = f"no end after {timeout:g} s" if hung else f"the process died ({process.exitcode})"
        seconds = round(time.monotonic() - since, 3)
        end = {"end": "hung" if hung else "crashed", "reason": reason, "seconds": seconds}
        events.append({"event": "end", "finite": True, "moved": None, **end})
    return events


def _rounds(events: list[dict[str, Any]]) -> tuple[int, int]:
    number = [event["num_rounds"] for event in events if event["event"] == "begun"]
    return sum(event["event"] == "round" for event in events), number[-1] if number else 0
