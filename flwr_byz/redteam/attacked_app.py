"""An app's ClientApp, some of whose clients attack."""

import json
import random
import sys

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..attacks import Fixed
from ..clientapp.mod import ByzantineMod
from ..clientapp.mod.messages import asks_to_train, server_round
from .attack_text import parse_attack
from .flower_app import FlowerApp
from .order import Order
from .outcome import PEACE

ROLL_CALL = "query.flwr_byz_roll_call"


class AttackedApp(ClientApp):
    """The ClientApp of an app, with `ByzantineMod` in front of it at the Byzantine clients.

    Ray ships it with every message: the app itself is imported where it runs. It answers a roll
    call with its partition id, and gives each message the run config and a seed of its own.
    """

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order

    def __call__(self, message: Message, context: Context) -> Message:
        """Hand a message to the app, or to the attack."""
        order = self.order
        client = int(context.node_config["partition-id"])
        calls_the_roll = message.metadata.message_type == ROLL_CALL
        seed_everything(order.play.seed, client, 0 if calls_the_roll else server_round(message))
        app = _load(order.app)
        if calls_the_roll:
            content = RecordDict({"client": ConfigRecord({"partition-id": client})})
            return Message(content, reply_to=message)
        own = Context(  # Flower takes back none whose run config has changed
            run_id=context.run_id,
            node_id=context.node_id,
            node_config=context.node_config,
            state=context.state,
            run_config=dict(order.run_config),
        )
        attacks = order.play.attack != PEACE and client in order.byzantine
        try:
            if attacks and asks_to_train(message):
                return _attack(order, app, message, own)
            return app(message, own)
        finally:
            context.state = own.state


def _attack(order: Order, app: ClientApp, message: Message, context: Context) -> Message:
    errors_of_the_app: list[Exception] = []

    def honest(message: Message, context: Context) -> Message:
        try:
            return app(message, context)
        except Exception as error:
            errors_of_the_app.append(error)
            raise

    try:
        return _mod(order, server_round(message))(message, context, honest)
    except ConnectionAbortedError:  # so it stays silent
        raise
    except Exception as error:
        if error not in errors_of_the_app:
            path = order.folder / f"attack-failed-{context.node_config['partition-id']}.txt"
            path.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise


def _mod(order: Order, number: int) -> ByzantineMod:
    """Return the mod of a round: who is asked in it colludes, as far as they run at a time."""
    play = order.play
    asked: list[int] = json.loads(order.asked(number).read_text(encoding="utf-8"))
    return ByzantineMod(
        parse_attack(play.attack),
        when=Fixed(asked),
        num_clients=play.num_nodes,
        num_byzantine=play.num_byzantine,
        colluders=order.folder / "colluders",
        num_colluders=min(len(asked), order.num_actors),
        seed=play.seed,
    )


_loaded: dict[str, ClientApp] = {}


def _load(app: FlowerApp) -> ClientApp:
    """Import the app's ClientApp, once in a process."""
    if app.clientapp not in _loaded:
        _loaded[app.clientapp] = app.load(app.clientapp)
    return _loaded[app.clientapp]


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and, where it is imported, PyTorch's global source of randomness."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
