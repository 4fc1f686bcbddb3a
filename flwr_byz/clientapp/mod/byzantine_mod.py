"""A mod that makes the replies of an existing ClientApp Byzantine."""

import os
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, Context, Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.supercore import log

from ... import attacks
from ...attacks import Attack, Knowledge, Schedule
from ...attacks.arrays import flatten, unflatten
from ...attacks.attack import Vector
from . import messages


@dataclass(eq=False)
class ByzantineMod:
    """Make a ClientApp carry out an attack, of either API, without touching its code.

    ``ClientApp(..., mods=[ByzantineMod(attacks.SignFlip(scale=10))])`` replaces the float arrays of
    the app's training replies; other arrays, metrics and evaluation stay as they are. For red-team
    trials of a deployment that is yours. ``"byzantine-nodes"`` of the run config ("0,3,5") are the
    partition ids (or node ids) that attack, ``"byzantine-from-round"`` the first round of theirs.

    Parameters
    ----------
    attack : Attack, optional
        What is sent. By default ``"byzantine-attack"`` of the node config or the run config names
        it (``"SignFlip"``), and ``"byzantine-scale"`` and the like are its parameters; a node where
        it is not named stays honest.
    when : callable, optional
        Maps the number of a round to the Byzantine clients, such as ``attacks.Rotating(20, 4)``, by
        ``"partition-id"`` of their node config. By default every node is one in every round.
    reply : {"weights", "gradients"}, default "weights"
        What the app returns: of weights, attacks see the update from the model that was sent.
    num_clients, num_byzantine : int, optional
        m and q, for attacks that need them. By default "num-partitions" of the node config, and the
        number of clients of `when`, or of colluders.
    colluders : path, optional
        A folder that all colluders on this machine share: attacks that need the honest vectors
        take the colluders' own, which they leave there, as a sample.
    num_colluders : int, optional
        How many leave theirs in a round; needed with `colluders` where there is no `when`.
    timeout : float, default 60.0
        Seconds to wait for the others' vectors, before those that are there are used.
    seed : int, default 0
        Of attacks that draw.

    Raises
    ------
    ValueError
        Where the attack needs to know what a mod cannot: honest vectors without `colluders`, the
        server's batches or rule, or the reply on corrupted labels (give the app corrupted data).
    ConnectionAbortedError
        When called, where the attack stays silent. Flower reports it to the server as an error.
    """

    attack: Attack | None = None
    _: KW_ONLY
    when: Schedule | None = None
    reply: messages.ReplyKind = "weights"
    num_clients: int | None = None
    num_byzantine: int | None = None
    colluders: str | os.PathLike[str] | None = None
    num_colluders: int | None = None
    timeout: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        messages.check_reply_kind(self.reply)
        if self.colluders is not None and self.when is None and self.num_colluders is None:
            raise ValueError("with colluders, give num_colluders or when")
        if self.attack is not None:
            self._check_possible(self.attack)

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Let the app reply, and replace its arrays where it is Byzantine in this round."""
        if not messages.asks_to_train(message):
            return call_next(message, context)
        config = {**context.run_config, **context.node_config}
        client = int(context.node_config.get("partition-id", context.node_id))
        number = messages.server_round(message)
        nodes = str(config.get("byzantine-nodes", "")).replace(",", " ").split()
        attack = self.attack or _configured_attack(config)
        byzantine = [] if self.when is None else sorted(self.when(number))
        if (
            attack is None
            or number < int(config.get("byzantine-from-round", 0))
            or (nodes and not {str(client), str(context.node_id)} & set(nodes))
            or (self.when is not None and client not in byzantine)
        ):
            return call_next(message, context)
        self._check_possible(attack)
        model = flatten(messages.only_array_record(message).to_numpy_ndarrays())
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        record = messages.only_array_record(reply)
        arrays = record.to_numpy_ndarrays()
        origin = model if self.reply == "weights" else np.zeros_like(model)
        own = flatten(arrays) - origin
        num_colluders = self.num_colluders or len(byzantine) or 1
        m = self.num_clients or int(config.get("num-partitions", 0))
        q = self.num_byzantine or num_colluders
        rng = np.random.default_rng([self.seed, client, number])
        honest = None
        if self.colluders is not None and "honest" in attack.requires:
            folder = Path(self.colluders, f"run-{context.run_id}", f"round-{number}")
            honest = self._share(own, folder, client, num_colluders)
        knowledge = Knowledge(
            own,
            m,
            q,
            rng,
            honest,
            client,
            byzantine,
            model,
            uses_gradients=self.reply == "gradients",
        )
        vector = attack(knowledge)
        if vector is None:
            raise ConnectionAbortedError("this client stays silent")
        arrays = attack.corrupt(unflatten(vector + origin, arrays), rng)
        names = list(record)
        names += [f"{names[-1]}-{i}" for i in range(len(names), len(arrays))]
        record.clear()
        record.update({n: Array(array) for n, array in zip(names, arrays, strict=False)})
        return reply

    def _check_possible(self, attack: Attack) -> None:
        possible = {"model"} | ({"honest"} if self.colluders is not None else set())
        if missing := sorted(attack.requires - possible):
            hint = "; give colluders for a sample of them" if missing == ["honest"] else ""
            needs = f"{type(attack).__name__} needs {', '.join(missing)} (see Knowledge)"
            raise ValueError(f"{needs}, which no mod can know{hint}")

    def _share(self, own: Vector, folder: Path, client: int, num_colluders: int) -> Vector:
        """Leave the own vector in the folder and take all that are there, by client."""
        folder.mkdir(parents=True, exist_ok=True)
        written = folder / f"{client}.tmp"
        with written.open("wb") as file:
            np.save(file, own)
        written.replace(written.with_suffix(".npy"))  # whoever sees it sees all of it
        deadline = time.monotonic() + self.timeout
        while len(left := sorted(folder.glob("*.npy"))) < num_colluders:
            if time.monotonic() > deadline:
                log(WARNING, "only %d of %d colluders are there", len(left), num_colluders)
                break
            time.sleep(0.02)
        return np.stack([np.load(file, allow_pickle=False) for file in left])


def _configured_attack(config: Mapping[str, Any]) -> Attack | None:
    """Make the attack that a node config or run config names."""
    name = str(config.get("byzantine-attack", ""))
    if not name:
        return None
    kind = getattr(attacks, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Attack) and kind is not Attack):
        raise ValueError(f"byzantine-attack = {name!r} is no attack of flwr_byz.attacks")
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    keys = {name: f"byzantine-{name.replace('_', '-')}" for name in names}
    return kind(**{name: config[key] for name, key in keys.items() if key in config})
