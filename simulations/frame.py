"""Runs as a pandas table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

import pandas as pd

from clients.problem import make_problem
from clients.run import Run

from .outcome import Outcome


def as_frame(by_name: Mapping[str, Sequence[Run]], outcomes: Mapping[Run, Outcome]) -> pd.DataFrame:
    """Return the runs that are there, one a row: `name`, run, outcome, `measure` and `final`."""
    rows = [
        {"name": name}
        | asdict(run)
        | asdict(outcomes[run])
        | {
            "measure": make_problem(run.problem, run.num_clients, run.seed, run.split).measure,
            "final": outcomes[run].values[-1] if outcomes[run].values else math.nan,
        }
        for name, runs in by_name.items()
        for run in runs
        if run in outcomes
    ]
    columns = [field.name for kind in (Run, Outcome) for field in fields(kind)]
    return pd.DataFrame(rows, columns=["name", *columns, "measure", "final"])
