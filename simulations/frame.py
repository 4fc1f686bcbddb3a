"""Runs as a pandas table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import pandas as pd

from clients.problem import make_problem
from clients.regression import Regression
from clients.rules import batches_of
from clients.run import Run

from .outcome import Outcome


def as_frame(by_name: Mapping[str, Sequence[Run]], outcomes: Mapping[Run, Outcome]) -> pd.DataFrame:
    """Return the runs that are there, one a row.

    Columns are `name`, those of run and outcome, `measure`, `final`, and `rate`: the paper's
    √(dk/N) of a regression, NaN of other problems.
    """
    rows = [
        {"name": name} | asdict(run) | asdict(outcomes[run]) | _derived(run, outcomes[run])
        for name, runs in by_name.items()
        for run in runs
        if run in outcomes
    ]
    columns = [field.name for kind in (Run, Outcome) for field in fields(kind)]
    return pd.DataFrame(rows, columns=["name", *columns, "measure", "final", "rate"])


def _derived(run: Run, outcome: Outcome) -> dict[str, Any]:
    problem = make_problem(run.problem, run.num_clients, run.seed, run.split)
    rate = math.nan
    if isinstance(problem, Regression):
        k = batches_of(run.rule, run.num_clients, run.num_byzantine)
        rate = math.sqrt(problem.dim * k / (problem.num_clients * problem.samples_per_client))
    final = outcome.values[-1] if outcome.values else math.nan
    return {"measure": problem.measure, "final": final, "rate": rate}
