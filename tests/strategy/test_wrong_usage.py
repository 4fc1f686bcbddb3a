"""What newcomers get wrong: each is refused or logged in one line with the way out.

``wrong_usage.txt`` holds imports, then usages with their lines, where "..." stands for any text.
"""

import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from flwr_byz import cli
from tests.support.apis import MESSAGE

TEXT = (Path(__file__).parent / "wrong_usage.txt").read_text(encoding="utf-8")
IMPORTS, _, TABLE = TEXT.partition("\n\n")
USAGES = re.findall(r"^(\w.*)\n    (.*)$", TABLE, re.M)
assert len(dict(USAGES)) >= 60


def a_round(num_clients, **options):
    """Run a round in which clients report a loss and a partition-id."""
    arrays = [[np.full(3, 0.1 * client)] for client in range(num_clients)]
    replies = {c: MESSAGE.reply(a, {"loss": 0.5, "partition-id": c}) for c, a in enumerate(arrays)}
    MESSAGE.round(MESSAGE.gmom(**options), replies, [np.zeros(3)])


def command(arguments):
    """Run the command flwr-byz."""
    sys.argv = ["flwr-byz", *arguments.split()]
    cli.main()


NAMES = dict(globals())
exec(IMPORTS, NAMES)


@pytest.mark.parametrize(("usage", "line"), USAGES, ids=[usage for usage, _ in USAGES])
def test_a_wrong_usage_gets_one_line_with_the_way_out(
    usage, line, caplog, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    caplog.set_level(logging.WARNING, "flwr")
    try:
        eval(usage, NAMES)
        found = [f"{record.levelname}: {record.getMessage()}" for record in caplog.records]
    except Exception as error:
        found = [f"{type(error).__name__}: {error}"]
    except SystemExit as left:
        found = [f"exit code {left.code}: {capsys.readouterr().err}".removesuffix("\n")]
    pattern = ".+".join(map(re.escape, line.split("...")))
    assert any(re.fullmatch(pattern, each) for each in found), found
    assert len(line) <= 300
