"""For which names a certificate holds, and why Let's Encrypt could not issue one."""

# ruff: noqa: INP001 - Ansible looks into this folder; it is no package
from __future__ import annotations

import ipaddress
import re

# Nobody outside resolves these: reserved for that (RFC 2606, 6761, 6762, 8375), or used at home and delegated to none.
PRIVATE = (
    *("alt", "example", "home.arpa", "internal", "invalid", "local", "localhost", "test"),
    *("corp", "home", "intranet", "lan", "localdomain", "private", "vps"),
)

PUBLIC_DIRECTORY = re.compile(r"https://acme(-staging)?-v\d+\.api\.letsencrypt\.org/")


def names_missing(wanted: list[str], held: list[str]) -> list[str]:
    """Of ``DNS:name`` and ``IP:address`` those for which a certificate with these alternative names does not hold."""
    return [name.partition(":")[2] for name in wanted if not any(_holds(one, name) for one in held)]


def _holds(held: str, wanted: str) -> bool:
    kind, _, name = wanted.partition(":")
    other, _, pattern = held.replace("IP Address:", "IP:").partition(":")
    if kind != other:
        return False
    if kind == "IP":
        return ipaddress.ip_address(pattern) == ipaddress.ip_address(name)
    name, pattern = name.lower(), pattern.lower()
    # A star is one label, the first.
    return name == pattern or (pattern.startswith("*.") and name.partition(".")[2] == pattern[2:])


def letsencrypt_mistakes(
    answers: str, names: list[str], addresses: list[str], reached_at: list[str], directory_url: str
) -> list[str]:
    """Why the CA would not issue a certificate for these names to the host that gave these answers.

    ``answers`` has lines ``A name address``, ``AAAA name address``, ``here address/prefix``; ``busy`` and ss's own.
    ``reached_at`` are addresses that the host does not have, and is reached at.
    """
    said = [line.split(None, 1) for line in answers.splitlines() if line.strip()]
    here = {ipaddress.ip_interface(rest.split()[0]).ip for kind, rest in said if kind == "here"}
    here |= {ipaddress.ip_address(address) for address in reached_at}
    records: dict[str, dict[str, list[str]]] = {"A": {}, "AAAA": {}}
    for kind, rest in said:
        if kind in records:
            name, address = rest.split()
            records[kind].setdefault(name, []).append(address)
    mistakes = [
        f"'{address}' is an address, and it certifies names: set trishula_address to a name that leads there"
        for address in addresses
    ]
    for name in names:
        mistakes += _of_name(name, records, here, public=bool(PUBLIC_DIRECTORY.match(directory_url)))
    if not names and not addresses:
        mistakes.append("there is no name: set trishula_address to one that leads there")
    mistakes += [
        f"port 80 is in use by {_process(rest)}, and the CA looks there: stop that, or use provider 'provided'"
        for kind, rest in said
        if kind == "busy"
    ]
    return mistakes


def _of_name(name: str, records: dict[str, dict[str, list[str]]], here: set, *, public: bool) -> list[str]:
    if "." not in name.strip("."):
        return [f"'{name}' is no full name: set trishula_address to one such as {name}.example.org"]
    suffix = next((suffix for suffix in PRIVATE if name.lower().endswith(f".{suffix}")), None)
    if public and suffix:
        return [f"'{name}' is private, nobody outside resolves .{suffix}: use a public name, or provider 'self_signed'"]
    four, six = (records[kind].get(name, []) for kind in ("A", "AAAA"))
    if not four and not six:
        return [f"'{name}' has no A record: make one that leads to this host"]
    mistakes = []
    if elsewhere := _elsewhere(four, here):
        mistakes.append(
            f"the A record of '{name}' is {elsewhere}, and this host has {_listed(here, 4)}: mend the record, or, "
            "behind a 1:1 NAT, name that address in trishula_tls_letsencrypt_addresses"
        )
    if elsewhere := _elsewhere(six, here):
        mistakes.append(
            f"the AAAA record of '{name}' is {elsewhere}, and this host has {_listed(here, 6)}: the CA asks there "
            "first, so remove the record or mend it"
        )
    return mistakes


def _elsewhere(addresses: list[str], here: set) -> str:
    return ", ".join(address for address in addresses if ipaddress.ip_address(address) not in here)


def _listed(here: set, version: int) -> str:
    of_version = sorted(address for address in here if address.version == version and not address.is_loopback)
    return ", ".join(map(str, of_version)) or "none"


def _process(listening: str) -> str:
    match = re.search(r'users:\(\("([^"]*)', listening)
    return match[1] if match else "something that this host does not name"


class FilterModule:
    """``wanted | trishula_names_missing(held)``, ``answers | trishula_letsencrypt_mistakes(...)``."""

    def filters(self) -> dict:
        """As Ansible asks for them."""
        return {"trishula_names_missing": names_missing, "trishula_letsencrypt_mistakes": letsencrypt_mistakes}
