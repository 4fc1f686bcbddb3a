"""One round of this package's own strategy: in the classic API, the Message API, or streamed."""

import pytest

from tests.support.apis import CLASSIC, MESSAGE

APIS = ("classic", "message", "streamed")
EVERY_API = pytest.mark.parametrize("api", APIS)


def a_round(api, model, replies, failures=(), shuffle=None, **options):
    """Return arrays and metrics; `replies` maps clients to their arrays, or to a made reply."""
    flower = CLASSIC if api == "classic" else MESSAGE
    made = {c: flower.reply(r) if isinstance(r, list) else r for c, r in replies.items()}
    made |= dict(enumerate(failures, start=1000))
    options = flower.initial(model) | ({"streaming": True} if api == "streamed" else {}) | options
    return flower.round(flower.gmom(**options), made, model, shuffle=shuffle)
