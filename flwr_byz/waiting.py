"""Waiting for clients to connect, and saying for how many."""

import time
from collections.abc import Callable
from logging import WARNING
from math import inf

from flwr.supercore import log

_POLL_INTERVAL = 1.0  # seconds
_LOG_INTERVAL = 30.0  # seconds


def wait_for(
    connected: Callable[[], int], needed: int, num_byzantine: int | None, limit: float = inf
) -> bool:
    """Wait until so many clients are connected; return whether they are after `limit` seconds.

    The log says at once and every 30 seconds what is waited for.
    """
    q = num_byzantine or 0
    need = f"{needed} nodes are needed (by num_batches, or the minimum numbers that were given)"
    if q and needed == 2 * q + 1:
        need = f"num_byzantine={q} needs 2q + 1 = {needed} nodes"
    enough = max(needed, 5 * q)
    simulation = f"in a simulation: --federation-config num-supernodes={enough}"
    since = time.monotonic()
    next_line = since
    while (number := connected()) < needed:
        now = time.monotonic()
        if now >= next_line:
            log(WARNING, "Waiting: %s, %d are connected; %s", need, number, simulation)
            next_line = now + _LOG_INTERVAL
        if now - since >= limit:
            log(WARNING, "too few clients came in %.0f s: the model is kept", now - since)
            return False
        time.sleep(_POLL_INTERVAL)
    return True
