"""Search at random for colluders whose cancelling vectors lead further than the sharp bound.

Usage: ``python -m tests.long.search_colluders --cases 100000 --seed 0``. The exit code is 1 where
such a round was found; it is printed as what makes it anew.
"""

import argparse
import logging
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

from tests.support.colluders import draw


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=20, help="violations after which to stop")
    chosen = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(chosen.seed)
    began, found, closest, case = time.monotonic(), 0, 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        audit = Path(folder) / "audit.jsonl"
        for case in range(1, chosen.cases + 1):
            played = draw(rng)
            try:
                _, allowed, distance = played.play(audit)
            except Exception:
                traceback.print_exc(limit=-3)
                allowed, distance = 0.0, np.inf
            audit.unlink(missing_ok=True)
            if distance > allowed:
                found += 1
                print(f"\n{distance:.6g} > {allowed:.6g}: {played}", flush=True)
            elif 0 < allowed < np.inf:
                closest = max(closest, distance / allowed)
            if case % 500 == 0 or case == chosen.cases:
                rate = case / (time.monotonic() - began)
                print(
                    f"\r{case} of {chosen.cases} rounds, {rate:.0f} a second: {found} violations, "
                    f"else at most {closest:.4f} of the bound",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
            if found >= chosen.most:
                break
    print(f"\n{case} rounds, {found} violations, else at most {closest:.4f} of the bound")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
