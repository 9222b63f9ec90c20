"""The inventory as its operator left it, and what a host answers before anything of ours is on it."""

# ruff: noqa: INP001 - Ansible looks into this folder; it is no package
from __future__ import annotations

import ipaddress
import re
from pathlib import Path

DOCUMENTATION = [
    ipaddress.ip_network(network)
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")
]
"""Addresses that no host has: RFC 5737, 3849 and 9637."""
ADDRESSES = ("ansible_host", "trishula_address")
NO_REASON = re.compile(r"<trishula .*?>|^Shared connection to \S+ closed\.$|^Task failed: ", re.MULTILINE)
"""What stands beside a reason: our own marks, ssh's goodbye, and Ansible's frame."""
MARKED = re.compile(r"<trishula ([a-z]+)=(.*?)>")


def marked(said: str) -> dict[str, str]:
    """What a shell printed as ``<trishula NAME=VALUE>``, by name.

    Anything may stand around it: a prompt of sudo, a greeting of the login's shell, the carriage returns of a terminal.
    """
    return dict(MARKED.findall(said))


def why_not(answer: dict) -> str:
    """Why a host gave no answer to `raw`: what ssh or sudo said, without Ansible's frame around it."""
    for key in ("stderr", "stdout", "msg"):
        text = str(answer.get(key) or "").replace("\r", "")
        words = NO_REASON.sub("", text).strip().rstrip(".")
        if words:
            return words
    return "no answer"


def not_filled_in(facts: dict, host: str, inventory_dir: str, inventory_file: str) -> list[str]:
    """A sentence for each address of ``host`` that is still one of the documentation, with the file that has it."""
    return [
        f"{key} of {host} is still the documentation's address {facts[key]}: fill in "
        f"{_where(key, host, inventory_dir, inventory_file)}, {key}"
        for key in ADDRESSES
        if _is_documentation(str(facts.get(key, "")))
    ]


def _is_documentation(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return any(address in network for network in DOCUMENTATION)


def _where(key: str, host: str, inventory_dir: str, inventory_file: str) -> str:
    """The file of the host's own variables if the key stands there, else the one that names the host."""
    own = Path(inventory_dir, "host_vars", f"{host}.yml")
    if own.is_file() and re.search(rf"^{key}\s*:", own.read_text("utf-8"), re.MULTILINE):
        return str(own)
    return inventory_file


class FilterModule:
    """``said | trishula_marked`` and its likes."""

    def filters(self) -> dict:
        """As Ansible asks for them."""
        return {"trishula_marked": marked, "trishula_why_not": why_not, "trishula_not_filled_in": not_filled_in}
