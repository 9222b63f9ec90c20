"""Files in mailboxes, seen whole or not at all: written beside their place and renamed.

Plain calls instead of pathlib: some of this runs once for every message, beside the event loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

BOXES = ("inbox", "outbox", "archive", "bounced", "receipts")
TEMPORARY = ".trishula-"
"""How the name of a file begins that is being written."""

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1

log = logging.getLogger(__name__)


def make_mailboxes(mailbox_dir: Path, agents: Iterable[str]) -> set[str]:
    """Make the folders that are missing, and remove what a crash left half-written in the others.

    Returns the agents whose inbox says nothing of what they have read: it was missing, or it can't be used. A folder
    that can't be used holds up no other; the checks of the running node say what to do about it.
    """
    unknown = set()
    for agent, box in ((agent, box) for agent in agents for box in BOXES):
        folder = mailbox_dir / agent / box
        try:
            if not folder.is_dir():
                if box == "inbox":
                    unknown.add(agent)  # first: what follows may fail, and then unread mail counted as read
                _make_folder(folder)
            for stale in folder.glob(f"{TEMPORARY}*"):
                if stale.is_file() or stale.is_symlink():
                    stale.unlink()
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            if box == "inbox":
                unknown.add(agent)
            log.warning("the mailbox folder %s can't be used: %s", folder, error.strerror)
    return unknown


def _make_folder(folder: Path) -> None:
    """On a managed host the folder above hands down its group and setgid bit; the unit may set no such bit itself."""
    folder.mkdir(parents=True)
    if not folder.stat().st_mode & stat.S_ISGID:
        with contextlib.suppress(PermissionError):  # RestrictSUIDSGID=
            folder.chmod(0o2770)


def put(
    folder: str, name: str, content: bytes, *, temporary: str, before: Callable[[os.stat_result], object] | None = None
) -> None:
    """Write `content` under `name`, over what is there. `temporary` makes the name of its own beside it.

    `before` is called with what the file is, before anybody can see it.
    """
    path = f"{folder}/{TEMPORARY}{temporary}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - left by a crash, or put there by the agent
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o660)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if before is not None:
            before(os.fstat(descriptor))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - half of a file takes up the room that it lacked
        raise
    finally:
        os.close(descriptor)
    os.rename(path, f"{folder}/{name}")  # noqa: PTH104 - see above


def move(source: str, target: str) -> None:
    """Rename, never over another file. Raises `FileExistsError`, and `FileNotFoundError` where there is no source."""
    if sys.platform == "linux":
        if _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), source)
    if os.path.lexists(target):  # a file system that can't do both at once
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    os.rename(source, target)  # noqa: PTH104 - see above


def content(path: str, size: int) -> bytes | None:
    """The bytes of a file, one more than `size` at most; None for what is gone, or no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, no path
            return stream.read(size + 1)
    except OSError:
        return None


def holds(path: str, payload: bytes) -> bool:
    """Whether there is a file with exactly these bytes."""
    return content(path, len(payload)) == payload


def free(path: str, payload: bytes) -> bool:
    """Whether `path` is nobody's, or ours already."""
    return not os.path.lexists(path) or holds(path, payload)


def sync(folder: Path) -> None:
    """All that was written to the file system of `folder` is on the disk when this returns."""
    if sys.platform != "linux":
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)


_libc = ctypes.CDLL(None, use_errno=True)
