"""Whoever runs the playbooks: with an inventory of their own to edit, and an eye on what each run says it changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from topology.nodes import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topology.nodes import Node

AUTHORIZED = "/etc/ssh/authorized_keys.d/trishula-sync"

ROOT = Path(__file__).resolve().parents[2]
_RECAP = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What ansible-playbook said, and how it ended."""

    code: int
    said: str

    @property
    def text(self) -> str:
        """In one line, for sentences that were broken."""
        return " ".join(self.said.split())

    @property
    def changes(self) -> int:
        """On all hosts."""
        return sum(self.changed.values())

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks changed something, by host."""
        return {host: int(changed) for host, changed, *_ in _RECAP.findall(self.said)}


class Operator:
    """Works on a copy of an inventory, beside the same secrets: the inventory of the tests stays as it is."""

    def __init__(self, inventory: Path, folder: Path) -> None:
        self.inventory = folder
        self.secrets = inventory / "secrets"
        (folder / "secrets").symlink_to(self.secrets)
        (folder / "group_vars").symlink_to((inventory / "group_vars").resolve())
        (folder / "host_vars").mkdir()
        for path in (inventory / "host_vars").iterdir():
            (folder / "host_vars" / path.name).symlink_to(path.resolve())
        self._hosts = folder / "hosts.yml"
        self._hosts.write_text((inventory / "hosts.yml").read_text())

    def run(self, playbook: str, *options: str) -> Run:
        """Run a playbook to its end, whatever that is."""
        ended = subprocess.run(
            ["ansible-playbook", "-i", self.inventory, playbook, *options],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Run(ended.returncode, ended.stdout)

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
