"""All that a host has, compared with itself at another time: nothing changes that is not ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from topology.playbooks import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from topology.nodes import Node

_KINDS = re.compile("(passwd|g?shadow|group|package|manual|unit|failed|ufw|listens|file|folder|content) ")
_SCRIPT = (ROOT / "molecule/shared/portrait").read_text("utf-8")

BY_ITSELF = re.compile(
    r"(file|content) /home/\w+/\.bash_history\b"
    r"|(file|folder|content) (/root|/home/\w+|/srv/people/\w+)/\.ansible\b"  # Ansible's own
    r"|content /etc/(passwd|group|shadow|gshadow)-? |file /etc/(passwd|group|shadow|gshadow|subuid|subgid)- "
    r"|(file|content) /etc/(ld\.so\.cache|mailcap|machine-id|resolv\.conf|hosts)\b"
    r"|(file|folder|content) /etc/ufw\b|(file|content) /etc/default/ufw\b"  # rewritten when it is switched on and off
    r"|(file|folder|content) /var/lib/(private|apt|ucf|pam|python|man-db|systemd|logrotate|dbus)\b"
    r"|file /var/backups/(apt|dpkg|alternatives)\b"  # once a day
    r"|(file|folder|content) /etc/\.(pwd\.lock|updated)"
)
"""What the system itself rewrites while packages, accounts and the firewall come and go; their entries are compared."""


def portrait(node: Node) -> set[str]:
    """As it is now."""
    run = node.run("sh", "-c", _SCRIPT)
    assert run.rc == 0, run.stderr
    return lines(run.stdout)


def before(inventory: Path, name: str) -> set[str]:
    """As it was before anything of ours came, which molecule/shared/prepare.yml has noted."""
    return lines((inventory / ".before" / name).read_text("utf-8"))


def lines(said: str) -> set[str]:
    """Without what a login's shell has printed before."""
    return {line.rstrip() for line in said.splitlines() if _KINDS.match(line) and not BY_ITSELF.match(line)}


def undeclared(then: set[str], now: set[str], declared: str) -> list[str]:
    """What came (+) and went (-) that the regular expression, which is a verbose one, does not declare."""
    changes = [(line, "+") for line in now - then] + [(line, "-") for line in then - now]
    return [f"{sign} {line}" for line, sign in sorted(changes) if not re.match(declared, line, re.VERBOSE)]
