"""The Python snippets of Markdown pages."""

import re

import pytest
import ray


def params(pages):
    """Return a `pytest.param` for each snippet of some pages, given as paths."""
    for page in pages:
        found = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
        yield from (pytest.param(each, id=f"{page.name}-{n}") for n, each in enumerate(found))


def run(snippet):
    """Run a snippet as a program of its own, and end the simulation that it may have started."""
    try:
        exec(compile(snippet, "snippet", "exec"), {})
    finally:
        ray.shutdown()
