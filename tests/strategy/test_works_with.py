"""What the strategies work with: each line of docs/works-with.md names a test of these."""

import importlib
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from flwr.supercore.privacy_accounting import SamplingMethod

from flwr_byz.serverapp.strategy import guarded
from flwr_byz.transport import ArrivingGrid
from flwr_byz.transport import client as transport_client
from tests.support import malformed
from tests.support.app_grid import (
    MODEL,
    NUM_NODES,
    NUM_ROUNDS,
    AppGrid,
    attack,
    client_app,
    context,
    given,
    moved,
    reply_to,
    trained,
)
from tests.support.server import classic_round, message_round

DOCS = Path(__file__).parents[2] / "docs" / "works-with.md"


def api_of(name, server, client):
    flower, own = (importlib.import_module(f"{root}.{server}") for root in ("flwr", "flwr_byz"))
    return SimpleNamespace(name=name, flower=flower, own=own, mods=importlib.import_module(client))


CLASSIC = api_of("classic", "server.strategy", "flwr.client.mod")
MESSAGE = api_of("message", "serverapp.strategy", "flwr.clientapp.mod")
BOTH = pytest.mark.parametrize("api", [CLASSIC, MESSAGE], ids=lambda api: api.name)


@pytest.fixture(autouse=True)
def logged(caplog):
    """Return the lines of the log; what is logged once is so in each test."""
    transport_client._log_once.cache_clear()
    guarded._warn_once.cache_clear()
    caplog.set_level(logging.INFO, "flwr")
    return lambda text: [m for m in caplog.messages if text in m]


def gmom(api, **options):
    options = given(api.name) | options
    return api.own.GeometricMedianOfMeans(num_byzantine=2, **options)


def check_trained(model, tolerance=0.02, num_rounds=NUM_ROUNDS):
    """Check that every round moved the model by one, as honest clients do."""
    assert model
    for array in model:
        assert np.abs(array - num_rounds).max() < tolerance


def check_kept(model):
    """Check that the model is the one that training began with."""
    assert model
    assert not any(array.any() for array in model)


def changed(nodes, change):
    """Return a mod by which nodes change the arrays that they reply, knowing those sent."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        if message.metadata.message_type == "train" and context.node_id in nodes:
            (sent,) = message.content.array_records.values()
            ((name, arrays),) = reply.content.array_records.items()
            reply.content[name] = change(sent, arrays)
        return reply

    return mod


def failing(*nodes):
    """Return a mod by which nodes fail."""

    def mod(message, context, call_next):
        if context.node_id in nodes:
            raise ValueError("broken")
        return call_next(message, context)

    return mod


MALFORMED = changed({5}, lambda sent, arrays: ArrayRecord([np.zeros(7)]))
UNCHANGED = changed({5}, lambda sent, arrays: ArrayRecord(dict(sent)))


def nearly_unchanged(step):
    """Return a mod by which a node replies the model that was sent, or nearly so."""

    def change(sent, arrays):
        return ArrayRecord({n: Array(a.numpy() + np.float32(step)) for n, a in sent.items()})

    return changed({5}, change)


# Wrappers for differential privacy, and mods. ---------------------------------------------------

NOISE, CLIP = 0.001, 100.0  # little noise, and little is clipped: an attack would show
KINDS = pytest.mark.parametrize("kind", ["Fixed", "Adaptive"])


def private(api, kind, strategy):
    """Return a wrapper of Flower's around a strategy."""
    wrapper = getattr(api.flower, f"DifferentialPrivacy{kind}Clipping")
    if kind.endswith("Fixed"):
        return wrapper(strategy, NOISE, CLIP, NUM_NODES)
    return wrapper(strategy, NOISE, NUM_NODES, initial_clipping_norm=CLIP)


@BOTH
@KINDS
def test_hardened_around_server_side_privacy(api, kind, logged):
    strategy = private(api, f"ServerSide{kind}", api.flower.FedAvg(**given(api.name)))
    hardened = api.own.Hardened(strategy)
    check_trained(trained(api.name, hardened, [failing(2), MALFORMED]), 0.2)
    assert logged("are clipped by value")
    assert logged("central DP noise")


