"""What ufw is told, and whom a firewall that denies by default would cut off.

``ss -Hltunp`` says who listens, the ``### tuple ###`` lines of ufw's user.rules say what the operator allowed before us
(they name ports even where the rule names an application).
"""

# ruff: noqa: INP001 - Ansible looks into this folder; it is no package
from __future__ import annotations

import ipaddress
import re
import socket

# proto, state, two queues, where, from whom; and the process, where ss can tell.
LISTENING = re.compile(
    r"(?P<proto>tcp|udp) +\w+ +\d+ +\d+ +(?P<address>\S+):(?P<port>\d+) +\S+( +users:\(\(\"(?P<process>[^\"]*))?"
)

# ufw's own before.rules let these in: DHCP's answers, multicast DNS and UPnP.
UFW_LETS_IN = ("68/udp", "546/udp", "5353/udp", "1900/udp")

PORTS = re.compile(r"[1-9]\d{0,4}(:[1-9]\d{0,4})?")


def rules(allow: list[dict], ssh_ports: list[int], mesh_ports: list[int]) -> list[str]:
    """All that ufw shall allow, ssh first, each rule once and as ``ufw show added`` prints it."""
    told: dict[str, str] = {}
    for port in ssh_ports:
        told.setdefault(f"allow {port}/tcp", "ssh")
    for port in mesh_ports:
        told.setdefault(f"allow {port}/tcp", "mesh")
    for extra in allow:
        told.setdefault(_rule(extra), extra.get("comment", "extra"))
    return [f"{rule} comment 'trishula: {comment}'" for rule, comment in told.items()]


def mistakes(allow: list[dict]) -> list[str]:
    """What ufw would not take, or would show in other words than it was told: a rule that each run removes."""
    found = []
    for extra in allow:
        try:
            _rule(extra)
        except ValueError as mistake:
            found.append(str(mistake))
    return found


def _rule(extra: dict) -> str:
    port, proto, source, comment = (
        str(extra.get(key, default))
        for key, default in (("port", ""), ("proto", "tcp"), ("from", "any"), ("comment", ""))
    )
    if not PORTS.fullmatch(port):
        raise ValueError(f"'{port}' is no port: one number, or a range such as 60000:61000")
    if "'" in comment or not comment.isprintable():
        raise ValueError(f"the comment of port {port} has an apostrophe or a line break, which ufw takes none of")
    return (
        f"allow {port}/{proto}" if source == "any" else f"allow from {_source(source)} to any port {port} proto {proto}"
    )


def _source(text: str) -> str:
    """An address or a network in ufw's own words: no host bits, no mask of a single address, IPv6 in small letters."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"'{text}' is no address or network such as 203.0.113.5, 203.0.113.0/24 or 2001:db8::/32"
        ) from None
    if network.prefixlen == 0:
        raise ValueError(f"'{text}' is everybody: leave 'from' out")
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6  # noqa: PLR2004 - the version of IP
    address = socket.inet_ntop(family, network.network_address.packed)
    return address if network.num_addresses == 1 else f"{address}/{network.prefixlen}"


OURS = re.compile(r"ufw (.*) comment 'trishula: [^']*'")
DEFAULTS = {"ACCEPT": "allow", "REJECT": "reject"}
"""Besides `deny`, which is what we set."""


def undo(now: str, before: str, ssh_ports: list[int]) -> list[str]:
    """What ufw is to be told so that it is as it was; both texts are its own (`show added`, `status verbose`).

    Where nobody knows how it was, and where it was switched on, it stays on; then ssh stays open, whoever opened it.
    """
    was_on = "Status: inactive" not in before
    rules = [line for line in before.splitlines() if line.startswith("ufw ") and not OURS.match(line)]
    theirs = {line.split(" comment ")[0]: line for line in rules}
    told = [] if was_on or "Status: active" not in now else ["disable"]
    policy = re.search(r'^DEFAULT_INPUT_POLICY="?(\w+)', before, re.MULTILINE)
    if policy is not None and policy[1] in DEFAULTS:
        told.append(f"default {DEFAULTS[policy[1]]} incoming")
    for rule in OURS.findall(now):
        if f"ufw {rule}" in theirs:
            as_it_was = theirs[f"ufw {rule}"].removeprefix("ufw ")
            told.append(as_it_was if " comment " in as_it_was else f"{as_it_was} comment ''")
        elif was_on and rule in [f"allow {port}/tcp" for port in ssh_ports]:
            told.append(f"{rule} comment ''")
        else:
            told.append(f"delete {rule}")
    return told


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
    """``ss | trishula_listeners``, ``allow | trishula_rules(ssh_ports, mesh_ports)`` and their likes."""

    def filters(self) -> dict:
        """As Ansible asks for them."""
        return {
            "trishula_rules": rules,
            "trishula_rule_mistakes": mistakes,
            "trishula_firewall_undo": undo,
            "trishula_listeners": listeners,
            "trishula_cut_off": cut_off,
        }
