"""Keys of ssh as hosts say them, and what would turn rsync away without a word to anybody.

said        'push ssh-ed25519 AAAA…', 'pull …', 'host …'                    by the peer's host, in this run
here        'restrict,command="…" ssh-ed25519 AAAA… agni push'              in authorized_keys
            'agni ssh-ed25519 AAAA…'                                        in known_hosts
"""

# ruff: noqa: INP001 - Ansible looks into this folder; it is no package
from __future__ import annotations

import fnmatch
import re

SAID = re.compile(r"(push|pull|host) ([a-z0-9@.-]+ [A-Za-z0-9+/=]+)")
AUTHORIZED = re.compile(r'restrict,command=".*" (?P<key>ssh-ed25519 [A-Za-z0-9+/=]+) (?P<peer>\S+) (?P<use>push|pull)')
KNOWN = re.compile(r"(?P<peer>[a-z0-9-]+) (?P<key>[a-z0-9@.-]+ [A-Za-z0-9+/=]+)")


def peer_keys(peers: list[dict], here: str) -> dict[str, dict]:
    """By peer: ``push`` and ``pull``, where it has them, and ``host``. What a peer's host said in this run holds."""
    found: dict[str, dict] = {peer["name"]: {"host": []} for peer in peers}
    asked = {peer["name"] for peer in peers if peer.get("public_keys")}
    for line in here.splitlines():
        if (match := AUTHORIZED.fullmatch(line)) and match["peer"] in found.keys() - asked:
            found[match["peer"]][match["use"]] = match["key"]
        elif (match := KNOWN.fullmatch(line)) and match["peer"] in found.keys() - asked:
            found[match["peer"]]["host"].append(match["key"])
    for peer in peers:
        for line in peer.get("public_keys", []):
            match = SAID.fullmatch(line)
            if match is None:
                raise ValueError(f"the host of {peer['name']} said something that is no public key")
            use, key = match.groups()
            if use == "host":
                found[peer["name"]]["host"].append(key)
            else:
                found[peer["name"]][use] = key
    return found


def without_keys(peers: list[dict], keys: dict[str, dict]) -> list[str]:
    """The peers that can't come, or can't be told from others, for a key is missing."""
    return [
        peer["name"]
        for peer in peers
        if not set(_uses(peer["comes"])) <= keys[peer["name"]].keys()
        or (_uses(peer["sync"]) and not keys[peer["name"]]["host"])
    ]


def _uses(text: str) -> list[str]:
    return [] if text == "none" else text.split("+")


def obstacles(said: str, account: str, ports: list[int]) -> list[str]:
    """A sentence for each thing that would turn away who comes to ``account`` at ``ports``, with what to do."""
    has: set[str] = set()
    sshd: dict[str, list[str]] = {}
    rules = []
    printed = ""
    for line in said.splitlines():
        if line.startswith("it has "):
            has.add(line.removeprefix("it has "))
        elif line.startswith("it prints "):
            printed = line.removeprefix("it prints ")
        elif line.startswith("### tuple ### "):
            rules.append(line.removeprefix("### tuple ### "))
        else:  # of sshd -T, which has a line of its own for each user of a list
            word, _, value = line.partition(" ")
            sshd.setdefault(word, []).extend(value.split())
    found = []
    if "sshd" not in has:
        found.append("There is no sshd. Install it: 'apt-get install openssh-server'.")
    if "rsync" in has and "rrsync" not in has:
        found.append(
            "rsync is there and /usr/bin/rrsync is not, which keeps a key to its folder. Install Debian's or Ubuntu's "
            "own rsync ('apt-get install --reinstall rsync'), or put its rrsync there, for root to own, mode 0755."
        )
    if "sshd" in has:
        found += _by_sshd(sshd, account, included="include" in has)
    if printed:
        found.append(
            f"/etc/ssh/sshrc prints '{printed[:60]}' at each login, where rsync expects its peer. Let it print for "
            "terminals only ('test -n \"$SSH_TTY\" || exit 0' as its first line), or to stderr."
        )
    found += [sentence for rule in rules for sentence in _by_ufw(rule, ports)]
    return list(dict.fromkeys(found))


