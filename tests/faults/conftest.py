"""Converged hosts under a stream of messages, while one thing after the other breaks.

A phase of Molecule's default scenario. By hand, on the hosts that `molecule converge` left:

pytest tests/faults --ansible-inventory=molecule/default/inventory --connection=ansible
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from faults.note import Note
from faults.watched import WatchedStream
from topology.conftest import inventory, mesh, router
from topology.nodes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from topology.nodes import Node

__all__ = ["inventory", "mesh", "router"]


NOTE: pytest.StashKey[Note] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[NOTE] = Note()


@pytest.fixture
def note(pytestconfig: pytest.Config) -> Note:
    return pytestconfig.stash[NOTE]


@pytest.fixture(scope="session")
def whole_stream(mesh: dict[str, Node]) -> Iterator[WatchedStream]:
    """From before the first fault until it is told to finish."""
    with WatchedStream(mesh).flowing() as stream:
        yield stream


@pytest.fixture
def stream(whole_stream: WatchedStream) -> Iterator[WatchedStream]:
    """The same, with nothing left broken after the test."""
    yield whole_stream
    now = time.time()
    eventually(lambda: whole_stream.healthy(since=now), within=15)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.section("faults")
    for line in config.stash[NOTE].lines():
        terminalreporter.line(line)