@BOTH
@KINDS
def test_hardened_around_privacy_around_the_median(api, kind):
    strategy = private(api, f"ServerSide{kind}", gmom(api))
    hardened = api.own.Hardened(strategy, num_byzantine=2)
    check_trained(trained(api.name, hardened, [failing(2), attack(5)]), 0.2)


@BOTH
@pytest.mark.parametrize(
    ("kind", "mod"), [("Fixed", "fixedclipping_mod"), ("Adaptive", "adaptiveclipping_mod")]
)
def test_client_side_privacy_with_its_mod_behind_the_byzantine_one(api, kind, mod, logged):
    strategy = private(api, f"ClientSide{kind}", gmom(api))
    hardened = api.own.Hardened(strategy, num_byzantine=2)
    mods = [attack(2), UNCHANGED, getattr(api.mods, mod)]
    check_trained(trained(api.name, hardened, mods), 0.2)
    assert logged(f"{mod}: ")
    assert logged("central DP noise")


@BOTH
@KINDS
@pytest.mark.parametrize("step", [0.0, 1e-30])
def test_a_client_that_returns_the_model_is_left_out_of_server_side_privacy(
    api, kind, step, logged
):
    hardened = api.own.Hardened(private(api, f"ServerSide{kind}", gmom(api)))
    check_trained(trained(api.name, hardened, [nearly_unchanged(step)]), 0.2)
    assert logged("it is the model that was sent")


def test_a_client_without_a_norm_bit_is_left_out_of_adaptive_privacy(logged):
    def without_bit(message, context, call_next):
        reply = call_next(message, context)
        if context.node_id == 5:
            for record in reply.content.values():
                record.pop("norm_bit", None)
        return reply

    hardened = MESSAGE.own.Hardened(private(MESSAGE, "ClientSideAdaptive", gmom(MESSAGE)))
    mods = [without_bit, MESSAGE.mods.adaptiveclipping_mod]
    check_trained(trained("message", hardened, mods), 0.2)
    assert logged("differ from those of most clients in ['norm_bit']")


@pytest.mark.parametrize("num_failing", [0, 1])
def test_accounts_of_privacy_need_a_usable_reply_of_every_client(num_failing, logged):
    spent = SimpleNamespace(epsilon=1.0, delta=1e-5, num_releases=1)
    releases = []
    accountant = SimpleNamespace(
        config=SimpleNamespace(
            sampling_method=SamplingMethod.NO_AMPLIFICATION,
            population_size=NUM_NODES,
            max_epsilon=None,
        ),
        compose=releases.append,
        get_privacy_spent=lambda: spent,
    )
    wrapper = MESSAGE.flower.DifferentialPrivacyServerSideFixedClipping
    fed_avg = MESSAGE.flower.FedAvg()
    hardened = MESSAGE.own.Hardened(wrapper(fed_avg, NOISE, CLIP, NUM_NODES, accountant=accountant))
    model = trained("message", hardened, [failing(2)] * num_failing)
    if num_failing:
        check_kept(model)
        assert logged("(10) differs from the number of sampled clients (11)")
    else:
        check_trained(model, 0.2)
    assert len(releases) == (0 if num_failing else NUM_ROUNDS)


@BOTH
def test_privacy_without_hardened_lets_one_client_end_the_run(api, logged):
    strategy = private(api, "ServerSideFixed", gmom(api))
    check_trained(trained(api.name, strategy, [attack(2, 5)]), 0.2)
    with pytest.raises(ValueError, match="broadcast"):
        trained(api.name, private(api, "ServerSideFixed", gmom(api)), [MALFORMED])
    if api is MESSAGE:
        assert len(logged("the loop that runs is not GeometricMedianOfMeans.start")) == 1


