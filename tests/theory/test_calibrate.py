import json

import pytest
from typer import Typer
from typer.testing import CliRunner

from flwr_byz.theory import calibration
from simulations import calibrate


def test_a_table_that_was_interrupted_goes_on_after_its_last_cell(tmp_path, monkeypatch):
    measured = []

    def measure(dim, share, seeds):
        measured.append((share, dim, len(seeds)))
        return 1.0, 0.1

    monkeypatch.setattr(calibrate, "measure_factor", measure)
    monkeypatch.setattr(calibrate, "DIMS", (8, 64))
    monkeypatch.setattr(calibrate, "SHARES", (0.25,))
    app, table = Typer(), tmp_path / "table.jsonl"
    app.command()(calibrate.main)
    first = {"byzantine_share": 0.0, "dim": 8, "runs": 1, "factor": 2.0, "standard_error": 0.5}
    table.write_text(json.dumps(first) + "\n", encoding="utf-8")
    assert CliRunner().invoke(app, ["--table", str(table)]).exit_code == 0
    assert measured == [(0.0, 64, 128), (0.25, 8, 100), (0.25, 64, 32)]
    cells = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    assert cells[0] == first
    made = [(cell["byzantine_share"], cell["dim"], cell["factor"]) for cell in cells[1:]]
    assert made == [(0.0, 64, 1.0), (0.25, 8, 1.0), (0.25, 64, 1.0)]
    assert CliRunner().invoke(app, ["--table", str(table), "--fresh"]).exit_code == 0
    assert len(measured) == 3 + 4


def test_a_cell_of_the_table_comes_out_again():
    runs = range(calibrate.num_runs(32, 0.25))
    factor, standard_error = calibrate.measure_factor(32, 0.25, runs)
    assert calibration.attack_factor(32, 40, 10) == pytest.approx(factor, abs=2e-4)
    assert standard_error < 0.03
