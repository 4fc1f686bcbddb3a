"""`NumPyClient`s (classic API) of any problem: an honest one, and one that is Byzantine."""

from flwr.client import NumPyClient
from flwr.common import Scalar

from .byzantine import Adversary, byzantine_reply
from .problem import Arrays, Problem


class HonestClient(NumPyClient):
    """Replies what the problem asks of an honest client.

    Parameters
    ----------
    problem : Problem
    client : int
        Its partition id, which it reports among its metrics.
    """

    def __init__(self, problem: Problem, client: int) -> None:
        self.problem = problem
        self.client = client

    def fit(
        self, parameters: Arrays, config: dict[str, Scalar]
    ) -> tuple[Arrays, int, dict[str, Scalar]]:
        """Reply gradients or trained weights; `config` has to hold "server-round"."""
        arrays, num_examples, metrics = self.reply(parameters, int(config["server-round"]))
        return arrays, num_examples, {**metrics, "partition-id": self.client}

    def evaluate(
        self, parameters: Arrays, config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]:
        """Evaluate the model on the client's data."""
        loss, num_examples, metrics = self.problem.evaluate_client(self.client, parameters)
        return loss, num_examples, dict(metrics)

    def reply(self, arrays: Arrays, server_round: int) -> tuple[Arrays, int, dict[str, float]]:
        """Return the arrays, number of examples and metrics to send."""
        return self.problem.reply(self.client, arrays, server_round)


class ByzantineClient(HonestClient):
    """Carries out the adversary's attack in the rounds in which it is Byzantine.

    Parameters
    ----------
    problem : Problem
    client : int
    adversary : Adversary

    Raises
    ------
    ConnectionAbortedError
        From `fit`, where the attack is to stay silent: Flower counts a failure.
    """

    def __init__(self, problem: Problem, client: int, adversary: Adversary) -> None:
        super().__init__(problem, client)
        self.adversary = adversary

    def reply(self, arrays: Arrays, server_round: int) -> tuple[Arrays, int, dict[str, float]]:
        """Return what the attack sends; the honest reply where others are Byzantine."""
        if self.client not in self.adversary.choose(server_round, arrays):
            return super().reply(arrays, server_round)
        reply = byzantine_reply(self.problem, self.adversary, self.client, arrays, server_round)
        if reply is None:
            raise ConnectionAbortedError("this client stays silent")
        return reply
