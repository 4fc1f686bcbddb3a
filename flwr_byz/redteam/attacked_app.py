"""An app's ClientApp, some of whose clients attack."""

import json
import os
import random
import sys

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..attacks.names import parse_attack
from ..clientapp.mod import ByzantineMod
from ..clientapp.mod.messages import asks_to_train, server_round
from .runs import Run

ROLL_CALL = "query.flwr_byz_roll_call"


class AttackedApp(ClientApp):
    """The ClientApp of an app, with `ByzantineMod` in front of it at the Byzantine clients.

    The app itself is imported where it runs. A roll call is answered with the partition id; each
    message gets the run config and a seed of its own.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def __call__(self, message: Message, context: Context) -> Message:
        """Hand a message to the app, or to the attack."""
        run, client = self.run, int(context.node_config["partition-id"])
        seed_everything(run.seed, client, server_round(message))
        app: ClientApp = run.app.load(run.app.clientapp)
        if message.metadata.message_type == ROLL_CALL:
            content = RecordDict({"client": ConfigRecord({"partition-id": client})})
            return Message(content, reply_to=message)
        before, context.run_config = context.run_config, dict(run.run_config)
        try:
            if client in run.byzantine and asks_to_train(message):
                return _attack(run, app, message, context)
            return app(message, context)
        finally:
            context.run_config = before  # Flower takes back no context with another one


def _attack(run: Run, app: ClientApp, message: Message, context: Context) -> Message:
    own_errors = []  # of the app

    def honest(message: Message, context: Context) -> Message:
        try:
            return app(message, context)
        except Exception as error:
            own_errors.append(error)
            raise

    try:
        asked = json.loads(run.asked(server_round(message)).read_text(encoding="utf-8"))
        num_cpus = max(run.app.client_resources.get("num_cpus", 1), 1e-9)
        at_a_time = max(1, int((os.cpu_count() or 2) / num_cpus))
        mod = ByzantineMod(
            parse_attack(run.attack),
            when=asked,
            num_clients=run.num_nodes,
            num_byzantine=run.num_byzantine,
            colluders=run.folder / "colluders",
            num_colluders=min(len(asked), at_a_time),
            seed=run.seed,
        )
        return mod(message, context, honest)
    except Exception as error:
        if error not in own_errors and not isinstance(error, ConnectionAbortedError):  # silence
            path = run.folder / f"attack-failed-{context.node_config['partition-id']}.txt"
            path.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and, where it is imported, PyTorch's global source of randomness."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
