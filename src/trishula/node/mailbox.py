"""Mailbox files: `inbox/{id}.json` and `outbox/{id}.json`, byte for byte what was signed, and what follows from them.

    arrived, sent ──► inbox/, outbox/        read ──► from inbox/ to archive/        bounced ──► bounced/
    further ──► receipts/                    ended ──► from outbox/ to outbox/sent/

The database is the truth and the files follow it (rule 12): they are written in batches, one `syncfs` for each, and
only then marked. What a crash left unmarked is looked for before it is written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from trishula.node import drops, queries
from trishula.node.bounces import Bounce, ReceiptFile, bounce_file, iso, receipt_file
from trishula.node.database import StoreError
from trishula.node.files import free, holds, move, put, sync
from trishula.node.queries import EndedFile, FileDue, HandledFile, Placed
from trishula.node.store import Store
from trishula.node.written import Written
from trishula.protocol.message import digest_of
from trishula.protocol.records import Entry

_BATCH = 256
_RETRY_AFTER = 1.0
_ENDED_EVERY = 5.0
"""Seconds between two looks for what has ended: nobody waits for it."""

_ALL = ("files", "bounces", "receipts", "handled")

log = logging.getLogger(__name__)


class _Due(Protocol):
    @property
    def agent(self) -> str: ...


_D = TypeVar("_D", bound=_Due)
_M = TypeVar("_M")


@dataclass(frozen=True, slots=True)
class _Kind(Generic[_D, _M]):
    """One kind of work: `due` finds it in the store, `do` does one item and says what `mark` is to note of it."""

    due: Callable[..., list[_D]]
    do: Callable[[_D], _M]
    mark: Callable[[sqlite3.Connection, Sequence[_M]], None]


class Projector:
    """Does what the store says is due. To be woken when there may be something.

    A mailbox that can't be written is left alone for a while; it holds up no other.
    """

    def __init__(self, mailbox_dir: Path, agents: Iterable[str], store: Store) -> None:
        self._root = mailbox_dir
        self._agents = tuple(agents)
        self._store = store
        self._due = asyncio.Event()
        self._former: Written | None = None
        """What a former run may have written, while that is being found out."""
        self._files = _Kind(queries.files_due, self._place, queries.mark_projected)
        self._bounces = _Kind(queries.bounces_due, self._bounce, queries.mark_told)
        self._receipts = _Kind(queries.receipts_due, self._receipt, queries.mark_receipts)
        self._handled = _Kind(queries.handled_due, self._archive, queries.mark_archived)
        self._ended = _Kind(queries.ended_due, self._retire, queries.forget_ended)
        self._wanted = {*_ALL}
        self.retires = False
        """Whether what has ended leaves the outbox: not before it is known what lies there."""
        self.written: Callable[[str, str, os.stat_result], object] = lambda _agent, _name, _status: None
        """Told of each file in an outbox, before anybody can see it there."""
        self.problems: dict[str, str] = {}
        """Why the files of an agent can't be written now."""
        self.marked: set[str] = set()
        """Agents for whom files were marked since somebody cleared this."""

    def wake(self) -> None:
        """Something has arrived, or was sent."""
        self._want("files")

    def bounced(self) -> None:
        """A sender is to be told in a file."""
        self._want("bounces")

    def progressed(self) -> None:
        """There may be a receipt to be written."""
        self._want("receipts")

    def handled(self, entries: Sequence[Entry]) -> None:  # noqa: ARG002 - the store knows them
        """These are read: their files go to the archive."""
        self._want("handled")

    def _want(self, kind: str) -> None:
        self._wanted.add(kind)
        self._due.set()

    async def run(self) -> None:
        """For ever: write what is due, in the order of its commits."""
        loop = asyncio.get_running_loop()
        again = True  # until all that a former run may have written is through
        stuck: set[str] = set()
        retry_at = 0.0
        ended_at = loop.time()
        while True:
            self._due.clear()
            failed = await self._drain(stuck, again=again)
            if failed and not stuck:
                retry_at = loop.time() + _RETRY_AFTER
            stuck |= failed
            again = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(retry_at, ended_at) if stuck else ended_at):
                    await self._due.wait()
            if stuck and loop.time() >= retry_at:
                again = True
                self._wanted = {*_ALL}
                stuck.clear()
            if loop.time() >= ended_at:
                ended_at = loop.time() + _ENDED_EVERY
                self._wanted.add("ended")

    async def _drain(self, stuck: set[str], *, again: bool) -> set[str]:
        """Do all that is due, a batch at a time. Returns the agents for whom it could not be done."""
        self._former = await asyncio.to_thread(Written, self._root, self._agents) if again else None
        wanted, self._wanted = self._wanted, set()
        failed: set[str] = set()
        try:
            if "files" in wanted:
                failed |= await self._work(self._files, stuck | failed)
            self._former = None
            if "bounces" in wanted:
                failed |= await self._work(self._bounces, stuck | failed)
            if "receipts" in wanted:
                failed |= await self._work(self._receipts, stuck | failed)
            if "handled" in wanted:
                failed |= await self._work(self._handled, stuck | failed)
            if "ended" in wanted and self.retires:
                failed |= await self._work(self._ended, stuck | failed)
        except StoreError:  # no fault of a mailbox: it is found at the store itself
            failed.update(self._agents)
        return failed

    async def _work(self, kind: _Kind[_D, _M], without: set[str]) -> set[str]:
        """All of one kind, but of some agents. Returns the agents for whom it could not be done."""
        failed: set[str] = set()
        while due := await self._store.read(partial(kind.due, limit=_BATCH, without=without | failed)):
            try:
                marks, problems = await asyncio.to_thread(self._batch, kind, due)
                await self._store.write(lambda db: kind.mark(db, marks))  # noqa: B023 - done before the next
            except OSError as error:
                problems = dict.fromkeys((item.agent for item in due), str(error))
            self.marked.update(item.agent for item in due)
            for agent in {item.agent for item in due}:
                self._report(agent, problems.get(agent, ""))
            failed |= set(problems)
        return failed

    def _batch(self, kind: _Kind[_D, _M], due: Sequence[_D]) -> tuple[list[_M], dict[str, str]]:
        marks: list[_M] = []
        problems: dict[str, str] = {}
        for item in due:
            if item.agent in problems:
                continue  # or its later mail would overtake
            try:
                marks.append(kind.do(item))
            except OSError as error:
                problems[item.agent] = str(error)
        sync(self._root)
        return marks, problems

    def _place(self, file: FileDue) -> Placed:
        found = self._former.find(file) if self._former is not None else None
        if found is None:
            before = partial(self.written, file.agent) if file.box == "outbox" else _nobody
            found = file.box, write_file(self._root / file.agent / file.box, file, before)
        return Placed(file, *found)

    def _bounce(self, bounce: Bounce) -> Bounce:
        put(f"{self._root}/{bounce.agent}/bounced", bounce.name, bounce_file(bounce), temporary=str(bounce.seq))
        return bounce

    def _receipt(self, receipt: ReceiptFile) -> ReceiptFile:
        folder = f"{self._root}/{receipt.agent}/receipts"
        put(folder, receipt.name, receipt_file(receipt), temporary=str(receipt.progress.seq))
        return receipt

    def _retire(self, file: EndedFile) -> EndedFile:
        retire_file(self._root / file.agent / "outbox", file)
        return file

    def _archive(self, file: HandledFile) -> tuple[HandledFile, str]:
        return file, archive_file(self._root / file.agent, file)

    def _report(self, agent: str, problem: str) -> None:
        if problem:
            self.problems[agent] = f"its files wait: {problem}"
        else:
            self.problems.pop(agent, None)


