"""Whom a firewall that denies by default would cut off.

``ss -Hltunp`` says who listens, the ``### tuple ###`` lines of ufw's user.rules say what the operator allowed before us
(they name ports even where the rule names an application).
"""

# ruff: noqa: INP001 - Ansible looks into this folder; it is no package
from __future__ import annotations

import ipaddress
import re

# proto, state, two queues, where, from whom; and the process, where ss can tell.
LISTENING = re.compile(
    r"(?P<proto>tcp|udp) +\w+ +\d+ +\d+ +(?P<address>\S+):(?P<port>\d+) +\S+( +users:\(\(\"(?P<process>[^\"]*))?"
)

# ufw's own before.rules let these in: DHCP's answers, multicast DNS and UPnP.
UFW_LETS_IN = ("68/udp", "546/udp", "5353/udp", "1900/udp")


def listeners(ss: str) -> list[dict]:
    """Who listens where others can reach it, in the order of the ports: ``{port, proto, address, process}``."""
    found = {}
    for line in ss.splitlines():
        listening = LISTENING.match(line)
        if listening is None or not _reachable(listening["address"]):
            continue
        listener = {
            "port": int(listening["port"]),
            "proto": listening["proto"],
            "address": listening["address"],
            "process": listening["process"] or "the kernel or another namespace",
        }
        found.setdefault((listener["port"], listener["proto"]), listener)
    return [found[key] for key in sorted(found)]


def cut_off(ss: str, named: list[str], rules: str = "") -> list[dict]:
    """The listeners that neither ``named`` (``22/tcp``, ``60000:61000/udp``) nor the existing rules let in."""
    open_ports = [_ports(name) for name in (*named, *UFW_LETS_IN)]
    open_ports += [ports for line in rules.splitlines() for ports in _tuple(line)]
    return [
        listener
        for listener in listeners(ss)
        if not any(
            proto in (listener["proto"], "any") and first <= listener["port"] <= last
            for first, last, proto in open_ports
        )
    ]


def _reachable(address: str) -> bool:
    host, _, interface = address.replace("[", "").replace("]", "").partition("%")
    if host == "*":
        return True
    return interface != "lo" and not ipaddress.ip_address(host).is_loopback


def _ports(name: str) -> tuple[int, int, str]:
    ports, _, proto = str(name).partition("/")
    first, _, last = ports.partition(":")
    return int(first), int(last or first), proto or "any"


def _tuple(line: str) -> list[tuple[int, int, str]]:
    """Of ``### tuple ### allow tcp 80,443 0.0.0.0/0 any 0.0.0.0/0 in`` the ports."""
    match = re.match(r"### tuple ### (?:route:)?(allow|limit)\S* (\S+) (\S+) .*\bin", line)
    if match is None:
        return []
    _, proto, ports = match.groups()
    return [_ports(f"{'0:65535' if port == 'any' else port}/{proto}") for port in ports.split(",")]


class FilterModule:
    """``ss | trishula_listeners`` and ``ss | trishula_cut_off(named, rules)``."""

    def filters(self) -> dict:
        """As Ansible asks for them."""
        return {"trishula_listeners": listeners, "trishula_cut_off": cut_off}
