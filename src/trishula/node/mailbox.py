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
from functools import partial
from pathlib import Path

from trishula.node.database import StoreError
from trishula.node.queries import FileDue, files_due, mark_projected
from trishula.node.store import Store
from trishula.protocol.message import digest_of
from trishula.protocol.records import Entry

BOXES = ("inbox", "outbox", "archive", "bounced", "receipts")

_BATCH = 256
_RETRY_AFTER = 1.0
_TEMPORARY = ".trishula-"

log = logging.getLogger(__name__)


class Projector:
    """Writes the files that the store says are due. `wake` it when there may be some.

    A mailbox that can't be written is left alone for a while; it holds up no other.
    """

    def __init__(self, mailbox_dir: Path, agents: Iterable[str], store: Store) -> None:
        self._root = mailbox_dir
        self._agents = tuple(agents)
        self._store = store
        self._due = asyncio.Event()
        self.problems: dict[str, str] = {}
        """Why the files of an agent can't be written now."""

    def wake(self) -> None:
        self._due.set()

    def handled(self, entries: Sequence[Entry]) -> None:
        """These are read: their files go to the archive."""

    async def run(self) -> None:
        """For ever: write what is due, in the order of its commits."""
        loop = asyncio.get_running_loop()
        again = True  # until all that a former run may have written is through
        stuck: set[str] = set()
        retry_at = 0.0
        while True:
            self._due.clear()
            failed = await self._drain(stuck, again=again)
            if failed and not stuck:
                retry_at = loop.time() + _RETRY_AFTER
            stuck |= failed
            again = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(retry_at if stuck else None):
                    await self._due.wait()
            if stuck and loop.time() >= retry_at:
                again = True
                stuck.clear()

    async def _drain(self, stuck: set[str], *, again: bool) -> set[str]:
        """Write all that is due, a batch at a time. Returns the agents whose files could not be written."""
        written = await asyncio.to_thread(_Written, self._root, self._agents) if again else None
        failed: set[str] = set()
        try:
            while due := await self._store.read(partial(files_due, limit=_BATCH, without=stuck | failed)):
                failed |= await self._write(due, written)
        except StoreError as error:
            log.warning("mailbox files wait: %s", error)
            failed.update(self._agents)
        return failed

    async def _write(self, due: Sequence[FileDue], former: _Written | None) -> set[str]:
        """Write a batch and mark what is on the disk. Returns the agents whose files could not be written."""
        try:
            written, failed = await asyncio.to_thread(self._write_files, due, former)
            await self._store.write(partial(mark_projected, due=written))
        except (OSError, StoreError) as error:
            failed = dict.fromkeys((file.agent for file in due), str(error))
        for agent in {file.agent for file in due}:
            self._report(agent, failed.get(agent, ""))
        return set(failed)

    def _write_files(self, due: Sequence[FileDue], former: _Written | None) -> tuple[list[FileDue], dict[str, str]]:
        written: list[FileDue] = []
        failed: dict[str, str] = {}
        for file in due:
            if file.agent in failed:
                continue  # or its later mail would overtake
            try:
                if former is None or not former.has(file):
                    write_file(self._root / file.agent / file.box, file)
                written.append(file)
            except OSError as error:
                failed[file.agent] = str(error)
        _sync(self._root)
        return written, failed

    def _report(self, agent: str, problem: str) -> None:
        if problem and agent not in self.problems:
            log.error("the mailbox files of %s wait: %s", agent, problem)
        if problem:
            self.problems[agent] = problem
        elif self.problems.pop(agent, ""):
            log.info("the mailbox files of %s are written again", agent)


def make_mailboxes(mailbox_dir: Path, agents: Iterable[str]) -> None:
    """The folders that are missing (a host without Ansible), and away with what a crash left half-written.

    A folder that can't be used is said in the log; its files wait, and those of the other agents don't.
    """
    for folder in (mailbox_dir / agent / box for agent in agents for box in BOXES):
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True)
                # Only where we made it: on a managed host the setgid bit is Ansible's, and the unit may not set it.
                folder.chmod(0o2770)
            for stale in folder.glob(f"{_TEMPORARY}*"):
                if stale.is_file() or stale.is_symlink():
                    stale.unlink()
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            fix = "let the node's user own it, mode 2770, group of the agent's login"
            log.error("the mailbox folder %s can't be used (%s): %s", folder, error.strerror, fix)  # noqa: TRY400


