"""Apps in folders, not imported."""

import pytest

from flwr_byz.redteam.flower_app import FlowerApp

COMPONENTS = """
[tool.flwr.app.components]
serverapp = "pkg.server_app:app"
clientapp = "pkg.client_app:app"
"""


@pytest.fixture
def read(tmp_path):
    def read(text=COMPONENTS):
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
        return FlowerApp.read(tmp_path)

    return read


def test_components_config_and_nodes_are_read(read):
    federation = '[tool.flwr.federations]\ndefault = "b"\n'
    for name, nodes in (("a", 3), ("b", 7)):
        federation += f"[tool.flwr.federations.{name}]\noptions.num-supernodes = {nodes}\n"
        federation += "options.backend.client-resources.num-cpus = 2\n"
    config = "[tool.flwr.app.config]\nlr = 0.5\nmodel.width = 3\n"
    app = read(COMPONENTS + config + federation)
    assert (app.serverapp, app.clientapp) == ("pkg.server_app:app", "pkg.client_app:app")
    assert app.num_nodes == 7
    assert app.client_resources == {"num_cpus": 2}
    assert app.run_config("") == {"lr": 0.5, "model.width": 3}
    assert read().num_nodes == 10


def test_overrides_are_those_of_flwr_run(read):
    app = read(COMPONENTS + '[tool.flwr.app.config]\nlr = 0.5\nname = "a"\n')
    assert app.run_config("lr=0.1 name='b c'") == {"lr": 0.1, "name": "b c"}
    with pytest.raises(ValueError, match="no rate; it has lr, name"):
        app.run_config("rate=3")
    with pytest.raises(ValueError, match="--run-config"):
        app.run_config("lr=zero")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "serverapp"),
        ("[tool.flwr]\napp = 3\n", "serverapp"),
        ('[tool.flwr.app.components]\nserverapp = "a:b"\n', "clientapp"),
        ('[tool.flwr.app.components]\nserverapp = "ab"\nclientapp = "a:b"\n', "serverapp"),
        ("[tool", "cannot be read"),
    ],
)
def test_a_folder_that_is_no_app_is_a_value_error_with_the_reason(read, text, named):
    with pytest.raises(ValueError, match=named):
        read(text)


def test_the_digest_changes_with_the_code_and_with_nothing_else(read, tmp_path):
    before = read().digest
    (tmp_path / "results.csv").write_text("1\n", encoding="utf-8")
    assert read().digest == before
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/task.py").write_text("app = 2\n", encoding="utf-8")
    assert read().digest != before
