from pathlib import Path

import pytest

from flwr_byz.redteam.flower_app import FlowerApp

COMPONENTS = """
[tool.flwr.app.components]
serverapp = "pkg.server_app:app"
clientapp = "pkg.client_app:app"
"""


def app_in(folder: Path, text: str = COMPONENTS) -> Path:
    (folder / "pkg").mkdir(parents=True)
    (folder / "pkg/server_app.py").write_text("app = 1\n", encoding="utf-8")
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def test_components_config_and_nodes_are_read(tmp_path):
    federation = '[tool.flwr.federations]\ndefault = "b"\n'
    for name, nodes in (("a", 3), ("b", 7)):
        federation += f"[tool.flwr.federations.{name}]\noptions.num-supernodes = {nodes}\n"
        federation += "options.backend.client-resources.num-cpus = 2\n"
    config = "[tool.flwr.app.config]\nlr = 0.5\nmodel.width = 3\n"
    app = FlowerApp.read(app_in(tmp_path, COMPONENTS + config + federation))
    assert (app.serverapp, app.clientapp) == ("pkg.server_app:app", "pkg.client_app:app")
    assert app.num_nodes == 7
    assert app.client_resources == {"num_cpus": 2}
    assert app.run_config("") == {"lr": 0.5, "model.width": 3}


def test_overrides_are_those_of_flwr_run(tmp_path):
    app = FlowerApp.read(
        app_in(tmp_path, COMPONENTS + '[tool.flwr.app.config]\nlr = 0.5\nname = "a"\n')
    )
    assert app.run_config("lr=0.1 name='b c'") == {"lr": 0.1, "name": "b c"}
    with pytest.raises(ValueError, match="no rate; it has lr, name"):
        app.run_config("rate=3")
    with pytest.raises(ValueError, match="--run-config"):
        app.run_config("lr=zero")


def test_an_app_that_names_no_federation_has_ten_nodes(tmp_path):
    assert FlowerApp.read(app_in(tmp_path)).num_nodes == 10


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
def test_a_folder_that_is_no_app_is_a_value_error_that_says_why(tmp_path, text, named):
    with pytest.raises(ValueError, match=named):
        FlowerApp.read(app_in(tmp_path, text))


def test_a_folder_without_pyproject_is_no_app(tmp_path):
    with pytest.raises(ValueError, match="no pyproject"):
        FlowerApp.read(tmp_path)


def test_the_digest_changes_with_the_code_and_with_nothing_else(tmp_path):
    app = FlowerApp.read(app_in(tmp_path))
    before = app.digest()
    (tmp_path / "results.csv").write_text("1\n", encoding="utf-8")
    assert app.digest() == before
    (tmp_path / "pkg/server_app.py").write_text("app = 2\n", encoding="utf-8")
    assert app.digest() != before
