"""Schedules for as long as one likes: `make soak SECONDS=60 SEED=1`. Its last line is JSON; it fails where one did."""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import count

from simulation.search import explain, search

EXPLAINED = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1, help="the first seed; the others follow")
    options = parser.parse_args()
    over = time.monotonic() + options.seconds
    lived: list[int] = []
    failing = []
    for found in search(count(options.seed), stop=lambda: bool(lived) and time.monotonic() > over):
        for seed, wrong in found:
            lived.append(seed)
            if wrong:
                failing.append(seed)
                print(f"seed {seed}: {wrong[:500]}", flush=True)  # noqa: T201
    for seed in failing[:EXPLAINED]:
        print(f"seed {seed} again:\n{explain(seed)}", flush=True)  # noqa: T201
    print(json.dumps({"schedules": len(lived), "violations": len(failing), "seed": options.seed}))  # noqa: T201
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
