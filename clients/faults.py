"""What devices do that fail: a mod that makes a node's client fail, round after round."""

import os
import time
from collections.abc import Callable

import numpy as np
from flwr.app import Array, Context, Message
from flwr.clientapp.typing import ClientAppCallable

_FLOOD = 16 << 20  # bytes; a model of the experiments has kilobytes


def fail(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Fail as the node's config says: its `faults`, as "raise,late", are taken in turn by round.

    "slow:30" takes 30 seconds.
    """
    names = str(context.node_config["faults"]).split(",")
    server_round = int(str(message.content.config_records["config"]["server-round"]))
    name, *seconds = names[(server_round - 1) % len(names)].split(":")
    return FAULTS[name](message, context, call_next, *map(float, seconds))


def _none(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    return call_next(message, context)


def _raise(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    raise RuntimeError("this client fails on purpose")


def _exit(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    os._exit(3)


def _late(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    seconds = float(str(context.run_config["round-timeout"])) + 1.0
    return _slow(message, context, call_next, seconds)


def _slow(
    message: Message, context: Context, call_next: ClientAppCallable, seconds: float
) -> Message:
    reply = call_next(message, context)
    time.sleep(seconds)
    return reply


def _hang(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    while True:
        time.sleep(1.0)


def _flood(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    reply = call_next(message, context)
    for record in reply.content.array_records.values():
        for name in list(record):
            record[name] = Array(np.zeros(_FLOOD // 8))
    return reply


FAULTS: dict[str, Callable[..., Message]] = {
    "none": _none,
    "raise": _raise,
    "exit": _exit,
    "late": _late,
    "slow": _slow,
    "hang": _hang,
    "flood": _flood,
}
