"""The store: one writer thread that group-commits, one reader.

All that arrives while a commit runs goes into the next one, so the price of reaching the disk is shared by whoever
waits for it; under load that is what makes the node fast, and idle it adds nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self, TypeVar

from trishula.node.database import SqlRows, StoreError, connect, prepare, recognize, renew, touch, used_bytes
from trishula.places import HERE
from trishula.protocol.errors import SendError
from trishula.protocol.ledger import apply
from trishula.protocol.records import Record, Result

_T = TypeVar("_T")

_MOST_PER_COMMIT = 4096
_READ_AGAIN_AFTER = 1.0
ROOM_BYTES = 1024 * 1024
"""What must be writable beside the store before it is said to be writable again."""

log = logging.getLogger(__name__)

# What passes when the operator makes room; everything else means that the store is not what we think it is.
_TRANSIENT = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_NOMEM", "SQLITE_READONLY", "SQLITE_CANTOPEN")

Committed = Callable[[list[tuple[int, Sequence[Result]]]], None]
Failed = Callable[[list[int], SendError], None]


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]


class _GoneError(Exception):
    """The files that are open are not those that a later start would find."""


class Store:
    """Use as an async context manager. `committed` and `failed` are called on the event loop, in order of commit.

    Files that were removed or replaced under it are found at the next commit, and nothing is committed from then on:
    no restart would find it. What was stored before is still open here, so it is still read, and goes to its
    recipients; a node that ended at once would lose it. At an orderly end it is put back if nothing is in its place.
    """

    def __init__(self, directory: Path, node: str) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / "trishula.db"
        self._lock = -1
        self._take_lock()
        try:
            self.incarnation = recognize(self.path, directory.with_suffix(".life"), prepare(self.path, node))
        except StoreError:
            os.close(self._lock)
            raise
        except (sqlite3.Error, UnicodeDecodeError) as error:
            os.close(self._lock)
            raise StoreError(f"can't open {self.path}: {error}", fix="is the disk full or the file damaged?") from None
        self.problem = ""
        """Why a commit failed; empty again when `recover` could write."""
        self.gone = ""
        """What became of the files, where they are not what was opened; for good."""
        self.size = self.path.stat().st_size
        """Bytes of the store that are in use; what was freed is used again."""
        self._queue: SimpleQueue[_Batch | _Job | None] = SimpleQueue()
        self._reader = ThreadPoolExecutor(1, "store-reader")

    @property
    def bytes(self) -> int:
        """Of its file; 0 where there is none any more."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.broken: asyncio.Future[None] = self._loop.create_future()
        """Fails when the writer finds what it can't go on with."""
        self._writer_db = connect(self.path)
        self._reader_db = connect(self.path)
        self._reader_db.execute("SELECT count(*) FROM meta").fetchone()  # now the files beside it are open, too
        self._files = {path: _identity(path) for path in (str(self.path), f"{self.path}-wal", f"{self.path}-shm")}
        self._writer = threading.Thread(target=self._write_forever, name="store-writer", daemon=True)
        return self

    def start(self, committed: Committed, failed: Failed) -> None:
        """Begin to commit."""
        self._committed = committed
        self._failed = failed
        self._writer.start()

    async def __aexit__(self, *_: object) -> None:
        if self._writer.is_alive():
            self._queue.put(None)
            await asyncio.to_thread(self._writer.join)
        self._reader.shutdown(wait=True)
        if self.gone:
            self._put_back()
        self._reader_db.close()
        self._writer_db.close()
        os.close(self._lock)

    def submit(self, batch: int, records: tuple[Record, ...]) -> None:
        """Commit these together; `committed` or `failed` will be told."""
        self._queue.put(_Batch(batch, records))

    async def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` in the writer's next transaction. Raises what it raises, and `StoreError` if the commit fails."""
        future: asyncio.Future[_T] = self._loop.create_future()
        self._queue.put(_Job(work, future))
        return await future

    async def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` in the reader thread: it sees all that is committed. Raises `StoreError` for what may pass."""
        try:
            return await self._loop.run_in_executor(self._reader, work, self._reader_db)
        except sqlite3.Error as error:
            if not self.gone and not _may_pass(error):
                raise
            raise StoreError(f"the store can't be read now: {error}", fix="see the disk of this host") from None

    async def read_at_last(self, work: Callable[[sqlite3.Connection], _T], what: str) -> _T:
        """As `read`, for as long as it takes; `what` waits meanwhile."""
        while True:
            try:
                return await self.read(work)
            except StoreError as error:
                log.warning("%s waits: %s", what, error)
                await asyncio.sleep(_READ_AGAIN_AFTER)

    async def recover(self) -> None:
        """Find out whether what failed can be written again: as much as a message may need, and a commit."""
        try:
            await asyncio.to_thread(self._try_room)
            await self.write(touch)
        except (OSError, StoreError):
            return
        self.problem = ""

    def look(self) -> str:
        """Why a later start could not use the store, or nothing. Takes the lock again where its file is gone."""
        if not self.gone:
            self.gone = self._missing()
        if self.gone:
            return ""
        directory = self.path.parent
        try:
            if _identity(str(directory / "lock")) != self._lock_file:
                raise FileNotFoundError
        except FileNotFoundError:
            try:
                self._take_lock()
            except OSError as error:
                return f"its lock is gone, and can't be made again: {error.strerror}"
            log.warning("the lock of the store was gone: it is taken again")
        except OSError as error:
            return f"{directory}: {error.strerror}"
        return "" if os.access(directory, os.R_OK | os.W_OK | os.X_OK) else f"{directory} is not writable for the node"

    def _take_lock(self) -> None:
        """Raises `StoreError` where another node has it, and `OSError`."""
        former, self._lock = self._lock, _lock(self.path.parent / "lock")
        at = os.fstat(self._lock)
        self._lock_file = (at.st_dev, at.st_ino)
        if former >= 0:
            os.close(former)

    def _missing(self) -> str:
        """Which of the open files is not in its place any more, or nothing."""
        for path, opened in self._files.items():
            try:
                if _identity(path) != opened:
                    return f"{path} was replaced"
            except (FileNotFoundError, NotADirectoryError):
                return f"{path} was removed"
            except OSError:
                continue  # it can't be looked at: that does not say that it is not there
        return ""

    def _try_room(self) -> None:
        probe = self.path.with_name("room")
        try:
            with probe.open("wb") as file:
                file.write(bytes(ROOM_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)

    def _put_back(self) -> None:
        """What is open here to where it was, if nobody has put anything there."""
        unfinished = self.path.with_name("put-back.db")
        try:
            if self.path.exists():
                return
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(unfinished)) as copy:
                self._reader_db.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # no second file beside it
            for beside in ("-wal", "-shm"):  # of another life, should only the one file be gone
                Path(f"{self.path}{beside}").unlink(missing_ok=True)
            unfinished.rename(self.path)
        except (OSError, sqlite3.Error) as error:
            log.error("the store is gone, and what it held can't be put back: %s", error)  # noqa: TRY400
        else:
            log.warning("the store was removed; what it held is put back: %s", self.path)

    # ------------------------------------------------------------ the writer's thread

    def _write_forever(self) -> None:
        try:
            while (group := self._gather()) is not None:
                self._commit(group)
        except BaseException as error:  # noqa: BLE001 - the thread must not die unheard
            self._on_loop(self._break, error)

    def _gather(self) -> list[_Batch | _Job] | None:
        """Everything that is waiting, at least one; None at the end."""
        item = self._queue.get()
        group: list[_Batch | _Job] = []
        while item is not None:
            group.append(item)
            if self._queue.empty() or len(group) >= _MOST_PER_COMMIT:
                return group
            item = self._queue.get()
        if group:
            self._queue.put(None)
        return group or None

    def _commit(self, group: list[_Batch | _Job]) -> None:
        db = self._writer_db
        rows = SqlRows(db)
        done: list[tuple[int, Sequence[Result]]] = []
        answers: list[tuple[asyncio.Future[Any], Any]] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            for item in group:
                if isinstance(item, _Batch):
                    done.append((item.number, [apply(rows, record) for record in item.records]))
                else:
                    answers.append((item.future, item.work(db)))
            self._must_be_there()
            db.execute("COMMIT")
            self._must_be_there()
        except (sqlite3.Error, _GoneError) as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and not self.gone and not _may_pass(error):
                raise
            self._on_loop(self._fail, group, error)
        else:
            self.size = used_bytes(db)
            self._on_loop(self._succeed, done, answers)

    def _must_be_there(self) -> None:
        self.gone = self.gone or self._missing()
        if self.gone:
            raise _GoneError(f"the store is gone: {self.gone}")

    # ------------------------------------------------------------ back on the event loop

    def _on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is there to be told
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _succeed(
        self, done: list[tuple[int, Sequence[Result]]], answers: list[tuple[asyncio.Future[Any], Any]]
    ) -> None:
        if done:
            self._committed(done)
        for future, answer in answers:
            if not future.done():
                future.set_result(answer)

    def _fail(self, group: list[_Batch | _Job], error: Exception) -> None:
        code = getattr(error, "sqlite_errorname", "")
        self.problem = f"{code}: {error}" if code else str(error)
        batches = [item.number for item in group if isinstance(item, _Batch)]
        if batches:
            refusal = SendError(
                f"the store of this node can't be written ({self.problem})",
                code="store_full",
                key=str(self.path),
                fix="restart the node" if self.gone else "make room on the disk; what is stored is safe",
            )
            self._failed(batches, refusal)
        for item in group:
            if isinstance(item, _Job) and not item.future.done():
                item.future.set_exception(StoreError(self.problem))

    def _break(self, error: BaseException) -> None:
        if not self.broken.done():
            self.broken.set_exception(error)


def adopt(directory: Path, node: str) -> tuple[str, str]:
    """Make the store in `directory` a new one to its peers, or a new store where there is none (rule 14).

    Returns the incarnations that it had and has. Raises `StoreError` while a node runs on it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "trishula.db"
    lock = _lock(directory / "lock")
    try:
        return prepare(path, node), renew(path)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise StoreError(f"can't open {path}: {error}", fix="is the disk full or the file damaged?") from None
    finally:
        os.close(lock)


def _identity(path: str) -> tuple[int, int]:
    at = os.stat(path)  # noqa: PTH116 - at each commit
    return at.st_dev, at.st_ino


def _may_pass(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(_TRANSIENT)


def _lock(path: Path) -> int:
    """A lock that a second node on the same store runs into, and that dies with the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StoreError(
            f"another node is running on {path.parent}",
            key=str(path),
            fix=f"stop it ({HERE.stop}), or check node.state_dir",
        ) from None
    return descriptor
