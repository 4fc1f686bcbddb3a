"""Where a view of a study looks, and where its files go."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from flwr_byz.pages import Picture, Section, Table, save

from . import tables
from .tables import Study
from .views import View

Part = tuple[Section, int]
"""A section of the page, and how many of its tables are printed, too."""


@dataclass(frozen=True)
class Look:
    """A view of a study: where it looks, and where its files go."""

    study: Study
    splits: Sequence[str]
    q: int
    folder: Path

    @classmethod
    def at(cls, study: Study, view: View, folder: Path) -> "Look":
        """Look at a study as a view asks for."""
        q = study.num_byzantine if view.num_byzantine is None else view.num_byzantine
        return cls(study, view.splits or study.splits, q, folder)

    def section(
        self, what: str, shown: Sequence[Picture], made: Sequence[Table], more: str = ""
    ) -> Section:
        """Return a section that says what was run, and more."""
        runs = self.study.runs
        text = f"m = {runs.num_clients[0]}, q = {self.q}, {self.study.num_rounds} rounds, "
        text += f"seeds: {runs.seed.nunique()}, measured by {self.study.measure}. {more}"
        return Section(f"{self.study.name}: {what}", text.strip(), shown, made)

    def picture(self, figure: Figure, *names: str) -> Picture:
        """Save a picture."""
        alt = ", ".join(filter(None, (self.study.name, *names)))
        return Picture(save(figure, self.folder / self._name(names))[1], alt)

    def table(self, frame: pd.DataFrame, *names: str) -> None:
        """Save a table."""
        path = self.folder / f"{self._name(names)}.csv"
        frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")

    def _name(self, names: Sequence[str]) -> str:
        runs = self.study.runs
        joined = {"num_rounds"} if runs.num_rounds.nunique() > 1 else {}
        of_study = runs.loc[0, [name for name in tables.STUDY if name not in joined]]
        whole = " ".join(map(str, (*of_study, *names, f"q{self.q}")))
        kept = "".join(c if c.isascii() and (c.isalnum() or c == ".") else " " for c in whole)
        return "-".join(kept.lower().split())
