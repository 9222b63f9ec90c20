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
    schedules, failing = 0, []
    for found in search(count(options.seed), stop=lambda: time.monotonic() > over):
        schedules += len(found)
        for seed, wrong in found:
            if wrong:
                failing.append(seed)
                print(f"seed {seed}: {wrong[:500]}", flush=True)  # noqa: T201
    for seed in failing[:EXPLAINED]:
        print(f"seed {seed} again:\n{explain(seed)}", flush=True)  # noqa: T201
    print(json.dumps({"schedules": schedules, "violations": len(failing), "seed": options.seed}))  # noqa: T201
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
