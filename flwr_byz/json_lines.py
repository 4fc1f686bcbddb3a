"""Files of JSON, an object a line, that survive a writer that is killed."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def append(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a file; where its last line was cut off, they begin on a new one.

    Raises ValueError where a number is not finite, which JSON has no form for.
    """
    text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(text.encode())


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole objects of a file, if there is one."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError, RecursionError):
                if isinstance(entry := json.loads(line), dict):
                    yield entry


def plain(value: Any) -> Any:
    """Return a value in JSON's form, however deep: None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
