"""What clients say, made fit for a line of a log."""


def escaped(text: object, limit: int = 200) -> str:
    r"""Return a text in which nothing breaks a line or drives a terminal, cut to a length.

    Line breaks, escape sequences and whatever else does not print become what Python writes for
    them, such as ``\n``. So does the backslash: no two texts look alike but for the cut.

    Parameters
    ----------
    text : object
        What `str` makes a text of.
    limit : int, default 200
        The most characters to return; what is cut ends with "…".
    """
    whole = str(text)
    shown = "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode()
        for char in whole[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
