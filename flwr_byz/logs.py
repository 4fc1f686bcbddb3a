"""What clients say, made fit for a line of a log."""


def escaped(text: object, limit: int = 200) -> str:
    r"""Return a text in which nothing breaks a line or drives a terminal, of `limit` characters.

    What does not print becomes what Python writes for it, such as ``\n``, and so does a backslash:
    no two texts look alike but for what is cut, where "…" ends them.
    """
    whole = str(text)
    shown = "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode()
        for char in whole[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
