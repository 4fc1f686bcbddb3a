"""What the strategies work with: each line of docs/works-with.md names a test of these."""

import logging
import re
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.client.mod import secaggplus_mod
from flwr.server import LegacyContext, ServerConfig
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.supercore.privacy_accounting import SamplingMethod

from flwr_byz import transport
from flwr_byz.serverapp.strategy import guarded
from tests.support import app_grid
from tests.support.apis import BOTH, CLASSIC, MESSAGE
from tests.support.app_grid import MODEL, NUM_NODES, NUM_ROUNDS, attack, trained

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def logged(caplog):
    """Return the lines of the log; what is logged once is so in each test."""
    transport.client._log_once.cache_clear()
    guarded._warn_once.cache_clear()
    caplog.set_level(logging.INFO, "flwr")
    return lambda text: [m for m in caplog.messages if text in m]


def gmom(api, **options):
    options = {"num_byzantine": 2} | api.initial(MODEL) | options
    return api.own.GeometricMedianOfMeans(**options)


def hardened(api, strategy, num_byzantine=2, **options):
    return api.own.Hardened(strategy, num_byzantine=num_byzantine, **options)


def check_trained(model, tolerance=0.02, num_rounds=NUM_ROUNDS):
    """Check that every round moved the model by one, as honest clients do."""
    assert model
    assert all(np.abs(array - num_rounds).max() < tolerance for array in model)


def changed(node, change):
    """Return a mod by which a node changes the arrays that it replies, knowing those sent."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        if message.metadata.message_type == "train" and context.node_id == node:
            (sent,) = message.content.array_records.values()
            ((name, arrays),) = reply.content.array_records.items()
            reply.content[name] = change(sent, arrays)
        return reply

    return mod


def unchanged(step=0.0):
    """Return a mod by which a node replies the model that was sent, or nearly so."""
    step = np.float32(step)
    return changed(5, lambda sent, _: ArrayRecord([a.numpy() + step for a in sent.values()]))


FAILING = changed(2, lambda sent, arrays: sent["none of this name"])
MALFORMED = changed(5, lambda sent, arrays: ArrayRecord([np.zeros(7)]))


NOISE, CLIP = 0.001, 100.0  # little noise, and little is clipped: an attack would show


def private(api, kind, strategy, **options):
    """Return a wrapper of Flower's around a strategy."""
    options |= {"clipping_norm" if kind.endswith("Fixed") else "initial_clipping_norm": CLIP}
    wrapper = getattr(api.flower, f"DifferentialPrivacy{kind}Clipping")
    return wrapper(strategy, NOISE, num_sampled_clients=NUM_NODES, **options)


def without_bit(message, context, call_next):
    reply = call_next(message, context)
    for record in reply.content.values() if context.node_id == 5 else ():
        record.pop("norm_bit", None)
    return reply


ROUNDS = [  # a wrapper, whether a robust rule is in it, mods, and what is logged
    ("ServerSide", False, [FAILING, MALFORMED], "are clipped by value"),
    ("ServerSide", True, [FAILING, attack(5)], "are clipped by value"),
    *(("ServerSide", True, [unchanged(step)], "it is the model that was") for step in (0.0, 1e-30)),
    ("ClientSide", True, [attack(2), unchanged()], "clipping_mod: "),
    ("ClientSide", True, [without_bit], "differ from those of most clients in ['norm_bit']"),
]


@BOTH
@pytest.mark.parametrize("kind", ["Fixed", "Adaptive"])
@pytest.mark.parametrize(("side", "is_robust", "mods", "line"), ROUNDS)
def test_hardened_around_privacy(api, kind, side, is_robust, mods, line, logged):
    inner = gmom(api) if is_robust else api.flower.FedAvg(**api.initial(MODEL))
    clipping = [getattr(api.mods, f"{kind.lower()}clipping_mod")] if side == "ClientSide" else []
    strategy = hardened(api, private(api, side + kind, inner))
    check_trained(trained(api, strategy, mods + clipping), 0.2)
    assert logged("central DP noise")
    assert logged(line) or (kind, mods) == ("Fixed", [without_bit])  # which has no bit


