"""Real nodes as processes, for all integration tests.

    network          proxies between nodes: cut, slow, refusing, resetting
    correspondence   agents who write to each other, and what must be true of their mail in the end

A small disk is a tmpfs, which wants root, or sudo without a password: without, that test is skipped by name, and a
failure where CI=true.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from trishula.cli.sandbox import Sandbox


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Another one each time; what failed says how to have it again."""
    given: int | None = request.config.getoption("--seed")
    seed = random.SystemRandom().randrange(1_000_000) if given is None else given
    request.node.add_report_section("setup", "seed", f"the same again: pytest '{request.node.nodeid}' --seed {seed}")
    return seed


@pytest.fixture(scope="session")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """mac, agni and rushabdev, up and linked. Tests that kill a node or change its settings make their own mesh."""
    with Sandbox(tmp_path_factory.mktemp("three-nodes")) as mesh:
        mesh.start()
        asyncio.run(mesh.linked())
        yield mesh
        tracebacks = [place.name for place in mesh.places.values() if "Traceback" in place.log.read_text()]
    assert not tracebacks, f"tracebacks in the logs of {tracebacks}"
