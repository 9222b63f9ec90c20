"""What systemd gives a service and wants from it: sockets, readiness, the watchdog, and fields in the journal.

Silent where there is no systemd. Protocol: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), and what
https://systemd.io/JOURNAL_NATIVE_PROTOCOL says of lines without line breaks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

_FIRST_FD = 3
_JOURNAL = "/run/systemd/journal/socket"


def notify(state: str) -> None:
    """Tell the service manager, for example `READY=1`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall(state.encode())
    except OSError as error:
        # Out of file descriptors, say: no reason to end what works. If it lasts, the watchdog will.
        log.warning("could not tell systemd %s: %s", state.partition("=")[0], error)


def journal() -> Callable[[str, str], None] | None:
    """What puts a debug message of one line into the journal, under a message's id; None where there is no journal.

    It never waits: what a busy journal does not take at once is not written.
    """
    if "JOURNAL_STREAM" not in os.environ:
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)

    def say(message_id: str, text: str) -> None:
        line = f"MESSAGE={message_id or '-'} {text}\nPRIORITY=7\nSYSLOG_IDENTIFIER=trishula\nTRISHULA_ID={message_id}\n"
        with contextlib.suppress(OSError):
            sock.sendto(line.encode(), _JOURNAL)

    return say


def inherited_sockets() -> list[socket.socket]:
    """The listening sockets that were handed over to this process, taken out of the environment."""
    count = os.environ.pop("LISTEN_FDS", "")
    pid = os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count.isdigit() or (pid and pid != str(os.getpid())):
        return []
    sockets = []
    for descriptor in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def watchdog_interval() -> float | None:
    """Seconds between two signs of life, half of what the unit allows; None where nobody watches."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not allowed.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(allowed) / 2_000_000
