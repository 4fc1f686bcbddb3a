"""What a matrix is made of: a TOML file, checked."""

import tomllib
from pathlib import Path
from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from clients.experiments import AttackName
from clients.partition import check_split
from clients.pools import POOLS

from .engine import NOBODY, REGRESSION, Cell
from .rules import RuleName

ATTACKS: tuple[AttackName, ...] = tuple(name for name in get_args(AttackName) if name != NOBODY)


def _check_problem(name: str) -> str:
    if name != REGRESSION and name not in POOLS:
        raise ValueError(f"must be one of {', '.join((REGRESSION, *POOLS))}")
    return name


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProblemPart(_Part):
    """A problem, for how many rounds it is trained, and with how many seeds, from 0 on."""

    name: Annotated[str, AfterValidator(_check_problem)]
    rounds: int = Field(ge=1)
    seeds: int = Field(ge=1)


class RulePart(_Part):
    """A rule at the server, and β of its clients' momentum."""

    name: RuleName
    momentum: float = Field(default=0.0, ge=0, lt=1)


class Declaration(_Part):
    """A matrix: every combination of what is listed.

    Attributes
    ----------
    clients : int
        m.
    byzantine : sequence of float
        Shares q/m. Each rule is set for q, and played with nobody attacking and with q attackers.
    splits : sequence of str
        How data are spread, as in `clients.partition`.
    attacks : sequence of str
        All by default.
    problems : sequence of ProblemPart
    rules : sequence of RulePart
    """

    clients: int = Field(ge=4)
    byzantine: tuple[Annotated[float, Field(ge=0, lt=0.5)], ...] = Field(min_length=1)
    splits: tuple[Annotated[str, AfterValidator(check_split)], ...] = Field(min_length=1)
    attacks: tuple[AttackName, ...] = ATTACKS
    problems: tuple[ProblemPart, ...] = Field(min_length=1)
    rules: tuple[RulePart, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole_numbers(self) -> "Declaration":
        for share in self.byzantine:
            if abs(share * self.clients - round(share * self.clients)) > 1e-9:
                raise ValueError(f"byzantine: {share} of {self.clients} clients is not a number")
        return self

    def cells(self) -> list[Cell]:
        """List the runs: problem by problem, and of each, seed by seed."""
        return [
            Cell(
                problem=problem.name,
                split=split,
                rule=rule.name,
                momentum=rule.momentum,
                attack=attack,
                m=self.clients,
                q=q,
                rounds=problem.rounds,
                seed=seed,
            )
            for problem in self.problems
            for seed in range(problem.seeds)
            for split in self.splits
            for q in (round(share * self.clients) for share in self.byzantine)
            for attack in (NOBODY, *(self.attacks if q else ()))
            for rule in self.rules
        ]


def load(path: Path) -> Declaration:
    """Read a declaration.

    Raises
    ------
    ValueError
        One line that names what is wrong, what was given and what is allowed.
    """
    try:
        return Declaration.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors()
        ]
        raise ValueError(f"{path}: {'; '.join(wrong)}") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
