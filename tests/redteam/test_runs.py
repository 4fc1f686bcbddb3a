import math

from flwr_byz.redteam.runs import Run, append, load, result_of

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


def test_the_events_of_a_run_come_back_from_the_file(tmp_path):
    path = tmp_path / "runs.jsonl"
    append(path, RUN, [BEGUN, metrics(0, acc=0.1), metrics(1, acc=None, loss=2), END])
    result = load(path, 60)[RUN]
    assert (result.end, result.strategy, result.notes) == ("finished", "FedAvg", ("a note",))
    assert result.metrics["server"]["loss"] == {1: 2.0}
    assert result.metrics["server"]["acc"][0] == 0.1
    assert math.isnan(result.metrics["server"]["acc"][1])
    assert (result.moved, result.finite, result.seconds) == (0.5, True, 3.0)


def test_a_run_without_an_end_is_left_out(tmp_path):
    path = tmp_path / "runs.jsonl"
    append(path, RUN, [BEGUN, metrics(0, acc=0.1)])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"run": {"app": 3}, "event": "end"}\n{"cut o')
    assert load(path, 60) == {}


def test_a_run_that_hung_is_repeated_where_it_gets_more_time(tmp_path):
    path = tmp_path / "runs.jsonl"
    append(path, RUN, [BEGUN, END | {"end": "hung", "seconds": 60.2}])
    assert RUN in load(path, 60)
    assert RUN not in load(path, 120)
    append(path, RUN, [BEGUN, END])
    assert load(path, 120)[RUN].end == "finished"


def test_an_infinite_distance_has_a_form_in_the_file():
    result = result_of(RUN, [BEGUN, END | {"moved": "inf"}])
    assert result.moved == math.inf


def test_runs_that_differ_have_folders_that_differ():
    other = Run("app", "digest", "", 10, 2, 3, 0, "SignFlip", "own")
    assert RUN.title != other.title
    assert RUN.title.startswith("signflip-own-")
