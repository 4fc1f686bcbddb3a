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

from .rules import GMOM, OWN, writes_files
from .run import Run

_SHARE = 8  # one client in so many is Byzantine by default


class RunConfig(BaseModel):
    """The run config, checked; its keys have hyphens where the fields have underscores."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
    )

    problem: str
    rule: str
    attack: str
    api: Literal["message", "classic"]
    num_byzantine: int = Field(ge=-1)
    """-1 stands for an eighth of the clients."""
    num_rounds: int = Field(ge=1)
    seed: int = Field(ge=0)
    results: str
    """Folder to write to; empty for none."""
    num_clients: int = Field(ge=0)
    """How many nodes to wait for; 0 takes those that are there once no more come."""
    round_timeout: float = Field(gt=0, strict=False)
    """Seconds after which who has not replied is silent."""
    audit: str
    """File for the audit trail of this package's rules; empty for none."""
    checkpoints: str
    """Folder for their checkpoints, to go on from where it holds one; empty for none."""

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
    def _has_them(cls, path: str, info: ValidationInfo) -> str:
        if path and not writes_files(info.data.get("rule", GMOM)):
            raise ValueError(f"only the rules {', '.join(OWN)} write it")
        return path

    def run(self, num_clients: int) -> Run:
        """Return the run on as many clients as there are nodes.

        Raises
        ------
        ValueError
            Where a key has no such value, or half of the clients or more would be Byzantine.
        """
        q = num_clients // _SHARE if self.num_byzantine == -1 else self.num_byzantine
        if 0 < num_clients <= 2 * q:
            raise ValueError(
                f"wrong run config: num-byzantine = {q}: Input should be at most "
                f"{(num_clients - 1) // 2}, fewer than half of the {num_clients} nodes"
            )
        run = Run(
            problem=self.problem,
            rule=self.rule,
            attack=self.attack,
            num_clients=num_clients,
            num_byzantine=q,
            num_rounds=self.num_rounds,
            seed=self.seed,
            api=self.api,
            through="flower",
        )
        try:
            run.check()
        except ValueError as error:
            raise ValueError(f"wrong run config: {error}") from None
        return run
