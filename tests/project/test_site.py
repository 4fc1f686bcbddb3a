"""The documentation site: it builds offline, and its reference is whole."""

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import flwr_byz

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def conf(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("conf")


@pytest.mark.slow
def test_the_site_builds_offline_and_without_a_warning_such_as_of_a_dead_link(tmp_path):
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    command += ["--doctree-dir", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")]
    offline = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "all_proxy")}
    options = {"cwd": ROOT, "env": os.environ | offline, "capture_output": True, "text": True}
    ran = subprocess.run(command, **options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for page in {*DOCS.rglob("*.md")} - {*DOCS.glob("_build/**/*.md")}:
        assert (tmp_path / "html" / page.relative_to(DOCS).with_suffix(".html")).exists()


def test_the_reference_covers_every_package_and_a_public_name_without_an_entry_is_named(conf):
    packages = pkgutil.walk_packages(flwr_byz.__path__, "flwr_byz.")
    names = [each.name for each in packages if each.ispkg]
    public = {name for name in names if conf.public_names(importlib.import_module(name))}
    assert public <= set(conf.PUBLIC)
    lacking = {text.partition(" ")[0] for text in conf.undocumented([])}  # the build fails on it
    assert {"flwr_byz.theory.plan", "flwr_byz.aggregation.geometric_median"} <= lacking


def test_every_attack_and_its_picture_are_on_the_page_of_attacks(conf):
    from pictures import ATTACKS

    from flwr_byz.attacks.names import CLASSES

    text = (DOCS / "attacks.md").read_text(encoding="utf-8")
    assert [name for name in CLASSES if f"(#flwr_byz.attacks.{name})" not in text] == []
    without_vector = {"NonFinite", "Silent", "Malformed"}
    assert {type(attack).__name__ for attack in ATTACKS.values()} == set(CLASSES) - without_vector


def test_only_pictures_are_large():
    files = [path for path in DOCS.rglob("*") if path.suffix in {".csv", ".json", ".jsonl", ".md"}]
    assert [path for path in files if path.stat().st_size > 100_000] == []
