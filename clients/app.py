"""The ClientApps: one for each of Flower's APIs, over the same clients, and the Flower App's."""

from collections.abc import Callable
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import Client
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from .byzantine import Adversary
from .faults import fail
from .numpy_client import ByzantineClient, HonestClient
from .problem import Problem
from .run import Run, adversary_of, problem_of
from .run_config import RunConfig


def make_client(problem: Problem, adversary: Adversary | None, context: Context) -> HonestClient:
    """Make the client of the partition that a node holds."""
    client = int(context.node_config["partition-id"])
    if adversary is None:
        return HonestClient(problem, client)
    return ByzantineClient(problem, client, adversary)


def classic_client_app(
    problem: Problem, adversary: Adversary | None = None, mods: list[Mod] | None = None
) -> ClientApp:
    """Return a ClientApp of `NumPyClient`s."""

    def client_fn(context: Context) -> Client:
        return make_client(problem, adversary, context).to_client()

    return ClientApp(client_fn=client_fn, mods=mods)


def message_client_app(
    problem: Problem, adversary: Adversary | None = None, mods: list[Mod] | None = None
) -> ClientApp:
    """Return a ClientApp for the Message API."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = make_client(problem, adversary, context)
        record = message.content.array_records["arrays"]
        config = dict(message.content.config_records["config"])
        arrays, num_examples, metrics = client.fit(record.to_numpy_ndarrays(), config)
        names = [*record, *(f"more-{i}" for i in range(len(arrays)))]  # an attack may send more
        named = {name: Array(array) for name, array in zip(names, arrays, strict=False)}
        return _reply(message, num_examples, metrics, arrays=ArrayRecord(named))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        client = make_client(problem, adversary, context)
        arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
        loss, num_examples, metrics = client.evaluate(arrays, {})
        return _reply(message, num_examples, {**metrics, "loss": loss})

    return app


def _reply(
    message: Message, num_examples: int, metrics: dict[str, Any], **records: ArrayRecord
) -> Message:
    record = MetricRecord({**metrics, "num-examples": num_examples})
    return Message(RecordDict({**records, "metrics": record}), reply_to=message)


class ChoosingClientApp(ClientApp):
    """A ClientApp that hands each message to another one.

    Parameters
    ----------
    choose : callable
        Returns the ClientApp for a message and its context.
    """

    def __init__(self, choose: Callable[[Message, Context], ClientApp]) -> None:
        super().__init__()
        self._choose = choose

    def __call__(self, message: Message, context: Context) -> Message:
        """Hand over the message."""
        return self._choose(message, context)(message, context)


def _as_configured(message: Message, context: Context) -> ClientApp:
    """Serve the run that the run config names.

    A node whose own config names `faults` fails by them.
    """
    config = RunConfig.parse(context.run_config)
    mods = [fail] if "faults" in context.node_config else []
    return app_of(config.run(int(context.node_config["num-partitions"])), mods)


def app_of(run: Run, mods: list[Mod] | None = None) -> ClientApp:
    """Return the ClientApp of a run."""
    make_app = message_client_app if run.api == "message" else classic_client_app
    problem = problem_of(run)
    return make_app(problem, adversary_of(run, problem), mods)


app = ChoosingClientApp(_as_configured)
