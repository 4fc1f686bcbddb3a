"""What `flwr run . --run-config` may say."""

from collections.abc import Mapping
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from .byzantine import Adversary
from .experiments import ATTACKS, EXPERIMENTS, AttackName, Experiment, ExperimentName
from .problem import Problem
from .server_rule import OURS, RuleName, ServerRule


class RunConfig(BaseModel):
    """The run config, checked; its keys have hyphens where the fields have underscores."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
    )

    experiment: ExperimentName
    api: Literal["message", "classic"]
    rule: RuleName
    attack: AttackName
    num_byzantine: int = Field(ge=-1)
    """-1 stands for the experiment's own share of the clients."""
    num_rounds: int = Field(ge=0)
    """0 stands for the experiment's own number."""
    seed: int = Field(ge=0)
    results: str
    """Folder to write to; empty for none."""
    num_clients: int = Field(ge=0)
    """How many nodes to wait for; 0 takes those that are there once no more come."""
    round_timeout: float = Field(gt=0, strict=False)
    """Seconds after which who has not replied is silent."""
    audit: str
    """File for the audit trail of our rule; empty for none."""
    checkpoints: str
    """Folder for checkpoints of our rule, to go on from where it holds one; empty for none."""

    @classmethod
    def parse(cls, run_config: Mapping[str, object]) -> "RunConfig":
        """Check the run config.

        Raises
        ------
        ValueError
            One line that names each wrong key, what was given and what is allowed.
        """
        try:
            return cls.model_validate(dict(run_config))
        except ValidationError as error:
            wrong = [f"{e['loc'][0]} = {e['input']!r}: {e['msg']}" for e in error.errors()]
            raise ValueError("wrong run config: " + "; ".join(wrong)) from None

    @field_validator("audit", "checkpoints")
    @classmethod
    def _is_ours(cls, path: str, info: ValidationInfo) -> str:
        if path and info.data.get("rule") != OURS:
            raise ValueError(f"only the rule {OURS} writes it")
        return path

    def the_experiment(self) -> Experiment:
        """Return the experiment that is named."""
        return EXPERIMENTS[self.experiment]

    def problem(self, num_clients: int) -> Problem:
        """Make the problem for as many clients as there are nodes."""
        return self.the_experiment().problem(num_clients, self.seed)

    def byzantine_among(self, num_clients: int) -> int:
        """Return q for as many clients as there are nodes.

        Raises
        ------
        ValueError
            Where half of the clients or more would be Byzantine.
        """
        experiment = self.the_experiment()
        if self.num_byzantine == -1:
            return num_clients * experiment.num_byzantine // experiment.num_clients
        if 2 * self.num_byzantine >= num_clients:
            raise ValueError(
                f"wrong run config: num-byzantine = {self.num_byzantine}: Input should be at most "
                f"{(num_clients - 1) // 2}, fewer than half of the {num_clients} nodes"
            )
        return self.num_byzantine

    def adversary(self, num_clients: int) -> Adversary | None:
        """Return who carries out the attack; None where nobody does."""
        num_byzantine = self.byzantine_among(num_clients)
        if self.attack == "none" or num_byzantine == 0:
            return None
        rule = ServerRule(self.rule, num_clients, num_byzantine)
        return Adversary.spread(ATTACKS[self.attack](), num_clients, num_byzantine, rule)
