import math

from flwr_byz import json_lines
from flwr_byz.redteam.flower_app import FlowerApp
from flwr_byz.redteam.runs import Job, Run, load

RUN = Run("app", "digest", "", 10, 2, None, 0, "SignFlip", "own")
BEGUN = {"event": "begun", "strategy": "FedAvg", "notes": ["a note"], "num_rounds": 2}
END = {
    "event": "end",
    "end": "finished",
    "reason": "",
    "moved": 0.5,
    "finite": True,
    "seconds": 3.0,
}


def metrics(number, **values):
    return {"event": "metrics", "source": "server", "round": number, "values": values}


def job(folder, *events):
    made = Job(RUN, FlowerApp(folder, "a:b", "a:c"), {}, 2, folder, folder / "models.npz")
    json_lines.append(made.events, events)
    return made


def test_the_events_of_a_run_make_its_result(tmp_path):
    events = [BEGUN, metrics(0, acc=0.1), metrics(1, acc=None, loss=2), END]
    result = load(job(tmp_path, *events), 60)
    assert (result.end, result.strategy, result.notes) == ("finished", "FedAvg", ("a note",))
    assert result.metrics["server"]["loss"] == {1: 2.0}
    assert result.metrics["server"]["acc"][0] == 0.1
    assert math.isnan(result.metrics["server"]["acc"][1])
    assert (result.moved, result.finite, result.seconds) == (0.5, True, 3.0)


def test_a_run_without_an_end_has_no_result(tmp_path):
    assert load(job(tmp_path), 60) is None
    begun = job(tmp_path, BEGUN, metrics(0, acc=0.1))
    assert load(begun, 60) is None
    with begun.events.open("a", encoding="utf-8") as file:
        file.write('{"event": "end", "cut o')
    assert load(begun, 60) is None


def test_a_run_that_hung_is_repeated_where_it_gets_more_time(tmp_path):
    hung = job(tmp_path, BEGUN, END | {"end": "hung", "seconds": 60.2})
    assert load(hung, 60).end == "hung"
    assert load(hung, 120) is None


def test_an_infinite_distance_has_a_form_in_the_file(tmp_path):
    result = load(job(tmp_path, BEGUN, END | {"moved": "inf"}))
    assert result.moved == math.inf


def test_runs_that_differ_have_folders_that_differ():
    other = Run("app", "digest", "", 10, 2, 3, 0, "SignFlip", "own")
    assert RUN.title != other.title
    assert RUN.title.startswith("signflip-own-")
