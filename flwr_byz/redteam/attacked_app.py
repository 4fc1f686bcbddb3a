"""An app's ClientApp, some of whose clients attack."""

import json
import random
import sys

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..attacks.names import parse_attack
from ..clientapp.mod import ByzantineMod
from ..clientapp.mod.messages import asks_to_train, server_round
from .runs import Job

ROLL_CALL = "query.flwr_byz_roll_call"


class AttackedApp(ClientApp):
    """The ClientApp of an app, with `ByzantineMod` in front of it at the Byzantine clients.

    The app itself is imported where it runs. A roll call is answered with the partition id; each
    message gets the run config and a seed of its own.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def __call__(self, message: Message, context: Context) -> Message:
        """Hand a message to the app, or to the attack."""
        job, client = self.job, int(context.node_config["partition-id"])
        seed_everything(job.run.seed, client, server_round(message))
        app: ClientApp = job.app.load(job.app.clientapp)
        if message.metadata.message_type == ROLL_CALL:
            content = RecordDict({"client": ConfigRecord({"partition-id": client})})
            return Message(content, reply_to=message)
        before, context.run_config = context.run_config, dict(job.run_config)
        try:
            if client in job.run.byzantine and asks_to_train(message):
                return _attack(job, app, message, context)
            return app(message, context)
        finally:
            context.run_config = before  # Flower takes back no context with another one


def _attack(job: Job, app: ClientApp, message: Message, context: Context) -> Message:
    is_inside_app = False

    def honest(message: Message, context: Context) -> Message:
        nonlocal is_inside_app
        is_inside_app = True
        reply = app(message, context)
        is_inside_app = False
        return reply

    try:
        asked = json.loads(job.asked(server_round(message)).read_text(encoding="utf-8"))
        mod = ByzantineMod(
            parse_attack(job.run.attack),
            when=asked,
            num_clients=job.run.num_nodes,
            num_byzantine=job.run.num_byzantine,
            colluders=job.folder / "colluders",  # as far as they run at a time:
            num_colluders=min(len(asked), job.num_actors),
            seed=job.run.seed,
        )
        return mod(message, context, honest)
    except Exception as error:
        if not (is_inside_app or isinstance(error, ConnectionAbortedError)):  # it stays silent
            path = job.folder / f"attack-failed-{context.node_config['partition-id']}.txt"
            path.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and, where it is imported, PyTorch's global source of randomness."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
