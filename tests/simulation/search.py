"""Many schedules on all cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice

from simulation.schedule import again, failure, plan, shrink

CHUNK = 20

Found = list[tuple[int, str]]
"""Seeds, and what is wrong with them; nothing where all is well."""


def search(
    seeds: Iterable[int], nodes: int | None = None, *, chunk: int = CHUNK, stop: Callable[[], bool] = lambda: False
) -> Iterator[Found]:
    """Live through schedules until there are no more seeds, or `stop` says so. Yields what came of some of them."""
    left = iter(seeds)
    workers = os.cpu_count() or 1
    # Forked, so that the workers have what a test has patched.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        under_way: set[Future[Found]] = set()
        while True:
            while len(under_way) < 2 * workers and not stop() and (some := list(islice(left, chunk))):
                under_way.add(pool.submit(_try, some, nodes))
            if not under_way:
                return
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            if stop():
                pool.shutdown(cancel_futures=True)
                return


def _try(seeds: list[int], nodes: int | None) -> Found:
    return [(seed, failure(seed, nodes)) for seed in seeds]


def explain(seed: int, nodes: int | None = None) -> str:
    """How to see a failing schedule again, in full and shrunk to the fewest steps that still fail."""
    kept = shrink(seed, nodes)
    steps = [step for step in plan(seed, nodes).steps if step.number in kept]
    return "\n".join(
        [
            f"  all of it:  {again(seed, nodes)}",
            f"  the least:  {again(seed, nodes, kept)}",
            *(f"    {step.time:7.3f} s  {step.kind.replace('_', ' ')}" for step in sorted(steps, key=lambda s: s.time)),
        ]
    )
