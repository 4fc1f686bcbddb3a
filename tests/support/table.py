"""Tables of expressions in text, for tests that evaluate them."""

import re


def table(text):
    """Return the pairs of a text such as ``f(1) : 2 | f(2) : 3``, with cells or lines apart."""
    return [tuple(cell.split(" : ")) for cell in re.split(r"\s*[|\n]\s*", text.strip())]
