"""What a study is made of: a TOML file of runs and of how to look at them, checked."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from clients.run import NO_ATTACK, Run

from .views import View

STUDIES = Path(__file__).parent / "studies"

_KEYS = {field.name for field in fields(Run)} - {"seed"} | {"name", "seeds"}
_read_run = TypeAdapter(Run).validate_python
_read_views = TypeAdapter(tuple[View, ...]).validate_python


def names() -> list[str]:
    """Return the studies of this repository."""
    return sorted(path.stem for path in STUDIES.glob("*.toml"))


@dataclass(frozen=True)
class Declaration:
    """A study.

    Attributes
    ----------
    title : str
    grids : sequence of mapping
        Each is every combination of what is listed: its keys are the attributes of
        `clients.run.Run`, with one value or a list of them, the number of `seeds` from 0 on, and a
        `name` that a view calls the runs by. With no Byzantine client, only "none" of the attacks
        is run. What stands above the tables of the file is part of
        each grid that does not have it.
    views : sequence of View
    """

    title: str
    grids: tuple[Mapping[str, Any], ...]
    views: tuple[View, ...]

    def runs(self, most_seeds: int | None = None) -> dict[str, list[Run]]:
        """List the runs of each name, in their order."""
        found: dict[str, list[Run]] = {}
        for grid in self.grids:
            found.setdefault(grid.get("name", ""), []).extend(_runs(grid, most_seeds))
        return found


def load(path: Path) -> Declaration:
    """Read a declaration.

    Raises
    ------
    ValueError
        One line that names what is wrong, what was given and what is allowed.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        title, views = content.pop("title", path.stem), _read_views(content.pop("view", []))
        grids = content.pop("grid", [{}])
        declaration = Declaration(title, tuple(content | grid for grid in grids), views)
        for runs in declaration.runs(most_seeds=1).values():
            for run in runs:
                run.check()
    except ValidationError as error:
        raise ValueError(f"{path}: {_line(error)}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return declaration


def _runs(grid: Mapping[str, Any], most_seeds: int | None) -> Iterator[Run]:
    """List the runs of a grid, seed by seed."""
    if unknown := set(grid) - _KEYS:
        raise ValueError(f"no run has {', '.join(sorted(unknown))}; it has {', '.join(_KEYS)}")
    seeds = grid.get("seeds", 1)
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds must be a whole number of at least 1, got {seeds!r}")
    lists = {
        key: value if isinstance(value, list) else [value]
        for key, value in grid.items()
        if key not in ("name", "seeds")
    }
    for seed in range(min(seeds, most_seeds or seeds)):
        for values in product(*lists.values()):
            run = _read_run(dict(zip(lists, values, strict=True)) | {"seed": seed})
            if run.num_byzantine or run.attack == NO_ATTACK:
                yield run


def _line(error: ValidationError) -> str:
    wrong = (f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors())
    return "; ".join(wrong)