@BOTH
def test_local_privacy_behind_the_byzantine_mod(api, logged):
    local = api.mods.LocalDpMod(CLIP, 1e-4, 1.0, 0.1)
    check_trained(trained(api.name, gmom(api), [attack(2, 5), local]))
    assert logged("local DP noise")


@BOTH
def test_mods_that_log_sizes(api, logged):
    mods = [attack(2, 5), api.mods.arrays_size_mod, api.mods.message_size_mod]
    check_trained(trained(api.name, gmom(api), mods))
    assert logged("Outgoing message size")
    assert logged("Total array elements sent")


def test_mods_of_training_fail_in_evaluation_where_the_whole_app_has_them(logged):
    app = client_app("message", app_mods=[attack(2), MESSAGE.mods.fixedclipping_mod])
    strategy = private(MESSAGE, "ClientSideFixed", gmom(MESSAGE))
    hardened = MESSAGE.own.Hardened(strategy, num_byzantine=2)
    check_trained(trained("message", hardened, app=app), 0.2)
    failures = logged("11 of 11 clients failed alike: this looks like your app, not an attack")
    assert len(failures) == NUM_ROUNDS
    assert all("fixedclipping_mod requires the key 'clipping_norm'" in line for line in failures)


# Server optimizers. -----------------------------------------------------------------------------

OPTIMIZERS = {
    "FedAdam": {},
    "FedYogi": {},
    "FedAdagrad": {},
    "FedAvgM": {"server_learning_rate": 0.5, "server_momentum": 0.5},
    "FedProx": {"proximal_mu": 0.1},
}


@BOTH
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_server_optimizers(api, name):
    kind, options = getattr(api.flower, name), OPTIMIZERS[name] | given(api.name)
    clean = trained(api.name, kind(**options))
    robust = trained(api.name, api.own.robust(kind, num_byzantine=2, **options), [attack(2, 5)])
    poisoned = trained(api.name, kind(**options), [attack(2, 5)])
    for own, expected, other in zip(robust, clean, poisoned, strict=True):
        np.testing.assert_allclose(own, expected, rtol=0.01)
        assert np.abs(other - expected).max() > 0.1 * np.abs(expected).max()


@BOTH
def test_a_class_of_flower_beside_the_median_is_refused_with_the_way_out(api):
    with pytest.raises(TypeError, match=r"use robust\(FedAvgM, num_byzantine=...\) or Hardened"):
        type("Mixed", (api.flower.FedAvgM, api.own.GeometricMedianOfMeans), {})


@BOTH
@pytest.mark.parametrize("name", ["FedXgbBagging", "FedXgbCyclic"])
def test_trees_are_refused(api, name):
    kind = getattr(api.flower, name)
    text = f"must aggregate arrays of fixed shape, no trees, got {name}"
    with pytest.raises(TypeError, match=text):
        api.own.Hardened(kind())
    with pytest.raises(TypeError, match=text):
        api.own.robust(kind, num_byzantine=2)
    no_trees_yet = [np.zeros(0, "u1")]
    with pytest.raises(ValueError, match="cannot be aggregated: it has no entries"):
        trained(api.name, gmom(api, **given(api.name, no_trees_yet)), model=no_trees_yet)


# Options and models. ----------------------------------------------------------------------------


@BOTH
def test_a_fraction_of_the_clients(api, logged):
    fraction = {"fraction_fit" if api is CLASSIC else "fraction_train": 0.5}
    check_trained(trained(api.name, gmom(api, **fraction), [attack(2, 5)]))
    assert logged("sampled 5 clients" if api is CLASSIC else "Sampled 5 nodes")


@pytest.mark.parametrize("hardened", [False, True])
def test_own_record_keys(hardened):
    keys = {"arrayrecord_key": "model", "configrecord_key": "settings", "weighted_by_key": "n"}
    if hardened:
        strategy = MESSAGE.own.Hardened(MESSAGE.flower.FedMedian(**keys))
    else:
        strategy = gmom(MESSAGE, **keys)
    app = client_app("message", [attack(2, 5)], arrays_key="model", weight_key="n")
    check_trained(trained("message", strategy, app=app))


