"""A server on port 443 whose certificate comes from an ACME CA, under a stream of messages.

The verify phase of Molecule's scenario `letsencrypt`. By hand, on what `molecule converge -s letsencrypt` left:

pytest tests/letsencrypt --ansible-inventory=molecule/letsencrypt/inventory --connection=ansible
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.stream import Stream
from topology.conftest import inventory, mesh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from topology.nodes import Node

__all__ = ["inventory", "mesh"]


@pytest.fixture(scope="session")
def stream(mesh: dict[str, Node]) -> Iterator[Stream]:
    """Both agents write to each other, from before the first renewal until the test after the last."""
    with Stream(mesh).flowing() as stream:
        yield stream


@pytest.fixture(scope="session")
def agni(mesh: dict[str, Node]) -> Node:
    """The server."""
    return mesh["agni"]


@pytest.fixture(scope="session")
def mac(mesh: dict[str, Node]) -> Node:
    """The laptop, which has a certificate of the mesh CA."""
    return mesh["mac"]
