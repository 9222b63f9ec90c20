"""Mailbox files: `inbox/{id}.json` and `outbox/{id}.json`, byte for byte what was signed.

The database is the truth and the files follow it (rule 12): they are written in batches, one `syncfs` for each, and
only then marked. What a crash left unmarked is looked for before it is written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from trishula.node.queries import FileDue, files_due, mark_projected
from trishula.node.store import Store
from trishula.protocol.errors import TrishulaError
from trishula.protocol.message import digest_of

BOXES = ("inbox", "outbox", "archive", "bounced", "receipts")

_BATCH = 256
_RETRY_AFTER = 1.0
_TEMPORARY = ".trishula-"

log = logging.getLogger(__name__)


class Projector:
    """Writes the files that the store says are due. `wake` it when there may be some."""

    def __init__(self, mailbox_dir: Path, agents: Iterable[str], store: Store) -> None:
        self._root = mailbox_dir
        self._agents = tuple(agents)
        self._store = store
        self._due = asyncio.Event()
        self._due.set()
        self.problem = ""
        """Why files can't be written now; empty while all is well."""

    def wake(self) -> None:
        self._due.set()

    async def run(self) -> None:
        """For ever: write what is due, in the order of its commits."""
        left_over = await self._store.read(lambda db: files_due(db, _BATCH))
        await self._write(left_over, again=True)
        while True:
            await self._due.wait()
            self._due.clear()
            while due := await self._store.read(lambda db: files_due(db, _BATCH)):
                await self._write(due, again=False)

    async def _write(self, due: Sequence[FileDue], *, again: bool) -> None:
        """Write a batch and mark it. `again`: a run that was cut off may have written some of it."""
        while due:
            try:
                await asyncio.to_thread(self._write_files, due, again=again)
                await self._store.write(lambda db: mark_projected(db, due))
            except (OSError, TrishulaError) as error:
                if not self.problem:
                    log.error("mailbox files wait: %s", error)  # noqa: TRY400 - the reason is enough
                self.problem = str(error)
                await asyncio.sleep(_RETRY_AFTER)
                again = True
            else:
                if self.problem:
                    log.info("mailbox files are written again")
                self.problem = ""
                return

    def _write_files(self, due: Sequence[FileDue], *, again: bool) -> None:
        written = _Written(self._root, {file.agent for file in due}) if again else None
        for file in due:
            if written is None or not written.has(file):
                write_file(self._root / file.agent / file.box, file)
        _sync(self._root)


def make_mailboxes(mailbox_dir: Path, agents: Iterable[str]) -> None:
    """The folders that are missing (a host without Ansible), and away with what a crash left half-written.

    Raises `TrishulaError` where a folder can't be made or written.
    """
    for agent in agents:
        for box in BOXES:
            folder = mailbox_dir / agent / box
            try:
                if not folder.is_dir():
                    folder.mkdir(parents=True)
                    # Only where we made it: on a managed host the setgid bit is Ansible's, and the unit may not set it.
                    folder.chmod(0o2770)
                for stale in folder.glob(f"{_TEMPORARY}*"):
                    stale.unlink()
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                raise TrishulaError(
                    f"the mailbox folder {folder} can't be used: {error.strerror}",
                    key="node.mailbox_dir",
                    value=str(folder),
                    fix="let the node's user own it, mode 2770, group of the agent's login",
                ) from None


def names(file: FileDue) -> Iterator[str]:
    """What the file may be called, best first (rule 12)."""
    if not file.taken:
        yield f"{file.id}.json"
    yield f"{file.id}~{file.sender}.json"
    yield f"{file.id}~{file.sender}~{digest_of(file.payload)[:16]}.json"


def write_file(folder: Path, file: FileDue) -> None:
    """Put the payload under the first of its names that nothing else has. Seen whole or not at all; not yet synced."""
    target = next(path for name in names(file) if _free(path := folder / name, file.payload))
    temporary = folder / f"{_TEMPORARY}{target.name[:200]}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o660)
    try:
        os.fchmod(descriptor, 0o660)
        with open(descriptor, "wb", buffering=0, closefd=False) as stream:
            stream.write(file.payload)
    finally:
        os.close(descriptor)
    temporary.rename(target)


def _free(path: Path, payload: bytes) -> bool:
    """Whether `path` is nobody's, or ours already."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, no path
        try:
            return stream.read(len(payload) + 1) == payload
        except OSError:
            return False


class _Written:
    """What is in `inbox/`, `outbox/` and `archive/` already, found by content: the agent may have moved it."""

    def __init__(self, root: Path, agents: Iterable[str]) -> None:
        self._by_size: dict[tuple[str, int], list[Path]] = defaultdict(list)
        for agent in agents:
            for box in ("inbox", "outbox", "archive"):
                with contextlib.suppress(OSError), os.scandir(root / agent / box) as entries:
                    for entry in entries:
                        if entry.is_file(follow_symlinks=False) and not entry.name.startswith(_TEMPORARY):
                            self._by_size[agent, entry.stat(follow_symlinks=False).st_size].append(Path(entry.path))

    def has(self, file: FileDue) -> bool:
        boxes = ("outbox",) if file.box == "outbox" else ("inbox", "archive")
        candidates = self._by_size.get((file.agent, len(file.payload)), [])
        return any(path.parent.name in boxes and _free(path, file.payload) and path.exists() for path in candidates)


def _sync(folder: Path) -> None:
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
