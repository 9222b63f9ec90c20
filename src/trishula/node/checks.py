"""Questions to a host and its node, each answered by findings: what is so, and what to do if it should not be.

`health` judges a running node, and nothing else does: the journal, `/readyz`, `trishula status`, `trishula doctor` and
`playbooks/status.yml` show what it found. The other checks are `doctor`'s, and those of the playbooks preflight and
verify. Preflight asks hosts that have no release yet, so this file stands alone, on Python's own library, and answers
when it is piped into an interpreter:

    python3 - '{"disk": {"/var/lib": 536870912}, "ways": {}}' <checks.py
"""

from __future__ import annotations

import contextlib
import errno
import grp
import ipaddress
import json
import os
import pwd
import re
import shutil
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"

ROOM_BYTES = 512 * 1024 * 1024
"""Free on a disk, below which a host is in trouble soon. Of a disk below 5 GiB a tenth is enough for a running node."""
EXPIRES_SOON_S = 14 * 24 * 3600
"""Before a certificate's end it is said."""
APART_MS = 2000
"""Clocks of two hosts may differ by so much without a word."""
_ANSWER_WITHIN_S = 3.0
_NO_FAMILY = "no such family here"
_NO_SUCH_WAY = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_ACCEPTED = (200, 426)
"""What a node answers whom it knows: who that is, or, an older one, that it wants a WebSocket."""
_UNAUTHORIZED = 401
_NEARLY_FULL = 0.9
_NOT_CLEAN = "protocol version mismatch"
"""What rsync says where somebody else spoke first."""
_SET_CLOCK = "sudo sntp -sS time.apple.com" if sys.platform == "darwin" else "timedatectl set-ntp true"
_GROUPS_OWN = 0o2070
"""A folder in which a group does as it likes, and whose files are the group's."""
_GROUP_ENTERS = 0o050
_MOST_TOLD = 3
_RESTART = (
    "launchctl kickstart -k gui/$(id -u)/trishula.node"
    if sys.platform == "darwin"
    else "systemctl restart trishula-node"
)
_MAILBOX_FIX = "run site.yml, which puts folders, owners and rights back; what is unread stays in the store"
_PERSISTS_S, _PERSISTS_NEW_S = 60, 300
"""Seconds for which rsync with a peer must have failed to be a fault; the second of a peer that it never reached."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. `check` is a stable word, `about` the agent, peer or folder that was looked at, if there are several.

    `fix` is empty where there is nothing to do. `skipped` says that there is no answer yet, which is no fault.
    """

    check: str
    state: str
    text: str
    fix: str = ""
    about: str = ""

    @property
    def bad(self) -> bool:
        """Whether somebody should do something."""
        return self.state in (WARNING, FAILED)


LOCAL = frozenset({"store", "disk", "mailbox", "socket"})
"""The checks of `health` that decide whether a node is ready: what it can't do without, whoever else is there."""


def unready(found: Iterable[Finding]) -> list[Finding]:
    """Of the findings of `health`, those for which the node is not ready."""
    return [finding for finding in found if finding.check in LOCAL and finding.state == FAILED]


# ---------------------------------------------------------------- the host


