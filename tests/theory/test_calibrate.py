import json

from typer import Typer
from typer.testing import CliRunner

from simulations import calibrate


def test_a_table_that_was_interrupted_goes_on_after_its_last_cell(tmp_path, monkeypatch):
    measured = []

    def measure(dim, share, seeds):
        measured.append((share, dim, len(seeds)))
        return 1.0, 0.1

    monkeypatch.setattr(calibrate, "measure_factor", measure)
    monkeypatch.setattr(calibrate, "DIMS", (8, 64))
    monkeypatch.setattr(calibrate, "SHARES", (0.25,))
    app = Typer()
    app.command()(calibrate.main)
    table = tmp_path / "table.jsonl"
    first = {"byzantine_share": 0.0, "dim": 8, "runs": 1, "factor": 2.0, "standard_error": 0.5}
    table.write_text(json.dumps(first) + "\n", encoding="utf-8")
    assert CliRunner().invoke(app, ["--table", str(table)]).exit_code == 0
    assert measured == [(0.0, 64, 128), (0.25, 8, 100), (0.25, 64, 32)]
    cells = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    assert [(cell["byzantine_share"], cell["dim"]) for cell in cells] == [
        (0.0, 8),
        (0.0, 64),
        (0.25, 8),
        (0.25, 64),
    ]
    assert cells[0] == first
    assert cells[1]["factor"] == 1.0
    measured.clear()
    assert CliRunner().invoke(app, ["--table", str(table), "--fresh"]).exit_code == 0
    assert len(measured) == 4