@BOTH
def test_five_thousand_arrays(api):
    model = [np.zeros(2, "f4")] * 5000
    sent = [moved(model, node) for node in range(4)] + [[np.full(2, -1e6, "f4")] * 5000]
    if api is CLASSIC:
        results = {node: malformed.fit_res(arrays) for node, arrays in enumerate(sent)}
        arrays, _ = classic_round(model, results, num_byzantine=1)
    else:
        metrics = MetricRecord({"num-examples": 10})
        contents = {
            node: RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
            for node, arrays in enumerate(sent)
        }
        arrays, _ = message_round(ArrayRecord(model), contents, num_byzantine=1)
    assert len(arrays) == 5000
    check_trained(arrays, num_rounds=1)


@BOTH
@pytest.mark.parametrize("hardened", [False, True])
def test_narrow_and_mixed_dtypes(api, hardened):
    model = [np.zeros(3, kind) for kind in ("f2", "f4", "f8", "i8")]
    options = given(api.name, model)
    if hardened:
        strategy = api.own.Hardened(api.flower.FedMedian(**options))
    else:
        strategy = gmom(api, **options)
    arrays = trained(api.name, strategy, [attack(2, 5)], model=model)
    if not hardened:  # FedMedian has dtypes of its own
        assert [array.dtype for array in arrays] == [array.dtype for array in model]
    check_trained(arrays)


def test_replies_added_up_as_they_arrive():
    check_trained(trained("message", gmom(MESSAGE, streaming=True), [attack(2, 5)]))


# Subclasses, mixins, hooks and own loops. -------------------------------------------------------


def test_subclasses_that_save_models_and_change_what_is_sent():
    class Saving(MESSAGE.own.GeometricMedianOfMeans):
        def __init__(self, **options):
            super().__init__(**options)
            self.saved, self.began = {}, 0

        def start(self, grid, initial_arrays, num_rounds=3, **options):
            self.began += 1
            return super().start(grid, initial_arrays, num_rounds, **options)

        def configure_train(self, server_round, arrays, config, grid):
            config["rate"] = 0.1 / server_round
            return super().configure_train(server_round, arrays, config, grid)

        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, replies)
            if arrays is not None:
                self.saved[server_round] = arrays.to_numpy_ndarrays()
            return arrays, metrics

    rates = []

    def noting(message, context, call_next):
        rates.append(message.content["config"]["rate"])
        return call_next(message, context)

    strategy = Saving(num_byzantine=2)
    check_trained(trained("message", strategy, [attack(2, 5), noting]))
    assert strategy.began == 1
    assert list(strategy.saved) == [1, 2]
    check_trained(strategy.saved[1], num_rounds=1)
    assert set(rates) == {0.1, 0.05}


def test_classic_subclasses_that_save_models_and_change_what_is_sent():
    class Saving(CLASSIC.own.GeometricMedianOfMeans):
        def __init__(self, **options):
            super().__init__(**options)
            self.saved = {}

        def configure_fit(self, server_round, parameters, client_manager):
            instructions = super().configure_fit(server_round, parameters, client_manager)
            for _, instruction in instructions:
                instruction.config["rate"] = 0.1 / server_round
            return instructions

        def aggregate_fit(self, server_round, results, failures):
            parameters, metrics = super().aggregate_fit(server_round, results, failures)
            if parameters is not None:
                self.saved[server_round] = parameters_to_ndarrays(parameters)
            return parameters, metrics

    rates = []

    def noting(message, context, call_next):
        if message.metadata.message_type == "train":
            rates.append(message.content["fitins.config"]["rate"])
        return call_next(message, context)

    strategy = Saving(num_byzantine=2, **given("classic"))
    check_trained(trained("classic", strategy, [attack(2, 5), noting]))
    assert list(strategy.saved) == [1, 2]
    check_trained(strategy.saved[1], num_rounds=1)
    assert set(rates) == {0.1, 0.05}