def disk(path: Path, least: int = ROOM_BYTES) -> Finding:
    """Whether there are `least` bytes, and room for names, where `path` is or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return _disk(room(path), least, 0)


def room(path: Path) -> dict[str, Any]:
    """The room on the file system of `path`, as `trishula status` shows it. Raises `OSError`."""
    at = os.statvfs(path)
    size = at.f_blocks * at.f_frsize
    full = at.f_files > 0 and at.f_favail == 0
    free = at.f_bavail * at.f_frsize
    return {"path": str(path), "device": path.stat().st_dev, "free": free, "size": size, "no_inodes": full}


def _disk(at: Mapping[str, Any], least: int, low: int) -> Finding:
    """Failed with less than `least` bytes free, a warning with less than `low`."""
    path, free = at["path"], at["free"]
    text = f"{path} has {free // 2**20} MiB free"
    if free < least:
        return Finding("disk", FAILED, f"{text}, and needs {least // 2**20}", "make room there, or a larger disk", path)
    if at["no_inodes"]:
        fix = "remove small files there: `df -i` says where"
        return Finding("disk", FAILED, f"{path} has no inode left", fix, path)
    if free < low:
        return Finding("disk", WARNING, f"{text} of {at['size'] // 2**20}", "make room there soon", path)
    return Finding("disk", OK, text, about=path)


def name(host: str) -> Finding:
    """Whether a name is known, and as what."""
    try:
        addresses = _addresses(host, 0)
    except OSError as error:
        fix = "mend the name server, or give its node an address that all nodes know (trishula_address)"
        return Finding("dns", FAILED, f"{host} is not known here: {error.strerror or error}", fix)
    return Finding("dns", OK, f"{host} is {', '.join(address for _, address in addresses)}")


def firewall(port: int) -> Finding:
    """Whether ufw lets the peers in."""
    tool = shutil.which("ufw", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if tool is None:
        return Finding("firewall", SKIPPED, "there is no ufw here")
    english = {**os.environ, "LC_ALL": "C"}
    run = subprocess.run([tool, "status"], env=english, capture_output=True, text=True, check=False)  # noqa: S603 - found by name
    if run.returncode:
        return Finding("firewall", SKIPPED, f"ufw does not answer: {_first_line(run.stderr)}", "run this as root")
    if "Status: active" not in run.stdout:
        return Finding("firewall", WARNING, "ufw is off: every service of this host is open to all", "run site.yml")
    if not re.search(rf"^{port}(/tcp)?\s+ALLOW", run.stdout, re.MULTILINE):
        return Finding(
            "firewall", FAILED, f"ufw lets nobody in at {port}/tcp", f"run site.yml, or `ufw allow {port}/tcp`"
        )
    return Finding("firewall", OK, f"ufw is on and lets peers in at {port}/tcp")


def secret(path: Path, *, group: bool = False) -> Finding:
    """Whether a file is its owner's alone, or, with `group`, a group's too."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Finding(
            "rights", FAILED, f"can't look at {path}: {error.strerror}", "run site.yml; is this run as root?"
        )
    if mode & (0o007 if group else 0o077):
        return Finding("rights", FAILED, f"others can read {path} (mode {mode & 0o7777:04o})", "run site.yml")
    return Finding("rights", OK, f"{path} is nobody else's")


def mailbox(folder: Path, boxes: Iterable[str], group: int | None) -> str:
    """Why node and agent can't both work in a mailbox, or others can; nothing if all is well. `group`: the agent's."""
    wrong = []
    owner = folder.parent.stat().st_uid if folder.parent.exists() else -1
    for path, rights in ((folder, _GROUP_ENTERS), *((folder / box, _GROUPS_OWN) for box in boxes)):
        try:
            at = path.stat()
        except OSError as error:
            wrong.append(f"{path}: {error.strerror}")
            continue
        if not stat.S_ISDIR(at.st_mode):
            wrong.append(f"{path} is no folder")
        elif at.st_uid != owner:
            wrong.append(f"{path} belongs to {_login(at.st_uid)}, not to {_login(owner)}")
        elif path != folder and at.st_mode & 0o007:
            wrong.append(f"{path} is open to others (mode {at.st_mode & 0o7777:04o})")
        elif group is not None and at.st_gid != group:
            wrong.append(f"{path} is of the group {_group(at.st_gid)}, not of {_group(group)}")
        elif group is not None and at.st_mode & rights != rights:
            wrong.append(f"{path} has mode {at.st_mode & 0o7777:04o}, and its group can't use it as it must")
        elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            wrong.append(f"{path} can't be entered, read or written by the node")
    return "; ".join(wrong[:_MOST_TOLD]) + (f"; and {len(wrong) - _MOST_TOLD} more" if len(wrong) > _MOST_TOLD else "")


