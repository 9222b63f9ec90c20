"""Questions to a host and its node, each answered by findings: what is so, and what to do if it should not be.

Asked by `trishula doctor`, by `/readyz`, and by the playbooks preflight and verify. Preflight asks hosts that have no
release yet, so this file stands alone, on Python's own library, and answers when it is piped into an interpreter:

    python3 - '{"disk": {"/var/lib": 536870912}, "ways": {}}' <checks.py
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import pwd
import re
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"

ROOM_BYTES = 512 * 1024 * 1024
"""Free on a disk, below which a host is in trouble soon."""
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


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. `check` is a stable word; `fix` is empty where there is nothing to do."""

    check: str
    state: str
    text: str
    fix: str = ""


def readiness(store_problem: str, mailbox_problems: Mapping[str, str]) -> list[Finding]:
    """Why a running node can't do its work: what `/readyz` asks."""
    found = []
    if store_problem:
        text = f"the store can't be written: {store_problem}"
        found.append(Finding("store", FAILED, text, "make room on its disk; what is stored is safe"))
    for agent, why in mailbox_problems.items():
        text = f"the mailbox files of {agent} wait: {why}"
        found.append(Finding("mailbox", FAILED, text, "run site.yml, which puts its rights back"))
    return found


# ---------------------------------------------------------------- the host


def disk(path: Path, least: int = ROOM_BYTES) -> Finding:
    """Whether there are `least` bytes, and room for names, where `path` is or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    at = os.statvfs(path)
    free = at.f_bavail * at.f_frsize
    text = f"{path} has {free // 2**20} MiB free"
    if free < least:
        return Finding("disk", FAILED, f"{text}, and needs {least // 2**20}", "make room there, or a larger disk")
    if at.f_files and not at.f_favail:
        return Finding("disk", FAILED, f"{path} has no inode left", "remove small files there: `df -i` says where")
    return Finding("disk", OK, text)


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


def mailbox(folder: Path, boxes: Iterable[str], group: int | None) -> list[Finding]:
    """Whether node and agent can both work in a mailbox, and nobody else. `group`: the agent's, where it has one."""
    found = []
    owner = folder.parent.stat().st_uid if folder.parent.exists() else -1
    for path in (folder / box for box in boxes):
        try:
            at = path.stat()
        except OSError as error:
            found.append(f"{path}: {error.strerror}")
            continue
        if at.st_uid != owner:
            found.append(f"{path} belongs to {_login(at.st_uid)}, not to {_login(owner)}")
        if at.st_mode & 0o007 or (
            group is not None and (at.st_gid != group or at.st_mode & _GROUPS_OWN != _GROUPS_OWN)
        ):
            found.append(f"{path} has mode {at.st_mode & 0o7777:04o} and group {at.st_gid}")
    if found:
        return [
            Finding("mailbox", FAILED, problem, "run site.yml, which puts owner and rights back") for problem in found
        ]
    return [Finding("mailbox", OK, f"{folder}: its boxes are the node's and the agent's, and nobody else's")]


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


# ---------------------------------------------------------------- what the running node says of itself


def running(status: Mapping[str, Any], max_skew_ms: int, always_on: Mapping[str, bool]) -> list[Finding]:
    """From what `trishula status` says. `always_on`: by peer, whether it should be linked at any time."""
    found = [
        Finding("node", OK, f"{status['node']} is ready, version {status['version']}")
        if status["ready"]
        else Finding("node", FAILED, f"{status['node']} is not ready: {status['problem']}", "see its journal")
    ]
    for who, said in status["peers"].items():
        if said["linked"]:
            found.append(Finding("link", OK, f"{who} is linked"))
        else:
            state = FAILED if always_on.get(who, False) else WARNING
            found.append(Finding("link", state, f"{who} is not linked", "run `trishula doctor` there, too"))
    used, limit = status["store"]["used"], status["store"]["limit"]
    if used > _NEARLY_FULL * limit:
        text = f"the store holds {used} of {limit} bytes"
        found.append(Finding("store", WARNING, text, "see who takes no mail: `trishula status`"))
    return [*found, _clock(status, max_skew_ms)]


def _clock(status: Mapping[str, Any], max_skew_ms: int) -> Finding:
    offsets = {who: said["offset_ms"] for who, said in status["peers"].items() if said["offset_ms"] is not None}
    told = ", ".join(f"{offset:+.0f} ms from {who}" for who, offset in offsets.items())
    worst = max(map(abs, offsets.values()), default=0)
    fix = f"`{_SET_CLOCK}` on both hosts"
    if worst > max_skew_ms or not status["clock"]["trusted"]:
        return Finding("clock", FAILED, f"the clock is not trusted ({told or 'no peer to compare it with'})", fix)
    if worst > APART_MS:
        return Finding("clock", WARNING, f"the clock is {told}", fix)
    return Finding("clock", OK, f"the clock is {told}" if told else "the clock is trusted; no peer to compare it with")


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