@BOTH
@pytest.mark.parametrize("name", ["GeometricMedianOfMeans", "Hardened"])
def test_mixins(api, name):
    method = "aggregate_fit" if api is CLASSIC else "aggregate_train"
    seen = []

    class Counting:
        pass

    def counted(self, *arguments):
        seen.append(arguments[0])
        return getattr(super(Counting, self), method)(*arguments)

    setattr(Counting, method, counted)
    kind = type("Mixed", (Counting, getattr(api.own, name)), {})
    if name == "Hardened":
        strategy = kind(api.flower.FedMedian(**given(api.name)), num_byzantine=2)
    else:
        strategy = kind(num_byzantine=2, **given(api.name))
    check_trained(trained(api.name, strategy, [attack(2, 5)]))
    assert seen == [1, 2]


@BOTH
@pytest.mark.parametrize("name", ["GeometricMedianOfMeans", "Hardened", "robust"])
def test_hooks_at_round_ends(api, name):
    ends, options = [], given(api.name)

    def note(server_round, arrays, metrics):
        ends.append((server_round, type(arrays).__name__, sorted(metrics)))

    hooks = {"on_round_end": note, "stop_when": lambda server_round, metrics: server_round == 3}
    if name == "Hardened":
        strategy = api.own.Hardened(api.flower.FedMedian(**options), **hooks)
    elif name == "robust":
        strategy = api.own.robust(api.flower.FedAvg, num_byzantine=2, **options, **hooks)
    else:
        strategy = gmom(api, **hooks)
    check_trained(trained(api.name, strategy, [attack(2, 5)], num_rounds=9), num_rounds=3)
    kind = "Parameters" if api is CLASSIC else "ArrayRecord"
    assert ends == [(i, kind, ["evaluate", "server", "train"]) for i in (1, 2, 3)]


def test_hooks_of_a_wrapped_strategy_act_at_the_outermost(logged):
    ends = []
    inner = gmom(MESSAGE, on_round_end=lambda *_: ends.append("inner"))
    hardened = MESSAGE.own.Hardened(
        private(MESSAGE, "ServerSideFixed", inner), on_round_end=lambda *_: ends.append("outer")
    )
    check_trained(trained("message", hardened), 0.2)
    assert ends == ["outer"] * NUM_ROUNDS
    assert logged("the loop that runs is not GeometricMedianOfMeans.start: no use of on_round_end")


@pytest.mark.parametrize("protected", [False, True])
def test_own_loops(protected, logged):
    grid = AppGrid(client_app("message", [attack(2), MALFORMED]))
    grid = ArrivingGrid(grid) if protected else grid
    strategy, arrays = gmom(MESSAGE, stop_when=lambda *_: True), ArrayRecord(MODEL)
    for server_round in range(1, NUM_ROUNDS + 1):
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        replies = grid.send_and_receive(messages, timeout=60)
        aggregate, _ = strategy.aggregate_train(server_round, replies)
        arrays = arrays if aggregate is None else aggregate
    check_trained(arrays.to_numpy_ndarrays())
    loop = "the loop that runs is not GeometricMedianOfMeans.start: "
    assert len(logged(loop + "no use of stop_when")) == 1
    unlimited = logged(loop + "replies may take any size, and rounds any time")
    assert len(unlimited) == (0 if protected else 1)
    assert all("sends through flwr_byz.transport.ArrivingGrid(grid)" in m for m in unlimited)


# Workflows and data. ----------------------------------------------------------------------------


def secagg_where_asked(message, context, call_next):
    if "secaggplus_configs" in message.content:
        return secaggplus_mod(message, context, call_next)
    return call_next(message, context)


def workflows(grid, context, strategies):
    """Train with SecAgg+ where a name says so; return the models by name."""
    models = {}
    for name, strategy in strategies.items():
        secure = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2, timeout=60)
        legacy = LegacyContext(context, ServerConfig(num_rounds=NUM_ROUNDS), strategy)
        DefaultWorkflow(fit_workflow=secure if "SecAgg" in name else None)(grid, legacy)
        (record,) = legacy.state.array_records.values()
        models[name] = record.to_numpy_ndarrays()
    return models


