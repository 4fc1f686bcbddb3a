"""One round of this package's own strategy: in the classic API, the Message API, or streamed."""

from tests.support.apis import BY_NAME, STREAMED

APIS = (*BY_NAME, "streamed")


def a_round(api, model, replies, failures=(), **options):
    """Return arrays and metrics; `replies` maps clients to their arrays, or to a made reply."""
    api = BY_NAME.get(api, STREAMED)
    made = {c: api.reply(r) if isinstance(r, list) else r for c, r in replies.items()}
    made |= dict(enumerate(failures, start=1000))
    return api.round(api.gmom(**api.initial(model) | options), made, model)
