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
    config: Mapping[str, Any] = field(default_factory=dict)  # of runs, flat
    num_nodes: int = 10  # of the federation in pyproject.toml
    client_resources: Mapping[str, float] = field(default_factory=dict)
    digest: str = ""  # of pyproject.toml and the app's Python files

    @classmethod
    def read(cls, folder: Path) -> "FlowerApp":
        """Read the pyproject.toml of a folder; raise ValueError unless it describes an app."""
        path = folder.resolve() / "pyproject.toml"
        try:
            settings = _flat(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError:
            raise ValueError(f"{folder} is no Flower app: it holds no pyproject.toml") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        components = _below(".tool.flwr.app.components.", settings)
        for name in ("serverapp", "clientapp"):
            if not re.fullmatch("[^:]+:[^:]+", str(components.get(name))):
                needed = f'[tool.flwr.app.components] needs {name} = "package.module:app"'
                raise ValueError(f"{path} names no {name}: {needed}")
        federations = _below(".tool.flwr.federations.", settings)
        names = [federations.get("default"), *(key.split(".")[0] for key in federations)]
        tables = [_below(f"{name}.options.", federations) for name in names]
        options = next((each for each in tables if "num-supernodes" in each), {})
        resources = _below("backend.client-resources.", options)
        return cls(
            folder=path.parent,
            serverapp=components["serverapp"],
            clientapp=components["clientapp"],
            config=_below(".tool.flwr.app.config.", settings),
            num_nodes=int(options.get("num-supernodes", cls.num_nodes)),
            client_resources={key.replace("-", "_"): value for key, value in resources.items()},
            digest=_digest(path.parent, components),
        )

    def run_config(self, overrides: str) -> dict[str, Any]:
        """Return the run config with overrides as ``flwr run --run-config`` takes them."""
        from flwr.common.config import parse_config_args

        try:
            given = parse_config_args([overrides] if overrides else None)
        except click.ClickException as error:
            raise ValueError(f"--run-config {overrides!r}: {error.message}") from None
        if unknown := ", ".join(sorted(given.keys() - self.config)):
            known = ", ".join(self.config) or "no config"
            raise ValueError(f"--run-config: the app has no {unknown}; it has {known}")
        return {**self.config, **given}

    def load(self, reference: str) -> Any:
        """Import an object of the app, whose folder is put in front of ``sys.path``."""
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        return pkgutil.resolve_name(reference)


def _digest(folder: Path, components: Mapping[str, str]) -> str:
    tops = {re.split("[.:]", components[name])[0] for name in ("serverapp", "clientapp")}
    patterns = ["pyproject.toml", *(f"{top}{end}" for top in tops for end in (".py", "/**/*.py"))]
    made = hashlib.sha256()
    for path in sorted(path for each in patterns for path in folder.glob(each)):
        made.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return made.hexdigest()[:16]


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Return the values in nested tables by their dotted keys, such as ".tool.flwr.app.x"."""
    if not isinstance(value, Mapping):
        return {key: value}
    return {k: v for name in value for k, v in _flat(value[name], f"{key}.{name}").items()}


def _below(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}
