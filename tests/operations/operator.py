"""Whoever runs the playbooks, with an inventory of their own to edit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from topology.nodes import CREDENTIALS
from topology.playbooks import Run, play

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from topology.nodes import Node

AUTHORIZED = "/etc/ssh/authorized_keys.d/trishula-sync"


class Operator:
    """Works on a copy of an inventory, beside the same secrets: the inventory of the tests stays as it is."""

    def __init__(self, inventory: Path, folder: Path) -> None:
        self.inventory = folder
        self.secrets = inventory / ".secrets"
        (folder / ".secrets").symlink_to(self.secrets)
        (folder / ".ssh").symlink_to(inventory / ".ssh")
        (folder / "group_vars").symlink_to((inventory / "group_vars").resolve())
        (folder / "host_vars").mkdir()
        for path in (inventory / "host_vars").iterdir():
            (folder / "host_vars" / path.name).symlink_to(path.resolve())
        self._hosts = folder / "hosts.yml"
        self._hosts.write_text((inventory / "hosts.yml").read_text())

    def run(self, playbook: str, *options: str) -> Run:
        """Run a playbook to its end, whatever that is."""
        return play(playbook, *options, inventory=self.inventory)

    def succeed(self, playbook: str, *options: str) -> Run:
        run = self.run(playbook, *options)
        assert run.code == 0, run.said
        return run

    def move(self, host: str, to: str | None, facts: Mapping[str, Any] | None = None) -> None:
        """Put a host into this group, or take it out of the inventory."""
        groups = yaml.safe_load(self._hosts.read_text())
        known: dict[str, Any] = {}
        for group in groups.values():
            known |= group["hosts"].pop(host, None) or {}
        if to is not None:
            groups[to]["hosts"][host] = known
        self._hosts.write_text(yaml.safe_dump(groups, sort_keys=False))
        if facts is not None:
            (self.inventory / "host_vars" / f"{host}.yml").write_text(yaml.safe_dump(dict(facts)))

    @property
    def generations(self) -> dict[str, Any]:
        return yaml.safe_load((self.secrets / "generations.yml").read_text())


def kids(node: Node) -> dict[str, list[str]]:
    """The ids of the keys that a node shares, by peer."""
    keys = json.loads(node.read(f"{CREDENTIALS}/keys.json"))
    return {peer: [key["kid"] for key in pair] for peer, pair in keys.items()}