@pytest.mark.parametrize("num_failing", [0, 1])
def test_accounts_of_privacy_need_a_usable_reply_of_every_client(num_failing, logged):
    none, accountant = SamplingMethod.NO_AMPLIFICATION, Mock()
    accountant.config = Mock(sampling_method=none, population_size=NUM_NODES, max_epsilon=None)
    accountant.get_privacy_spent.return_value = Mock(epsilon=1.0, delta=1e-5, num_releases=1)
    inner = private(MESSAGE, "ServerSideFixed", MESSAGE.flower.FedAvg(), accountant=accountant)
    model = trained(MESSAGE, hardened(MESSAGE, inner), [FAILING] * num_failing)
    num_steps = 0 if num_failing else NUM_ROUNDS
    check_trained(model, 0.2, num_steps)
    assert accountant.compose.call_count == num_steps
    differs = logged("(10) differs from the number of sampled clients (11)")
    assert bool(differs) == bool(num_failing)


@BOTH
def test_privacy_without_hardened_lets_one_client_end_the_run(api):
    check_trained(trained(api, private(api, "ServerSideFixed", gmom(api)), [attack(2, 5)]), 0.2)
    with pytest.raises(ValueError, match="broadcast"):
        trained(api, private(api, "ServerSideFixed", gmom(api)), [MALFORMED])


@BOTH
def test_mods_behind_the_byzantine_one(api, logged):
    local = api.mods.LocalDpMod(CLIP, 1e-4, 1.0, 0.1)
    mods = [attack(2, 5), local, api.mods.arrays_size_mod, api.mods.message_size_mod]
    check_trained(trained(api, gmom(api), mods))
    for line in ("local DP noise", "Outgoing message size", "Total array elements sent"):
        assert logged(line)
    assert not logged("past their clients")  # where Flower's own server asks them


def test_mods_of_training_fail_in_evaluation_where_the_whole_app_has_them(logged):
    app = app_grid.client_app(MESSAGE, app_mods=[attack(2), MESSAGE.mods.fixedclipping_mod])
    strategy = hardened(MESSAGE, private(MESSAGE, "ClientSideFixed", gmom(MESSAGE)))
    check_trained(trained(MESSAGE, strategy, app=app), 0.2)
    failures = logged("11 of 11 clients failed alike: this looks like your app, not an attack")
    assert len(failures) == NUM_ROUNDS
    assert all("fixedclipping_mod requires the key 'clipping_norm'" in line for line in failures)


@BOTH
def test_a_fraction_of_the_clients(api, logged):
    fraction = {"fraction_fit" if api is CLASSIC else "fraction_train": 0.5}
    check_trained(trained(api, gmom(api, **fraction), [attack(2, 5)]))
    assert logged("sampled 5 clients" if api is CLASSIC else "Sampled 5 nodes")


@pytest.mark.parametrize("make", [gmom, lambda api, **o: hardened(api, api.flower.FedMedian(**o))])
def test_own_record_keys(make):
    keys = {"arrayrecord_key": "model", "configrecord_key": "settings", "weighted_by_key": "n"}
    app = app_grid.client_app(MESSAGE, [attack(2, 5)], arrays_key="model", weight_key="n")
    check_trained(trained(MESSAGE, make(MESSAGE, **keys), app=app))


@BOTH
def test_five_thousand_arrays(api):
    model = [np.zeros(2, "f4")] * 5000
    replies = [app_grid.moved(model, 0), app_grid.moved(model, 1), [np.full(2, -1e6, "f4")] * 5000]
    arrays, _ = api.step(replies, model, num_byzantine=1)
    assert len(arrays) == 5000
    check_trained(arrays, num_rounds=1)


@BOTH
@pytest.mark.parametrize("name", ["GeometricMedianOfMeans", "Hardened"])
def test_subclasses_and_mixins_that_save_models_and_change_what_is_sent(api, name):
    def start(self, *arguments):
        saved.append("start")
        return super(Saving, self).start(*arguments)

    def configure(self, *arguments, **named):
        made = list(getattr(super(Saving, self), configures)(*arguments, **named))
        for each in made:
            config = each[1].config if api is CLASSIC else each.content["config"]
            config["rate"] = 0.1
        return made

    def aggregate(self, *arguments):
        made = getattr(super(Saving, self), api.method)(*arguments)
        saved.append(made[0] is not None)
        return made

    def noting(message, context, call_next):
        rates.update(r.get("rate") for r in message.content.config_records.values())
        return call_next(message, context)

    saved, rates, configures = [], set(), api.method.replace("aggregate", "configure")
    methods = {"start": start, configures: configure, api.method: aggregate}
    Saving = type("Saving", (), methods)
    kind, initial = type("Mixed", (Saving, getattr(api.own, name)), {}), api.initial(MODEL)
    inner = [api.flower.FedMedian(**initial)] if name == "Hardened" else []
    strategy = kind(*inner, num_byzantine=2, **({} if inner else initial))
    check_trained(trained(api, strategy, [attack(2, 5), noting]))
    assert saved == ["start"] * (api is MESSAGE) + [True, True]
    assert rates - {None} == {0.1}


