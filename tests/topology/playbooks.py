"""Playbooks that tests run, and what they said."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_RECAP = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """How a playbook ended."""

    code: int
    said: str

    @property
    def text(self) -> str:
        """In one line, for sentences that were broken."""
        return " ".join(self.said.split())

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks changed something, by host."""
        return {host: int(changed) for host, changed, *_ in _RECAP.findall(self.said)}

    @property
    def changes(self) -> int:
        """On all hosts."""
        return sum(self.changed.values())


def play(playbook: str, *options: str, inventory: Path, tree: Path = ROOT) -> Run:
    """Run a playbook of this tree to its end, whatever that is."""
    ended = subprocess.run(
        ["ansible-playbook", "--inventory", inventory, playbook, *options],
        cwd=tree,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(tree / "ansible.cfg"),
            "ANSIBLE_BECOME_PASSWORD_FILE": str(ROOT / "molecule/shared/sudo-password"),
            "ANSIBLE_NOCOLOR": "1",
            "COLUMNS": "1000",
            "PATH": f"{os.environ['PATH']}:{ROOT / '.uv' / 'bin'}",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Run(ended.returncode, ended.stdout)
