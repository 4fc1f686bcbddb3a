"""A Flower app in a folder, as its pyproject.toml describes it."""

import hashlib
import importlib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_NUM_NODES = 10


@dataclass(frozen=True)
class FlowerApp:
    """An app, not yet imported.

    Attributes
    ----------
    folder : Path
        Absolute; it holds pyproject.toml.
    serverapp, clientapp : str
        ``"package.module:attribute"``.
    config : mapping
        The defaults of the run config, as nested as they stand there.
    num_nodes : int
        Of the federation that pyproject.toml describes, 10 where it describes none.
    client_resources : mapping of str to float
        "num_cpus" and "num_gpus" of a client, where that federation says so.
    """

    folder: Path
    serverapp: str
    clientapp: str
    config: Mapping[str, Any] = field(default_factory=dict)
    num_nodes: int = DEFAULT_NUM_NODES
    client_resources: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "FlowerApp":
        """Read the pyproject.toml of a folder.

        Raises
        ------
        ValueError
            Where there is none, or it describes no Flower app.
        """
        path = folder.resolve() / "pyproject.toml"
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise ValueError(f"{folder} is no Flower app: it holds no pyproject.toml") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        app = _table(settings, "tool", "flwr", "app")
        components = _table(app, "components")
        for name in ("serverapp", "clientapp"):
            module, _, attribute = str(components.get(name, "")).partition(":")
            if not (module and attribute):
                raise ValueError(
                    f"{path} names no {name}: [tool.flwr.app.components] needs {name} = "
                    '"package.module:app"'
                )
        options = _federation_options(settings)
        resources = _table(options, "backend", "client-resources")
        return cls(
            folder=path.parent,
            serverapp=components["serverapp"],
            clientapp=components["clientapp"],
            config=_table(app, "config"),
            num_nodes=int(options.get("num-supernodes", DEFAULT_NUM_NODES)),
            client_resources={key.replace("-", "_"): value for key, value in resources.items()},
        )

    def run_config(self, overrides: str) -> dict[str, Any]:
        """Return the run config, flat, with overrides as ``flwr run --run-config`` takes them.

        Raises
        ------
        ValueError
            Where an override has another form, or a key that the app does not define.
        """
        import click
        from flwr.common.config import flatten_dict, fuse_dicts, parse_config_args

        defaults: dict[str, Any] = dict(flatten_dict(dict(self.config)))
        try:
            given = parse_config_args([overrides] if overrides else None)
        except click.ClickException as error:
            raise ValueError(f"--run-config {overrides!r}: {error.message}") from None
        if unknown := sorted(set(given) - set(defaults)):
            raise ValueError(
                f"--run-config: the app has no {', '.join(unknown)}; it has "
                f"{', '.join(defaults) or 'no config'}"
            )
        return dict(fuse_dicts(defaults, given))

    def load(self, reference: str) -> Any:
        """Import an object of the app, whose folder is put in front of ``sys.path``."""
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        module, _, attributes = reference.partition(":")
        loaded: Any = importlib.import_module(module)
        for attribute in attributes.split("."):
            loaded = getattr(loaded, attribute)
        return loaded

    def digest(self) -> str:
        """Return a hash of pyproject.toml and the app's Python files: it changes with the app."""
        made = hashlib.sha256()
        for path in sorted(self._files()):
            made.update(f"{path.relative_to(self.folder)}\0".encode())
            made.update(path.read_bytes())
        return made.hexdigest()[:16]

    def _files(self) -> Iterator[Path]:
        yield self.folder / "pyproject.toml"
        for top in {ref.partition(":")[0].partition(".")[0] for ref in self._references()}:
            yield from (self.folder / top).rglob("*.py")
            if (module := self.folder / f"{top}.py").exists():
                yield module

    def _references(self) -> tuple[str, str]:
        return self.serverapp, self.clientapp


def _federation_options(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of the default federation, or else of the first that is simulated."""
    federations = _table(settings, "tool", "flwr", "federations")
    names = [federations.get("default"), *federations]
    options = [_table(federations, name, "options") for name in names if isinstance(name, str)]
    return next((each for each in options if "num-supernodes" in each), {})


def _table(settings: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return a table within a table; empty where there is none."""
    for name in names:
        settings = settings.get(name, {})
        if not isinstance(settings, Mapping):
            return {}
    return settings