def _by_sshd(sshd: dict[str, list[str]], account: str, *, included: bool) -> list[str]:
    found = []
    for word, who, name in (("AllowUsers", "users", "user"), ("AllowGroups", "groups", "group")):
        listed = sshd.get(word.lower(), [])
        if listed and not _listed(account, listed):
            found.append(
                f"sshd lets in the {who} {' '.join(listed)} only ({word}): add the {name} {account} to that line in "
                f"/etc/ssh/sshd_config or sshd_config.d/, then 'systemctl reload ssh'."
            )
    for word, name in (("DenyUsers", "user"), ("DenyGroups", "group")):
        listed = sshd.get(word.lower(), [])
        if _listed(account, listed):
            found.append(
                f"sshd turns the {name} {account} away ({word} {' '.join(listed)}): let that line name whom it means, "
                f"and not {account}, then 'systemctl reload ssh'."
            )
    algorithms = ",".join(sshd.get("pubkeyacceptedalgorithms", ["ssh-ed25519"])).split(",")
    if "ssh-ed25519" not in algorithms:
        found.append("sshd takes no key of the kind ssh-ed25519 (PubkeyAcceptedAlgorithms): add it to that line.")
    if not included:
        found.append(
            f"/etc/ssh/sshd_config does not include sshd_config.d/, so sshd would look for the keys of {account} in "
            f"{' '.join(sshd.get('authorizedkeysfile', ['.ssh/authorized_keys']))} (AuthorizedKeysFile). Let "
            "'Include /etc/ssh/sshd_config.d/*.conf' be its first line."
        )
    return found


def _listed(name: str, patterns: list[str]) -> bool:
    """As sshd matches a list. ``USER@HOST`` is taken at its USER: which address a peer has, we can't know."""
    return any(fnmatch.fnmatchcase(name, pattern.partition("@")[0]) for pattern in patterns)


def _by_ufw(rule: str, ports: list[int]) -> list[str]:
    """Of ``limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in`` what it does to those who come every two seconds."""
    match = re.match(r"limit(?:_\S+)? (tcp|any) (\S+) (\S+) \S+ (\S+)( \S+)?.* in", rule)
    if match is None:
        return []
    limited = match[2]
    if limited != "any" and not any(_within(port, limited) for port in ports):
        return []
    application = (match[5] or "").strip().replace("%20", " ")
    name = f"'{application}'" if application not in ("", "in", "-") else "ssh" if limited == "22" else limited
    return [
        (
            f"ufw has a 'limit' on {name}: the seventh connection within half a minute is dropped, and rsync comes "
            "every two seconds. Take it back on that host ('ufw status numbered', then 'ufw delete NUMBER'); who fears "
            "guessed passwords switches them off in sshd (PasswordAuthentication no)."
        )
    ]


def _within(port: int, ports: str) -> bool:
    for part in ports.split(","):
        first, _, last = part.partition(":")
        if int(first) <= port <= int(last or first):
            return True
    return False


def otherwise(said: str, terms: dict[str, str]) -> list[str]:
    """What sshd says of the account (``sshd -T -C``) in other words than ``terms``."""
    told = dict(line.partition(" ")[::2] for line in said.splitlines())
    return [
        f"{word} is {told[word.lower()]} and not {value}"
        for word, value in terms.items()
        if word.lower() in told and told[word.lower()] != value
    ]


class FilterModule:
    """``peers | trishula_peer_keys(here)``, ``said | trishula_obstacles(account, ports)`` and their likes."""

    def filters(self) -> dict:
        """As Ansible asks for them."""
        return {
            "trishula_peer_keys": peer_keys,
            "trishula_peers_without_keys": without_keys,
            "trishula_obstacles": obstacles,
            "trishula_otherwise": otherwise,
        }