def mailbox_finding(agent: str, why: str) -> Finding:
    """Of what `mailbox` or the writer of its files says."""
    if why:
        return Finding("mailbox", FAILED, f"the mailbox of {agent}: {why}", _MAILBOX_FIX, agent)
    return Finding("mailbox", OK, f"the mailbox of {agent} is the node's and the agent's, and nobody else's", "", agent)


def store(path: Path) -> Finding:
    """Whether SQLite finds the file whole. Reads all of it, and is no bar to a node that runs."""
    if not path.exists():
        return Finding("store", WARNING, f"{path} is not there", "the node makes it when it starts")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            said = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
    except sqlite3.Error as error:
        said = [str(error)]
    if said != ["ok"]:
        fix = "stop the node, copy the folder away, and put the last good copy in its place"
        return Finding("store", FAILED, f"{path} is damaged: {'; '.join(said)}", fix)
    return Finding("store", OK, f"{path} is whole")


# ---------------------------------------------------------------- certificates and the way to a peer


def certificate(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[Finding, bytes]:
    """Whether peers would take this node's certificate, by a handshake in memory. Also returns it, in DER."""
    client.check_hostname = False  # by which of its names a node is dialled is asked at the peer
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(back, there)
    theirs = server.wrap_bio(there, back, server_side=True)
    try:
        for side in (ours, theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLError as error:
        fix = "run site.yml, or put a certificate there that tls.ca has signed"
        return Finding("tls", FAILED, f"this node's certificate: {_why(error)}", fix), b""
    return _validity("this node's certificate", ours.getpeercert() or {}), ours.getpeercert(binary_form=True) or b""


def served(host: str, port: int, on_disk: bytes) -> Finding:
    """Whether the node that runs shows the certificate that is on the disk, in DER."""
    try:
        with socket.create_connection((host, port), _ANSWER_WITHIN_S) as sock, _anybody().wrap_socket(sock) as tls:
            shown = tls.getpeercert(binary_form=True)
            _status(tls, "/healthz", host)  # who says nothing is turned away, with a line in the journal
    except OSError as error:
        return Finding("tcp", FAILED, f"nobody answers at {host} port {port}: {_why(error)}", "see the node's journal")
    if shown != on_disk:
        fix = "systemctl reload trishula-node; `trishula status` says why if it is refused"
        return Finding("tls", FAILED, "the node serves another certificate than is on the disk", fix)
    return Finding("tls", OK, "the node serves the certificate that is on the disk")


def peer(who: str, host: str, port: int, context: ssl.SSLContext, token: str | None) -> list[Finding]:
    """The way to a node that this one dials: its name, each of its addresses, its certificate, our token there."""
    known = name(host)
    if known.state == FAILED:
        return [known]
    found = [] if _is_address(host) else [known]
    for family, address in _addresses(host, port):
        found += _at(who, host, (address, port), family, context, token)
    return list(dict.fromkeys(found))


def fallback(who: str, way: str, why: str) -> Finding:
    """Whether rsync gets to a peer. `way`: push or pull; `why`: what went wrong, or nothing."""
    if why:
        fix = "run site.yml over both hosts; `journalctl -u ssh` there says who was turned away"
        if _NOT_CLEAN in why:
            fix = (
                f"something prints at the login of rsync's account on {who}, likely /etc/ssh/sshrc there: let it print "
                'to stderr, or for terminals only (`test -n "$SSH_TTY" || exit 0` as its first line)'
            )
        return Finding("rsync", FAILED, f"{way} at {who}: {why}", fix)
    return Finding("rsync", OK, f"{way} at {who} gets through")


def way(who: str, host: str, port: int, ssh_port: int, *, is_open: bool, by_ssh: bool) -> list[Finding]:
    """Whether a host can be reached from here before a node runs on it: a refusal is an answer, silence is not.

    `is_open`: its own firewall does not keep the mesh's `port` closed, so silence there comes of another one. `by_ssh`:
    rsync goes there.
    """
    known = name(host)
    if known.state == FAILED:
        return [known]
    found = [] if _is_address(host) else [known]
    for family, address in _addresses(host, port):
        silent = {asked: why for asked in (ssh_port, port) if (why := _silence(address, asked, ssh=asked == ssh_port))}
        needed = {asked for asked, needs in ((ssh_port, by_ssh), (port, is_open)) if needs}
        said = ", ".join(f"port {asked}: {why}" for asked, why in silent.items())
        if set(silent.values()) == {_NO_FAMILY}:
            found.append(Finding("tcp", SKIPPED, f"{who} at {address}: this host has no {family}"))
        elif len(silent) > 1 or needed & silent.keys():
            fix = (
                f"is trishula_address of {who} right, and does a firewall before that host (its provider's) let "
                f"{' and '.join(f'{asked}/tcp' for asked in silent)} in?"
            )
            found.append(Finding("tcp", FAILED, f"{who} gives no answer at {address} ({said})", fix))
        else:
            found.append(Finding("tcp", OK, f"{who} answers at {address}"))
    return found


def _silence(address: str, port: int, ssh: bool) -> str:  # noqa: FBT001
    """Why nobody answers there, a refusal being an answer; empty if somebody does. No journal complains of it."""
    try:
        with (
            socket.create_connection((address, port), _ANSWER_WITHIN_S) as sock,
            contextlib.suppress(OSError, ValueError),
        ):
            if ssh:
                sock.sendall(b"SSH-2.0-trishula\r\n")
                sock.recv(64)
            else:
                with _anybody().wrap_socket(sock) as tls:
                    _status(tls, "/healthz", address)  # who says nothing is turned away, with a line in the journal
    except ConnectionRefusedError:
        return ""
    except OSError as error:
        return _NO_FAMILY if error.errno in _NO_SUCH_WAY else _why(error)
    return ""


def _anybody() -> ssl.SSLContext:
    """For a node that is only to answer, whoever it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _at(
    who: str, host: str, at: tuple[str, int], family: str, context: ssl.SSLContext, token: str | None
) -> list[Finding]:
    where = f"{who} at {at[0]} port {at[1]} ({family})"
    try:
        sock = socket.create_connection(at, _ANSWER_WITHIN_S)
    except OSError as error:
        if error.errno in _NO_SUCH_WAY:
            return [Finding("tcp", SKIPPED, f"{where}: this host has no {family}")]
        fix = f"is port {at[1]} open there? If it has no {family}, take this address from its name"
        return [Finding("tcp", FAILED, f"{where}: {_why(error)}", fix)]
    found = [Finding("tcp", OK, f"{where} answers")]
    try:
        with sock, context.wrap_socket(sock, server_hostname=host) as tls:
            found.append(_validity(f"the certificate of {who}", tls.getpeercert() or {}))
            if token is not None:
                found.append(_token(who, _status(tls, "/whoami", host, f"Authorization: Bearer {token}")))
    except ssl.SSLError as error:
        fix = f"let its certificate bear the name {host} and be signed by a CA that is trusted here: run site.yml"
        found.append(Finding("tls", FAILED, f"the certificate of {who}: {_why(error)}", fix))
    except (OSError, ValueError) as error:
        found.append(
            Finding("token", FAILED, f"{who} does not answer as a node: {_why(error)}", "is its node running?")
        )
    return found


def _status(tls: ssl.SSLSocket, path: str, host: str, *headers: str) -> int:
    """What a node answers. No WebSocket: that would be one more link."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers, "Connection: close", "", ""]
    tls.sendall("\r\n".join(lines).encode())
    answer = tls.recv(64)
    return int(answer.split(maxsplit=2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def _token(who: str, status: int) -> Finding:
    if status in _ACCEPTED:
        return Finding("token", OK, f"{who} takes our token")
    if status == _UNAUTHORIZED:
        return Finding("token", FAILED, f"{who} does not take our token (401)", "run site.yml over both hosts")
    return Finding("token", FAILED, f"{who} answers {status or 'no HTTP'}", "see the journal of its node")


def _validity(what: str, certificate: Mapping[str, Any]) -> Finding:
    names = ", ".join(value for _, value in certificate.get("subjectAltName", ())) or "no name"
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
    text = f"{what} is for {names}, and holds for {days:.0f} days"
    if days * 86400 < EXPIRES_SOON_S:
        return Finding(
            "tls", WARNING, text, "run site.yml, which renews it; where a timer should have, see its journal"
        )
    return Finding("tls", OK, text)


# ---------------------------------------------------------------- a running node


def health(facts: Mapping[str, Any], now: float) -> list[Finding]:
    """How a node is, by what it knows of itself: the only judgement of a running node.

    `facts` is what `trishula status --json` prints, without mail and `findings`; `now` is in ms since 1970.
    """
    found = [_written(facts["store"])]
    disks = {at["device"]: at for at in facts["disks"].values()}.values()
    found += [_disk(at, facts["store"]["least_free"], min(ROOM_BYTES, at["size"] // 10)) for at in disks]
    found += [mailbox_finding(agent, said["mailbox"]) for agent, said in facts["agents"].items()]
    for name_, (why, fix) in facts["sockets"].items():
        text = f"the socket of {name_}: {why}" if why else f"the socket of {name_} is there"
        found.append(Finding("socket", FAILED if why else OK, text, fix, name_))
    if facts["transport"] != "files":  # nobody is shown a certificate there
        found.append(_shown(facts["certificate"]))
    for who, said in facts["peers"].items():
        found += _link(who, said, now) + _rsync(who, said["rsync"], now)
    return [*found, _clock(facts)]


def told(status: Mapping[str, Any]) -> list[Finding]:
    """What a running node has found out about itself, from its status: first whether it is ready."""
    found = [
        Finding("node", OK, f"{status['node']} is ready, version {status['version']}")
        if status["ready"]
        else Finding("node", FAILED, f"{status['node']} is not ready: {status['problem']}", "see what follows")
    ]
    known = Finding.__dataclass_fields__  # an older node has no findings, a newer one may say more of each
    return found + [Finding(**{key: one[key] for key in known if key in one}) for one in status.get("findings", ())]


def _written(store: Mapping[str, Any]) -> Finding:
    used, limit = store["used"], store["limit"]
    if store["gone"]:
        text = f"the store is gone: restart the node ({store['gone']}); nothing is taken or confirmed until then"
        return Finding("store", FAILED, text, f"`{_RESTART}`: what it held is put back if nothing lies in its place")
    if store["problem"]:
        text = f"the store can't be written: {store['problem']}"
        return Finding("store", FAILED, text, "make room on its disk, or mend its rights; what is stored is safe")
    if used >= limit:
        text = f"the store takes nothing new: it holds {used} bytes, and may hold {limit} (limits.max_store_bytes)"
        return Finding("store", FAILED, text, "see who takes no mail: `trishula status`")
    if used > _NEARLY_FULL * limit:
        text = f"the store holds {used} of {limit} bytes (limits.max_store_bytes)"
        return Finding("store", WARNING, text, "see who takes no mail: `trishula status`")
    return Finding("store", OK, "the store can be written")


def _shown(certificate: Mapping[str, Any]) -> Finding:
    days = certificate["days_left"]
    if certificate["refused"]:
        text = f"the certificate that was put there is refused, the old one serves on: {certificate['refused']}"
        return Finding("tls", FAILED, text, "run site.yml, or put a pair there that peers trust, and reload the node")
    if certificate["distrusted"]:
        text = f"peers don't trust the certificate of this node: {certificate['distrusted']}"
        return Finding("tls", FAILED, text, "run site.yml, or put one there that the mesh's CA signed, and reload")
    if days < 0:
        return Finding("tls", FAILED, "the certificate is out of date: no peer takes it", "run site.yml")
    if certificate["ends_soon"]:
        text = f"the certificate ends in {days} days"
        return Finding("tls", WARNING, text, "run site.yml; if it renews itself, see `journalctl -u trishula-renew`")
    return Finding("tls", OK, f"the certificate is valid for {days} days")


def _link(who: str, said: Mapping[str, Any], now: float) -> list[Finding]:
    """None where there is to be no link, as with files alone."""
    if said["linked"]:
        return [Finding("link", OK, f"{who} is linked", about=who)]
    if said["dials"] is None:
        return []
    if said["dials"] and said["tried"] is None:
        return [Finding("link", SKIPPED, f"{who} is not linked yet: it is dialled for the first time", about=who)]
    state = FAILED if said["always_on"] else WARNING
    return [Finding("link", state, f"{who} is not linked: {_down(said, now)}", said["fix"], who)]


def _down(said: Mapping[str, Any], now: float) -> str:
    """Why there is no link to a peer, by this side of it: the last try, or who was turned away here."""
    tried, rejected = said["tried"], said["rejected"]
    if tried is not None:
        again = max(0.0, tried["next"] - now) / 1000
        return f"{tried['why']}; last try {_age((now - tried['at']) / 1000)} ago, next in {again:.0f} s"
    if rejected is None:
        return "waits for it to dial; nobody was turned away"
    which = "it" if rejected["known"] else "somebody"
    text = f"waits for it to dial; {which} was turned away {_age((now - rejected['at']) / 1000)} ago"
    return f"{text}, from {rejected['address']}: {rejected['why']}"


def _rsync(who: str, said: Mapping[str, Any] | None, now: float) -> list[Finding]:
    if said is None or not said["runs"]:
        return []
    if not said["problem"]:
        return [Finding("rsync", OK, f"rsync with {who} works", about=who)]
    lasts = (now - said["fails_since"]) / 1000
    fault = lasts >= (_PERSISTS_NEW_S if said["last_run"] is None else _PERSISTS_S)
    text = f"rsync with {who} fails for {_age(lasts)}: {said['problem']}"
    fix = "run site.yml over both hosts; `journalctl -u ssh` there says who was turned away"
    return [Finding("rsync", WARNING if fault else SKIPPED, text, fix if fault else "", who)]


def _clock(facts: Mapping[str, Any]) -> Finding:
    """A clock that nobody was there to compare with is no fault: nothing says that it is wrong."""
    offsets = {who: said["offset_ms"] for who, said in facts["peers"].items() if said["offset_ms"] is not None}
    said = ", ".join(f"{offset:+.0f} ms from {who}" for who, offset in offsets.items())
    worst = max(map(abs, offsets.values()), default=0)
    clock, fix = facts["clock"], f"`{_SET_CLOCK}` on both hosts"
    if clock["state"] == "jumped":
        text = "the clock jumped, and no peer has confirmed it since: nothing expires for 10 min"
        return Finding("clock", WARNING, text, f"if it is wrong: {fix}")
    if clock["state"] == "not compared":
        return Finding("clock", SKIPPED, "the clock is not compared yet: no peer has been linked since the start")
    if worst > clock["max_skew_ms"] or clock["state"] == "apart":
        return Finding("clock", FAILED, f"the clock is {said or 'not that of the peers'}", fix)
    if worst > APART_MS:
        return Finding("clock", WARNING, f"the clock is {said}", fix)
    return Finding("clock", OK, f"the clock is {said}" if said else "the clock is trusted; no peer to compare it with")


# ---------------------------------------------------------------- small things


def _addresses(host: str, port: int) -> list[tuple[str, str]]:
    """(IPv4 or IPv6, address), each once."""
    known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    words = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
    return list(dict.fromkeys((words.get(family, str(family)), str(at[0])) for family, _, _, _, at in known))


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, TimeoutError):
        return f"no answer within {_ANSWER_WITHIN_S:.0f} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _login(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _age(seconds: float) -> str:
    """A span of time for people, in its largest unit: `3 min`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing said"])[0]


def main(arguments: Sequence[str]) -> int:
    """What preflight asks a host that has nothing of ours yet. Prints a JSON list of findings."""
    asked = json.loads(arguments[0])
    found = [disk(Path(path), least) for path, least in asked.get("disk", {}).items()]
    for who, at in asked.get("ways", {}).items():
        found += way(who, at["host"], at["port"], at["ssh_port"], is_open=at["open"], by_ssh=at["ssh"])
    sys.stdout.write(json.dumps([asdict(finding) for finding in found]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