def names(file: FileDue) -> Iterator[str]:
    """What the file may be called, best first (rule 12)."""
    if not file.taken:
        yield f"{file.id}.json"
    yield f"{file.id}~{file.sender}.json"
    yield f"{file.id}~{file.sender}~{digest_of(file.payload)[:16]}.json"


def write_file(folder: Path, file: FileDue) -> None:
    """Put the payload under the first of its names that nothing else has. Seen whole or not at all; not yet synced."""
    # Plain calls instead of pathlib: this runs once for every message, beside the event loop.
    target = next((path for name in names(file) if _free(path := f"{folder}/{name}", file.payload)), None)
    if target is None:
        raise FileExistsError(errno.EEXIST, "all its names are taken", f"{folder}/{file.id}.json")
    temporary = f"{folder}/{_TEMPORARY}{file.row}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # noqa: PTH108 - left by a crash, or put there by the agent
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o660)
    try:
        rest = memoryview(file.payload)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)
    os.rename(temporary, target)  # noqa: PTH104 - see above


def _free(path: str, payload: bytes) -> bool:
    """Whether `path` is nobody's, or ours already."""
    return not os.path.lexists(path) or _holds(path, payload)


def _holds(path: str, payload: bytes) -> bool:
    """Whether there is a file with exactly these bytes."""
    return _content(path, len(payload)) == payload


def _content(path: str, size: int) -> bytes | None:
    """The bytes of a file, one more than `size` at most; None for what is gone, or no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, no path
            return stream.read(size + 1)
    except OSError:
        return None


class _Written:
    """What is in `inbox/`, `outbox/` and `archive/` already, found by content: the agent may have moved it."""

    def __init__(self, root: Path, agents: Iterable[str]) -> None:
        self._root = root
        self._agents = tuple(agents)
        self._scan()

    def has(self, file: FileDue) -> bool:
        if self._find(file):
            return True
        if not self._vanished:
            return False
        self._scan()  # the agent is moving files just now: look where they are going
        return self._find(file)

    def _scan(self) -> None:
        """The inbox before the archive, so that what is moved between them is seen at least once."""
        self._by_size: dict[tuple[str, str, int], list[str]] = defaultdict(list)
        self._contents: dict[tuple[str, str, int], dict[str, str]] = {}
        self._vanished = False
        for agent in self._agents:
            for box in ("outbox", "inbox", "archive"):
                with contextlib.suppress(OSError), os.scandir(self._root / agent / box) as entries:
                    for entry in entries:
                        self._note(agent, box, entry)

    def _note(self, agent: str, box: str, entry: os.DirEntry[str]) -> None:
        try:
            if entry.is_file(follow_symlinks=False) and not entry.name.startswith(_TEMPORARY):
                self._by_size[agent, box, entry.stat(follow_symlinks=False).st_size].append(entry.path)
        except OSError:
            self._vanished = True

    def _find(self, file: FileDue) -> bool:
        digest = digest_of(file.payload)
        for box in ("outbox",) if file.box == "outbox" else ("inbox", "archive"):
            path = self._read(file.agent, box, len(file.payload)).get(digest)
            if path is not None and os.path.lexists(path):
                return True
            self._vanished = self._vanished or path is not None
        return False

    def _read(self, agent: str, box: str, size: int) -> dict[str, str]:
        """The files of one size by their digest. Each is read once: thousands may have the same size."""
        group = agent, box, size
        if group not in self._contents:
            contents: dict[str, str] = {}
            for path in self._by_size.get(group, ()):
                content = _content(path, size)
                if content is None:
                    self._vanished = True
                else:
                    contents[digest_of(content)] = path
            self._contents[group] = contents
        return self._contents[group]


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