def test_hooks_of_a_wrapped_strategy_act_at_the_outermost(logged):
    ends = []
    inner = gmom(MESSAGE, on_round_end=lambda *_: ends.append("inner"))
    wrapped = private(MESSAGE, "ServerSideFixed", inner)
    strategy = hardened(MESSAGE, wrapped, on_round_end=lambda *_: ends.append("outer"))
    check_trained(trained(MESSAGE, strategy), 0.2)
    assert ends == ["outer"] * NUM_ROUNDS
    assert logged("the loop that runs is not GeometricMedianOfMeans.start: no use of on_round_end")


@pytest.mark.parametrize("protected", [False, True])
def test_own_loops(protected, logged):
    grid = app_grid.AppGrid(app_grid.client_app(MESSAGE, [attack(2), MALFORMED]))
    grid = transport.ArrivingGrid(grid) if protected else grid
    strategy, arrays = gmom(MESSAGE, stop_when=lambda *_: True), ArrayRecord(MODEL)
    for server_round in range(1, NUM_ROUNDS + 1):
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        replies = grid.send_and_receive(messages, timeout=60)
        aggregate, _ = strategy.aggregate_train(server_round, replies)
        arrays = arrays if aggregate is None else aggregate
    check_trained(arrays.to_numpy_ndarrays())
    assert len(logged("the loop that runs is not GeometricMedianOfMeans.start: no use of")) == 1
    unlimited = logged("replies may take any size, and rounds any time")
    assert len(unlimited) == (not protected)
    assert all("sends through flwr_byz.transport.ArrivingGrid(grid)" in m for m in unlimited)


def run(strategy, workflow=None, mods=(), num_nodes=5):
    """Train by a workflow; return the model, and the losses of clients."""
    legacy = LegacyContext(app_grid.context(0), ServerConfig(num_rounds=NUM_ROUNDS), strategy)
    grid = app_grid.AppGrid(app_grid.client_app(CLASSIC, mods), num_nodes)
    DefaultWorkflow(fit_workflow=workflow)(grid, legacy)
    (record,) = legacy.state.array_records.values()
    return record.to_numpy_ndarrays(), [loss for _, loss in legacy.history.losses_distributed]


def test_the_default_workflow_trains_and_one_warning_names_what_is_off(logged):
    model, losses = run(gmom(CLASSIC), mods=[attack(2, 5)], num_nodes=11)
    check_trained(model, 0.03)
    assert losses == pytest.approx([1, 2], abs=0.03)
    assert len(logged("PROTECTION IS OFF where messages go to nodes past their clients")) == 1


def test_a_workflow_that_would_go_on_from_checkpoints_is_refused_with_the_way_out(tmp_path):
    run(gmom(CLASSIC, checkpoints=tmp_path))
    with pytest.raises(RuntimeError, match="give the strategy to ServerAppComponents"):
        run(gmom(CLASSIC, checkpoints=tmp_path))


@pytest.mark.parametrize(("num_byzantine", "num_steps"), [(None, 0), (0, NUM_ROUNDS)])
def test_secure_aggregation_is_refused_unless_all_are_honest(num_byzantine, num_steps, logged):
    options = {"min_fit_clients": 5, "min_available_clients": 5, "fraction_evaluate": 0.0}
    inner = CLASSIC.flower.FedAvg(**options, **CLASSIC.initial(MODEL))
    workflow = SecAggPlusWorkflow(3, 2, timeout=60)
    strategy = hardened(CLASSIC, inner, num_byzantine)
    check_trained(run(strategy, workflow, [secaggplus_mod])[0], num_rounds=num_steps)
    refused = logged("all 5 replies are the same numbers")
    assert len(refused) == NUM_ROUNDS - num_steps
    assert all("SecAgg workflows write one mean into every reply: leave" in m for m in refused)


def test_each_line_of_the_table_names_its_test():
    page = (ROOT / "docs" / "works-with.md").read_text(encoding="utf-8")
    rows = "".join(re.findall(r"^\|[-|]+\|\n((?:\|.*\n)+)", page, re.M)).splitlines()
    named = [re.findall(r"`(test_\w+)`", row) for row in rows]
    assert len(rows) > 20
    assert all(named)
    files = [p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py")]
    assert set().union(*named) <= set(re.findall(r"def (test_\w+)", "".join(files)))
    own = {name for name in globals() if name.startswith("test_")}
    assert own - set().union(*named) == {"test_each_line_of_the_table_names_its_test"}
