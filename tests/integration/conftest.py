"""Real nodes as processes, for all integration tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from trishula.cli.sandbox import Sandbox


@pytest.fixture(scope="session")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """mac, agni and rushabdev, up and linked. Tests that kill a node or change its settings make their own mesh."""
    with Sandbox(tmp_path_factory.mktemp("three-nodes")) as mesh:
        mesh.start()
        asyncio.run(mesh.linked())
        yield mesh
        tracebacks = [place.name for place in mesh.places.values() if "Traceback" in place.log.read_text()]
    assert not tracebacks, f"tracebacks in the logs of {tracebacks}"
