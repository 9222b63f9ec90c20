"""Converged hosts in the hands of their operator, to the end.

The last phase of Molecule's default scenario: at its end TRISHULA is gone. By hand, on the hosts that
`molecule converge` left:

pytest tests/operations --ansible-inventory=molecule/default/inventory --connection=ansible
"""

from __future__ import annotations

from pathlib import Path

import pytest

from operations.operator import Operator
from topology.conftest import inventory, mesh, router

__all__ = ["inventory", "mesh", "router"]

ORDER = ["look", "new_store", "reboot", "rotation", "team", "theft", "uninstall"]
"""Each finds what the one before left: a theft costs the laptop, and uninstalling everything."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    items.sort(key=lambda item: ORDER.index(item.path.stem.removeprefix("test_")) if item.path.parent == here else -1)


@pytest.fixture(scope="session")
def operator(inventory: Path, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(inventory, tmp_path_factory.mktemp("inventory"))
