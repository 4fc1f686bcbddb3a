"""Apps in folders, not imported."""

import pytest

from flwr_byz.redteam.flower_app import FlowerApp

TABLE = "[tool.flwr.app.components]\n"
COMPONENTS = f"{TABLE}serverapp = 'pkg.server_app:app'\nclientapp = 'pkg.client_app:app'\n"


@pytest.fixture
def read(tmp_path):
    def read(text=COMPONENTS):
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
        return FlowerApp.read(tmp_path)

    return read


def test_components_nodes_and_the_config_with_overrides_are_read(read):
    federation = '[tool.flwr.federations]\ndefault = "b"\n'
    for name, nodes in (("a", 3), ("b", 7)):
        federation += f"[tool.flwr.federations.{name}]\noptions.num-supernodes = {nodes}\n"
        federation += "options.backend.client-resources.num-cpus = 2\n"
    config = "[tool.flwr.app.config]\nlr = 0.5\nname = 'a'\nmodel.width = 3\n"
    app = read(COMPONENTS + config + federation)
    assert (app.serverapp, app.clientapp) == ("pkg.server_app:app", "pkg.client_app:app")
    assert app.num_nodes == 7
    assert app.client_resources == {"num_cpus": 2}
    assert app.run_config("") == {"lr": 0.5, "name": "a", "model.width": 3}
    overridden = {"lr": 0.1, "name": "b c", "model.width": 3}
    assert app.run_config("lr=0.1 name='b c'") == overridden
    for nonsense, named in (("rate=3", "no rate; it has lr, name"), ("lr=zero", "--run-config")):
        with pytest.raises(ValueError, match=named):
            app.run_config(nonsense)
    assert read().num_nodes == 10


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "serverapp"),
        (f"{TABLE}serverapp = 'a:b'", "clientapp"),
        (f"{TABLE}serverapp = 'ab'\nclientapp = 'a:b'", "serverapp"),
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
