"""A mod that makes the replies of an existing ClientApp Byzantine."""

import hashlib
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from logging import WARNING
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import Array, Context, Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.supercore import log

from ...attacks import Attack, Fixed, Knowledge, Schedule
from ...attacks.arrays import flatten, unflatten
from ...attacks.attack import Vector
from ...attacks.names import CLASSES, attack_class
from ...checks import check_number, wrong_kind
from ...logs import escaped
from ...settings import ReplyKind, check_reply_kind
from . import messages

_LEAST_NODE_ID = 2**32  # larger numbers can be the random ids that Flower gives nodes
_runs_warned: set[int] = set()


@dataclass(eq=False)
class ByzantineMod:
    """Make a ClientApp carry out an attack, of either API, without touching its code.

    ``ClientApp(..., mods=[ByzantineMod(attacks.SignFlip(scale=10))])`` replaces the float arrays of
    the app's training replies; other arrays, metrics and evaluation stay as they are. For red-team
    trials of a deployment that is yours. ``"byzantine-nodes"`` of the run config ("0,3,5") are the
    partition ids (or node ids) that attack, ``"byzantine-from-round"`` the first round of an
    attack. A warning is logged, once per run, where no listed client exists.

    Parameters
    ----------
    attack : Attack, optional
        An object such as ``attacks.SignFlip(scale=10)``. By default ``"byzantine-attack"`` of the
        node config or the run config names its class (``"SignFlip"``), and ``"byzantine-scale"``
        and the like are its parameters; a node without this key stays honest.
    when : set of int or callable, optional
        The Byzantine clients, by ``"partition-id"`` of their node config: the same in every round,
        such as ``{2, 7}``, or a function of the round, such as ``attacks.Rotating(20, 4)``. By
        default every node is Byzantine in every round.
    reply : {"weights", "gradients"}, default "weights"
        What the app returns: of weights, attacks see the update from the model that was sent.
    num_clients, num_byzantine : int, optional
        m and q, for attacks that need them. By default "num-partitions" of the node config, and the
        number of clients of `when`, or of colluders.
    colluders : path, optional
        A folder that all colluders on this machine share: attacks that need the honest vectors
        take the colluders' own, which they leave there, as a sample. Mods that differ in attack,
        clients or another option do not share vectors.
    num_colluders : int, optional
        How many leave theirs in a round; needed with `colluders` where `when` is not given.
    timeout : float, default 60.0
        Seconds to wait for the vectors of other colluders before using those that arrived.
    seed : int, default 0
        Of attacks that draw.

    Raises TypeError where an option is of a wrong kind; ValueError where it has a wrong value, or
    the attack needs to know what a mod cannot: honest vectors without `colluders`, the server's
    batches or rule, or the reply on corrupted labels (give the app corrupted data); when called,
    ConnectionAbortedError where the attack stays silent, which Flower reports to the server as an
    error.
    """

    attack: Attack | None = None
    _: KW_ONLY
    when: Schedule | Collection[int] | None = None
    reply: ReplyKind = "weights"
    num_clients: int | None = None
    num_byzantine: int | None = None
    colluders: str | os.PathLike[str] | None = None
    num_colluders: int | None = None
    timeout: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_reply_kind(self.reply)
        for name in ("num_clients", "num_byzantine", "num_colluders"):
            if (number := getattr(self, name)) is not None:
                check_number(name, number, whole=True, least=1)
        check_number("timeout", self.timeout, least=0)
        check_number("seed", self.seed, whole=True, least=0)
        self._schedule = _schedule(self.when)
        if self.colluders is not None and self.when is None and self.num_colluders is None:
            raise ValueError(f"colluders={self.colluders!r}: give num_colluders or when, too")
        if self.attack is not None:
            self._check_possible(self.attack)

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Let the app reply, and replace its arrays where it is Byzantine in this round."""
        if not messages.asks_to_train(message):
            return call_next(message, context)
        config = {**context.run_config, **context.node_config}
        attack = self.attack or _configured_attack(config)
        if attack is None:
            return call_next(message, context)
        num_partitions = int(config.get("num-partitions", 0))
        client = int(context.node_config.get("partition-id", context.node_id))
        number = messages.server_round(message)
        nodes = str(config.get("byzantine-nodes", "")).replace(",", " ").split()
        byzantine = [] if self._schedule is None else sorted(self._schedule(number))
        for listed in (nodes, [str(each) for each in byzantine]):
            _warn_if_absent(listed, num_partitions, context.run_id)
        if (
            number < int(config.get("byzantine-from-round", 0))
            or (nodes and not {str(client), str(context.node_id)} & set(nodes))
            or (self._schedule is not None and client not in byzantine)
        ):
            return call_next(message, context)
        self._check_possible(attack)
        sent = messages.only_array_record(message).to_numpy_ndarrays()
        if (reply := call_next(message, context)).has_error():
            return reply
        record = messages.only_array_record(reply)
        arrays = record.to_numpy_ndarrays()
        model = flatten(sent, like=arrays)
        origin = model if self.reply == "weights" else np.zeros_like(model)
        own = flatten(arrays) - origin
        num_colluders = self.num_colluders or len(byzantine) or 1
        m, q = self.num_clients or num_partitions, self.num_byzantine or num_colluders
        rng = np.random.default_rng([self.seed, client, number])
        honest = None
        if self.colluders is not None and "honest" in attack.requires:
            settings = type(attack).__qualname__, sorted(vars(attack).items()), byzantine
            options = self.reply, num_colluders, m, q, self.seed, message.metadata.message_type
            key = hashlib.sha256(repr((settings, options)).encode()).hexdigest()[:12]
            folder = Path(self.colluders, f"run-{context.run_id}", f"round-{number}", key)
            honest = self._share(own, folder, client, num_colluders)
        known = own, m, q, rng, honest, client, byzantine, model
        vector = attack(Knowledge(*known, uses_gradients=self.reply == "gradients"))
        if vector is None:
            raise ConnectionAbortedError("this client stays silent")
        arrays = attack.corrupt(unflatten(vector + origin, arrays), rng)
        names = list(record)
        names += [f"{names[-1]}-{i}" for i in range(len(names), len(arrays))]
        record.clear()
        record.update({n: Array(array) for n, array in zip(names, arrays, strict=False)})
        return reply

    def _check_possible(self, attack: object) -> None:
        if not isinstance(attack, Attack):
            name = attack.__name__ if isinstance(attack, type) else str(attack)
            known = f"attacks.{name}()" if name in CLASSES else "attacks.SignFlip(scale=10)"
            raise wrong_kind("attack", f"an attack object, as in ByzantineMod({known})", attack)
        possible = {"model"} if self.colluders is None else {"model", "honest"}
        if missing := sorted(attack.requires - possible):
            hint = "; give colluders for a sample of them" if missing == ["honest"] else ""
            needs = f"{type(attack).__name__} needs {', '.join(missing)} (see Knowledge)"
            raise ValueError(f"{needs}, which no mod can know{hint or '; choose another attack'}")

    def _share(self, own: Vector, folder: Path, client: int, num_colluders: int) -> Vector:
        """Leave the own vector in the folder and take all that are there, by client."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{client}.tmp").open("wb") as file:
            np.save(file, own)
        Path(file.name).replace(folder / f"{client}.npy")  # whoever sees it sees all of it
        deadline = time.monotonic() + self.timeout
        while len(left := list(folder.glob("*.npy"))) < num_colluders:
            if time.monotonic() > deadline:
                log(WARNING, "only %d of %d colluders are there", len(left), num_colluders)
                break
            time.sleep(0.02)
        by_client = sorted(left, key=lambda path: int(path.stem))
        return np.stack([np.load(path, allow_pickle=False) for path in by_client])


