import math

from flwr_byz.redteam.outcome import Play, append, load, outcome_of

PLAY = Play("app", "digest", "", 10, 2, None, 0, "SignFlip", "own")
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


def test_what_a_play_told_comes_back_from_the_file(tmp_path):
    path = tmp_path / "plays.jsonl"
    append(path, PLAY, [BEGUN, metrics(0, acc=0.1), metrics(1, acc=None, loss=2), END])
    outcome = load(path, 60)[PLAY]
    assert (outcome.end, outcome.strategy, outcome.notes) == ("finished", "FedAvg", ("a note",))
    assert outcome.metrics["server"]["loss"] == {1: 2.0}
    assert outcome.metrics["server"]["acc"][0] == 0.1
    assert math.isnan(outcome.metrics["server"]["acc"][1])
    assert (outcome.moved, outcome.finite, outcome.seconds) == (0.5, True, 3.0)


def test_a_play_without_an_end_is_no_play(tmp_path):
    path = tmp_path / "plays.jsonl"
    append(path, PLAY, [BEGUN, metrics(0, acc=0.1)])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"play": {"app": 3}, "event": "end"}\n{"cut o')
    assert load(path, 60) == {}


def test_a_play_that_hung_is_played_again_where_it_gets_more_time(tmp_path):
    path = tmp_path / "plays.jsonl"
    append(path, PLAY, [BEGUN, END | {"end": "hung", "seconds": 60.2}])
    assert PLAY in load(path, 60)
    assert PLAY not in load(path, 120)
    append(path, PLAY, [BEGUN, END])
    assert load(path, 120)[PLAY].end == "finished"


def test_another_form_is_infinitely_far_away():
    outcome = outcome_of(PLAY, [BEGUN, END | {"moved": "another form"}])
    assert outcome.moved == math.inf


def test_plays_that_differ_have_folders_that_differ():
    other = Play("app", "digest", "", 10, 2, 3, 0, "SignFlip", "own")
    assert PLAY.title != other.title
    assert PLAY.title.startswith("signflip-own-")