def _nobody(_name: str, _status: os.stat_result) -> None:
    """Wants to know of no file."""


def names(file: FileDue) -> Iterator[str]:
    """What the file may be called, best first (rule 12)."""
    if not file.taken:
        yield f"{file.id}.json"
    yield from drops.names(file.id, file.sender, digest_of(file.payload))[1:]


def write_file(folder: Path, file: FileDue, before: Callable[[str, os.stat_result], object] = _nobody) -> str:
    """Put the payload under the first of its names that nothing else has, and return that. Not yet synced.

    `before` is told of the file before anybody can see it.
    """
    name = next((name for name in names(file) if _is_its(folder, name, file)), None)
    if name is None:
        raise FileExistsError(errno.EEXIST, "all its names are taken", f"{folder}/{file.id}.json")
    put(str(folder), name, file.payload, temporary=str(file.row), before=partial(before, name))
    return name


def _is_its(folder: Path, name: str, file: FileDue) -> bool:
    """Whether a place in the folder is nobody's, the file's already, or that of the draft that it was made from."""
    if free(f"{folder}/{name}", file.payload):
        return True
    if file.box != "outbox":
        return False
    # A draft may be taken out at any moment: who finds it neither here nor gone has to look again.
    return drops.is_draft(str(folder), file.agent, name, file.payload) or not os.path.lexists(f"{folder}/{name}")


def retire_file(outbox: Path, file: EndedFile) -> None:
    """From `outbox/` to the folder of its month, never over another file."""
    folder = f"{outbox}/sent/{iso(file.stored_at)[:7]}"
    for name in drops.names(file.id, file.agent, file.digest):
        if not holds(f"{outbox}/{name}", file.payload):
            continue
        os.makedirs(folder, 0o770, exist_ok=True)  # noqa: PTH103 - as above
        for target in (name, f"{name.removesuffix('.json')}~{file.digest[:16]}.json"):
            try:
                move(f"{outbox}/{name}", f"{folder}/{target}")
                break
            except FileExistsError:
                if holds(f"{folder}/{target}", file.payload):
                    os.unlink(f"{outbox}/{name}")  # noqa: PTH108 - it is there already
                    break
        else:
            raise FileExistsError(errno.EEXIST, f"its names in {folder} are taken", f"{outbox}/{name}")


def archive_file(mailbox: Path, file: HandledFile) -> str:
    """From `inbox/` to `archive/`, never over another file. Returns its name there; nothing if it has gone already."""
    name = file.file or f"{file.id}.json"
    source = f"{mailbox}/inbox/{name}"
    if not file.file and not holds(source, file.payload):
        return ""  # a store that did not note names yet: only what is surely this one
    stem = name.removesuffix(".json")
    for target in (name, f"{stem}~{file.digest[:16]}.json"):
        path = f"{mailbox}/archive/{target}"
        try:
            move(source, path)
        except FileNotFoundError:
            if os.path.lexists(source):
                raise
            return ""
        except FileExistsError:
            if not holds(path, file.payload) or not holds(source, file.payload):
                continue
            os.unlink(source)  # noqa: PTH108 - it is there already
        return target
    raise FileExistsError(errno.EEXIST, "its names in the archive are taken", source)