def _schedule(when: Any) -> Schedule | None:
    if when is None or (callable(when) and not isinstance(when, type)):
        return cast(Schedule | None, when)
    try:
        return Fixed(when)
    except TypeError:
        schedule = "attacks.Rotating(20, 4)"
        needed = f"a set of partition-ids such as {{2, 7}}, or a schedule such as {schedule}"
        raise wrong_kind("when", needed, when) from None


def _warn_if_absent(listed: Collection[str], num_partitions: int, run_id: int) -> None:
    """Log a warning, once per run, where clients are listed but none of them can exist."""
    numbers = [int(each) for each in listed if each.isdecimal()]
    exists = any(each < num_partitions or each >= _LEAST_NODE_ID for each in numbers)
    if listed and num_partitions and not exists and run_id not in _runs_warned:
        _runs_warned.add(run_id)
        text = "none of the listed clients {%s} exists: partition-ids run from 0 to %d"
        log(WARNING, text, escaped(", ".join(listed)), num_partitions - 1)


def _configured_attack(config: Mapping[str, Any]) -> Attack | None:
    """Make the attack that a node config or run config names."""
    name = str(config.get("byzantine-attack", ""))
    if not name:
        return None
    try:
        kind = attack_class(name)
    except ValueError as error:
        raise ValueError(f"byzantine-attack: {error}") from None
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    keys = {name: f"byzantine-{name.replace('_', '-')}" for name in names}
    return kind(**{name: config[key] for name, key in keys.items() if key in config})
