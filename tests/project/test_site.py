"""The documentation site: it builds offline, its links lead somewhere, its reference is whole."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import flwr_byz

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [page for page in DOCS.rglob("*.md") if not page.is_relative_to(DOCS / "_build")]


@pytest.fixture(scope="module")
def conf():
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("conf")
    sys.path.remove(str(DOCS))


class Page(HTMLParser):
    """The links of a built page, and the anchors that links can name."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        self.anchors |= {value for name, value in attrs if name == "id"}


def dead_links(site, repository):
    """Return the links between pages, and to files of the repository, that lead nowhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if named := re.match(rf"{repository}/(?:blob|tree|edit)/main/([^?#]*)", link):
                is_there = (ROOT / unquote(named[1])).exists()
            elif url.scheme or url.netloc:
                continue  # another site's
            else:
                target = (path.parent / unquote(url.path)).resolve() if url.path else path
                anchors = pages[target].anchors if target in pages else {url.fragment}
                is_there = target.exists() and unquote(url.fragment) in anchors
            if not is_there:
                dead.append((path.name, link))
    return dead


@pytest.mark.slow
def test_the_site_builds_offline_without_a_warning_and_its_links_lead_somewhere(conf, tmp_path):
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    command += ["--doctree-dir", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")]
    offline = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "all_proxy")}
    environment = {**os.environ, **offline}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    built = {
        path.relative_to(tmp_path / "html").with_suffix("") for path in tmp_path.rglob("*.html")
    }
    assert {page.relative_to(DOCS).with_suffix("") for page in PAGES} <= built
    assert dead_links(tmp_path / "html", conf.html_theme_options["source_repository"][:-1]) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    links = ["b.html", "b.html#here", "#top", "b.html#gone", "c.html", "https://x.org/main/blob"]
    links += ["https://x.org/blob/main/README.md", "https://x.org/blob/main/NONE.md"]
    (tmp_path / "a.html").write_text("<p id=top>" + "".join(f"<a href='{a}'>" for a in links))
    (tmp_path / "b.html").write_text("<p id=here>")
    gone = ["b.html#gone", "c.html", "https://x.org/blob/main/NONE.md"]
    assert dead_links(tmp_path, "https://x.org") == [("a.html", link) for link in gone]


def test_the_reference_covers_every_package_with_public_names(conf):
    packages = pkgutil.walk_packages(flwr_byz.__path__, "flwr_byz.")
    names = [each.name for each in packages if each.ispkg]
    public = {name for name in names if conf.public_names(importlib.import_module(name))}
    assert public <= set(conf.PUBLIC)


def test_a_public_name_without_an_entry_or_a_docstring_fails_the_build(conf):
    modules = {name: importlib.import_module(name) for name in conf.PUBLIC}
    known = {f"{name}.{each}" for name in modules for each in conf.public_names(modules[name])}
    assert list(conf.undocumented(known)) == []
    (lacks,) = conf.undocumented(known - {"flwr_byz.theory.plan"})
    assert "flwr_byz.theory.plan" in lacks


def test_python_snippets_stand_where_they_are_run():
    for page in PAGES:  # the others are notebooks and the reference
        if page.parent != DOCS:
            assert "```python" not in page.read_text(encoding="utf-8"), page


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
