"""The simulation: whole meshes in memory, in virtual time, from seeds.

    pytest tests/simulation                          the schedules that every test run lives through
    pytest tests/simulation --schedules 5000         more of them
    pytest tests/simulation --seed 105 --nodes 3     one again, as a failure says it

A schedule is what a seed makes of it: when agents write what to whom, how slow the network and the disks are, who is
killed, cut off, frozen, out of disk or dialled twice, and what an adversary does to frames.

    world    time and chance            host       the shell around a node's engine    witness    the invariants
    network  connections, partitions    store      its disk                            mesh       all of it; schedules
    agents   who writes                 adversary  who meddles

A seed means another schedule once something draws from the world that did not before; so what a seed found is kept as a
test of its own, here or in tests/unit.
"""

from __future__ import annotations

import pytest

SCHEDULES = 400


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--nodes", type=int, help="in a mesh of so many nodes only")
    group.addoption("--schedules", type=int, default=SCHEDULES, help="how many schedules to live through")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`nodes` and `seeds`: the schedules that were asked for."""
    if "seeds" in metafunc.fixturenames:
        option = metafunc.config.getoption
        sizes = [option("nodes", None)] if option("nodes", None) else [2, 3]
        seed = option("seed", None)
        seeds = range(1, option("schedules", SCHEDULES) // len(sizes) + 1) if seed is None else [seed]
        metafunc.parametrize(
            ("nodes", "seeds"), [(size, seeds) for size in sizes], ids=[f"{size} nodes" for size in sizes]
        )
