"""A Flower app in a folder, as its pyproject.toml describes it."""

import hashlib
import pkgutil
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True)
class FlowerApp:
    """An app, not yet imported."""

    folder: Path  # absolute; it holds pyproject.toml
    serverapp: str  # "package.module:attribute"
    clientapp: str
    config: Mapping[str, Any] = field(default_factory=dict)  # of runs, nested
    num_nodes: int = 10  # of the federation in pyproject.toml
    client_resources: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "FlowerApp":
        """Read the pyproject.toml of a folder; raise ValueError unless it describes an app."""
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
                needed = f'[tool.flwr.app.components] needs {name} = "package.module:app"'
                raise ValueError(f"{path} names no {name}: {needed}")
        federations = _table(settings, "tool", "flwr", "federations")
        names = [str(federations.get("default")), *federations]  # its default, else the first
        tables = [_table(federations, name, "options") for name in names]
        options = next((each for each in tables if "num-supernodes" in each), {})
        resources = _table(options, "backend", "client-resources")
        return cls(
            folder=path.parent,
            serverapp=components["serverapp"],
            clientapp=components["clientapp"],
            config=_table(app, "config"),
            num_nodes=int(options.get("num-supernodes", cls.num_nodes)),
            client_resources={key.replace("-", "_"): value for key, value in resources.items()},
        )

    def run_config(self, overrides: str) -> dict[str, Any]:
        """Return the run config, flat, with overrides as ``flwr run --run-config`` takes them."""
        from flwr.common.config import flatten_dict, fuse_dicts, parse_config_args

        defaults = flatten_dict(dict(self.config))
        try:
            given = parse_config_args([overrides] if overrides else None)
        except click.ClickException as error:
            raise ValueError(f"--run-config {overrides!r}: {error.message}") from None
        if unknown := ", ".join(sorted(given.keys() - defaults)):
            known = ", ".join(defaults) or "no config"
            raise ValueError(f"--run-config: the app has no {unknown}; it has {known}")
        return fuse_dicts(defaults, given)

    def load(self, reference: str) -> Any:
        """Import an object of the app, whose folder is put in front of ``sys.path``."""
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        return pkgutil.resolve_name(reference)

    def digest(self) -> str:
        """Return a hash of pyproject.toml and the app's Python files: it changes with the app."""
        made = hashlib.sha256()
        tops = {re.split("[.:]", name)[0] for name in (self.serverapp, self.clientapp)}
        patterns = [each for top in tops for each in (f"{top}.py", f"{top}/**/*.py")]
        paths = [path for each in patterns for path in self.folder.glob(each)]
        for path in sorted([self.folder / "pyproject.toml", *paths]):
            made.update(f"{path.relative_to(self.folder)}\0".encode() + path.read_bytes())
        return made.hexdigest()[:16]


def _table(settings: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return a table within a table; empty where it is missing."""
    for name in names:
        settings = settings.get(name, {})
        if not isinstance(settings, Mapping):
            return {}
    return settings