def fed_avg():
    return CLASSIC.flower.FedAvg(min_fit_clients=5, min_available_clients=5, **given("classic"))


def check_copies_are_refused(logged, num_rounds):
    assert len(logged("all 5 replies are the same numbers")) == num_rounds
    assert logged("Flower's SecAgg workflows write one mean into every reply: leave them out")


@pytest.mark.slow
def test_workflows_in_a_simulation(logged):
    models, server_app = {}, ServerApp()

    @server_app.main()
    def main(grid, context):
        strategies = {
            name: gmom(CLASSIC, min_available_clients=5) for name in ("default", "SecAgg+")
        }
        models.update(workflows(grid, context, strategies))

    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": 2, "log_to_driver": False},
    }
    app = client_app("classic", [secagg_where_asked, attack(0, 3)])
    run_simulation(server_app, app, 5, backend_config=backend)
    check_trained(models["default"])
    assert len(logged("PROTECTION IS OFF where messages go to nodes past their clients")) == 1
    check_kept(models["SecAgg+"])
    check_copies_are_refused(logged, NUM_ROUNDS)


def test_secure_aggregation_is_refused(logged):
    grid = AppGrid(client_app("classic", [secagg_where_asked]), 5)
    strategies = {"SecAgg": gmom(CLASSIC), "SecAgg, FedAvg": CLASSIC.own.Hardened(fed_avg())}
    for model in workflows(grid, context(0), strategies).values():
        check_kept(model)
    check_copies_are_refused(logged, 2 * NUM_ROUNDS)


def test_secure_aggregation_of_clients_that_are_all_honest():
    grid = AppGrid(client_app("classic", [secagg_where_asked]), 5)
    strategy = CLASSIC.own.Hardened(fed_avg(), num_byzantine=0)
    (model,) = workflows(grid, context(0), {"SecAgg": strategy}).values()
    check_trained(model)


def test_partitions_of_flwr_datasets():
    partitioners = pytest.importorskip("flwr_datasets.partitioner")
    datasets = pytest.importorskip("datasets")
    rows = np.random.default_rng(0).normal(size=(550, 5)).astype("f4")
    partitioner = partitioners.IidPartitioner(num_partitions=NUM_NODES)
    partitioner.dataset = datasets.Dataset.from_dict({"row": rows})
    app = ClientApp(mods=[attack(2, 5)])

    @app.train()
    def train(message, context):
        partition = partitioner.load_partition(context.node_config["partition-id"])
        mean = np.mean(partition["row"][:], axis=0).astype("f4")
        return reply_to(message, {"arrays": ArrayRecord({"mean": Array(mean)})}, len(partition))

    strategy = gmom(MESSAGE, fraction_evaluate=0.0)
    initial = ArrayRecord({"mean": Array(np.ones(5, "f4"))})
    result = strategy.start(AppGrid(app), initial, num_rounds=1)
    assert np.linalg.norm(result.arrays["mean"].numpy()) < 0.5


# The page. --------------------------------------------------------------------------------------


def test_each_line_of_the_table_names_its_test():
    page = DOCS.read_text(encoding="utf-8")
    tables = re.findall(r"^\|[-|]+\|\n((?:\|.*\n)+)", page, re.M)
    rows = "".join(tables).splitlines()
    named = [re.findall(r"`(test_\w+)`", row) for row in rows]
    assert len(rows) > 20
    assert all(named)
    paths = (DOCS.parents[1] / "tests").rglob("test_*.py")
    files = [path.read_text(encoding="utf-8") for path in paths]
    own = Path(__file__).read_text(encoding="utf-8")
    tests = {test for tests in named for test in tests}
    assert tests <= {test for file in files for test in re.findall(r"def (test_\w+)", file)}
    of_page = "test_each_line_of_the_table_names_its_test"
    assert {*re.findall(r"def (test_\w+)", own)} - tests == {of_page}
