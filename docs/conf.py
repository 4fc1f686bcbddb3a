"""The documentation site: ``make site`` builds it, offline, and fails on any warning."""

import importlib
import re
import sys
import tomllib
from collections.abc import Collection, Iterator
from inspect import getdoc, isclass, isroutine
from pathlib import Path
from types import ModuleType

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parents[1]
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOG = logging.getLogger(__name__)
_SOURCE = _PROJECT["urls"]["Source"]

sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

project = _PROJECT["name"]
version = release = _PROJECT["version"]
author = "the authors of flwr-byz"
copyright = f"{author}, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
suppress_warnings = ["myst.strikethrough"]

html_theme = "furo"
html_title = "flwr-byz"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_theme_options = {"source_repository": f"{_SOURCE}/", "source_branch": "main"}
html_theme_options["source_directory"] = "docs/"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_raise_on_error = True
nb_execution_timeout = 60
nb_execution_show_tb = True

autodoc_typehints = "none"  # the docstrings say it
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_custom_sections = ["Errors", "Result", ("Attributes", "params_style")]
napoleon_use_param = False  # "a, b : int, int" stays one entry
napoleon_use_rtype = False

# `Name` in a docstring is a link where the reference has it. Of links that lead nowhere, those
# that name the package in full are errors.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!flwr_byz\.).*")]

PUBLIC = [
    "flwr_byz.aggregation",
    "flwr_byz.attacks",
    "flwr_byz.audit",
    "flwr_byz.clientapp.mod",
    "flwr_byz.cluster",
    "flwr_byz.server.strategy",
    "flwr_byz.serverapp.strategy",
    "flwr_byz.theory",
    "flwr_byz.transport",
    "flwr_byz.unlikeness",
]
"""The modules whose public names the reference has to hold."""


def public_names(module: ModuleType) -> list[str]:
    """Return ``__all__``; without it what a package imports, and what a plain module defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    is_package = hasattr(module, "__path__")
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
        if is_package or getattr(value, "__module__", None) == module.__name__
    ]


def undocumented(known: Collection[str]) -> Iterator[str]:
    """Describe each public name that is not among the `known` ones, or has no docstring."""
    for module in map(importlib.import_module, PUBLIC):
        for name in public_names(module):
            full, value = f"{module.__name__}.{name}", getattr(module, name)
            if full not in known:
                yield f"{full} is not in the reference: add it to docs/api"
            elif (isclass(value) or isroutine(value)) and not getdoc(value):
                yield f"{full} has no docstring"


def check_reference(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, which fails the build, of each public name that is undocumented."""
    for lack in undocumented(env.get_domain("py").objects):
        LOG.warning("%s", lack)


def head_prose(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Give the paragraph that follows a list of parameters or attributes a heading of its own.

    Without one, napoleon takes its words for one more parameter.
    """
    text = "\n".join(lines)
    if re.search(r"^(Parameters|Attributes)\n---", text, re.M):
        text = re.sub(r"\n\n(?=Returns )", "\n\nResult\n------\n", text)
        text = re.sub(r"\n\n(?=Raises )", "\n\nErrors\n------\n", text)
    lines[:] = text.split("\n")


def link_to_repository(app: Sphinx, page: str, text: list[str]) -> None:
    """Turn links to files outside of the docs into links to the project's address."""
    up = "../" * (page.count("/") + 1)
    text[0] = re.sub(rf"\]\({re.escape(up)}(?!\.\.)", f"]({_SOURCE}/blob/main/", text[0])


def _write_math(self: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    as_block = isinstance(node, nodes.math_block)
    try:
        made = tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        LOG.warning("%s in %s", error, node.astext(), location=node)
        made = node.astext()
    self.body.append(f'<div class="math">{made}</div>' if as_block else str(made))
    raise nodes.SkipNode


def draw_pictures(app: Sphinx) -> None:
    """Draw the pictures of the pages on rules and attacks, once."""
    import pictures

    pictures.draw_all(Path(app.srcdir, "_pictures"))


def setup(app: Sphinx) -> None:
    """Connect the above to Sphinx."""
    app.add_html_math_renderer("mathml", (_write_math, None), (_write_math, None))
    app.connect("autodoc-process-docstring", head_prose, priority=400)
    app.connect("builder-inited", draw_pictures)
    app.connect("env-check-consistency", check_reference)
    app.connect("source-read", link_to_repository)
