"""Who a client is to the server, and in which order clients stand."""

ClientId = int | str


def identity_order(client: ClientId) -> tuple[int, int, str]:
    """Return a key to sort clients by: node 7 and cid "7" stand in the same place.

    Numbers come first, by size. The order is total: cids that read as the same number, such as "3"
    and "03", are ordered by their text.
    """
    text = str(client)
    is_number = text.isdecimal() and len(text) < 50
    return (0, int(text), text) if is_number else (1, 0, text)
