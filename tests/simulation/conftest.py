"""The simulation: whole meshes in memory, in virtual time, from seeds.

    pytest tests/simulation                          the schedules that `make test-all` lives through
    pytest tests/simulation -m "not long"            those of `make test`
    pytest tests/simulation --schedules 5000         more of them
    pytest tests/simulation --seed 105               one again, as a failure says it
    pytest tests/simulation --seed 105 --keep 3,7    with these of its steps only: what a failure was shrunk to
    make soak SECONDS=600 SEED=20000                 on all cores, for as long as one likes

A schedule is what a seed makes of it: how many nodes there are and who is never linked to whom, their limits, when
agents write what to whom and read it, who has a post to whom, and the troubles: who is killed at which step, frozen,
asleep, cut off one way or both, out of disk, slow, dialled twice; where rsync fails; whose clock is set wrong, whose
store is lost or comes back from a backup, whose keys are changed, who is removed; and what an adversary with one node's
keys does to frames on links. Then all troubles end, and when the dust has settled, every promise must have been kept.

    world    time and chance            host       the shell around a node's engine    witness    the invariants
    network  connections, partitions    store      its disk                            mesh       all hosts, judged
    posts    rooms, and rsync           files      its mailboxes                       schedule   what comes of a seed
    agents   who writes and reads       adversary  who meddles                         search     many, on all cores

The pauses of the core (back-off, reclaim, retention, posts) are scaled down, so that a schedule sees what follows them.
A seed means another schedule once something draws from it that did not before; so what a seed found is kept as a test
of its own, in test_faults or in tests/unit. A test that cannot fail shows nothing: test_teeth plants bugs in the core.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--nodes", type=int, help="in a mesh of so many nodes only")
    group.addoption("--keep", type=_numbers, help="with these steps of its plan only, or none")
    group.addoption("--schedules", type=int, help="how many schedules to live through")


def _numbers(text: str) -> list[int]:
    return [] if text == "none" else [int(number) for number in text.split(",")]
