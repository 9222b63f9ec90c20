"""Sends what agents drop into their outboxes (rule 11).

    a file appears ─► looked at ─► submitted ─► stored ─► removed; the projector writes outbox/{id}.json
                          ├──────► half-written: looked at again when it changes, until it has been quiet for a while
                          ├──────► no message, or not to be sent: to bounced/, with the reason; back when it is mended
                          └──────► not to be sent now (quota, full store): tried again

A watcher says which files were touched; the folders are looked at besides, since watchers miss events. What the node
itself has written there is known by what it is on the disk, and else by the store: by sender, id and digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from trishula.node import drops, queries
from trishula.node.bounced import Bounced
from trishula.node.config import Config
from trishula.node.database import StoreError
from trishula.node.drops import Bad, Gone, History, Known, Mark, Ready, Seen, Unfinished
from trishula.node.files import holds
from trishula.node.hub import Hub
from trishula.node.logs import Sparing
from trishula.node.mailbox import Projector
from trishula.node.store import Store
from trishula.node.watching import Watcher
from trishula.node.wire import now
from trishula.protocol import effects
from trishula.protocol.errors import TrishulaError

_AT_ONCE = 128
"""Files that are looked at together."""
_MOST_OPEN = 256
"""Messages of one outbox that may be on their way into the store."""
_PER_TURN = 16
"""Messages that are submitted before others have a turn on the event loop."""
_STILL_S = 0.01
"""Whoever has written a file within that time may have a line's end to add: it would be another message."""
_AGAIN_S = 1.0
_MUCH_LATER_S = 10.0
_LOOK_EVERY_S = 1.0
_LOOK_OFTEN_S = 0.04
_LOOK_ALL_S = 60.0
_REST = 10.0
"""A look that took long is followed by so many times its own duration of rest."""
_CHECKS = 20
"""How often a half-written file is looked at while it is waited for: nobody says that a file was left alone."""
_PASSING = frozenset({"store_full", "quota"})

log = logging.getLogger(__name__)


class Outboxes:
    """The outboxes of these agents."""

    def __init__(self, config: Config, agents: Iterable[str], store: Store, hub: Hub, projector: Projector) -> None:
        most = config.limits.max_message_bytes
        self.bounced = {agent: Bounced(config.mailbox_dir / agent, agent, most) for agent in config.agents}
        """What each agent dropped and was not sent."""
        self._boxes = {agent: Outbox(self.bounced[agent], store, hub, projector) for agent in agents}
        self._projector = projector
        boxes = self._boxes.values()
        self._folders = {path: box for box in boxes for path in _paths(box.folder)}
        self._bounced = {path: box.bounced for box in boxes for path in _paths(box.bounced.path)}
        watched = [folder for box in boxes for folder in (box.folder, box.bounced.path)]
        self.watcher = Watcher(watched, self._touched)
        projector.written = self._written

    async def run(self) -> None:
        """For ever."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            for agent, box in self._boxes.items():
                tasks.create_task(box.run(self.watcher), name=f"outbox of {agent}")
            tasks.create_task(self.watcher.run(), name="watcher of outboxes")
            tasks.create_task(self._let_retire(), name="first look at outboxes")

    def waiting(self, agent: str) -> dict[str, Any]:
        """What lies in the outbox of an agent and can't be sent now."""
        box = self._boxes.get(agent)
        return {"waiting": 0, "problem": ""} if box is None else {"waiting": box.waiting, "problem": box.problem}

    async def _let_retire(self) -> None:
        for box in self._boxes.values():
            await box.looked.wait()
        self._projector.retires = True

    # ------------------------------------------------------------ from other threads

    def _touched(self, paths: list[str]) -> None:
        hints: dict[Outbox, list[str]] = {}
        for path in paths:
            folder, _, name = path.rpartition("/")
            box = self._folders.get(folder)
            if box is not None and drops.is_drop(name) and not box.knows(name):
                hints.setdefault(box, []).append(name)
            elif folder in self._bounced:
                self._bounced[folder].touched()
        for box, names in hints.items():
            self._loop.call_soon_threadsafe(box.touched, names)

    def _written(self, agent: str, name: str, status: os.stat_result) -> None:
        if agent in self._boxes:
            self._boxes[agent].own(name, drops.mark_of(status))


def _paths(folder: Path) -> set[str]:
    return {str(folder), os.path.realpath(folder)}  # macOS says where a path really leads


class Outbox:
    """One of them."""

    def __init__(self, bounced: Bounced, store: Store, hub: Hub, projector: Projector) -> None:
        self.bounced = bounced
        self.folder = bounced.path.with_name("outbox")
        self.looked = asyncio.Event()
        """Set when all that lay there at the start has been looked at."""
        self.problem = ""
        """Why what waits there can't be sent now."""
        self._agent = bounced.agent
        self._mailbox = str(bounced.path.parent)
        self._store = store
        self._hub = hub
        self._projector = projector
        self._most = bounced.max_bytes
        self._log = Sparing(log)
        self._stir = asyncio.Event()
        self._known: dict[str, int] = {}
        """What is there and none of our business any more, and the hash of its mark: there may be many."""
        self._hints: dict[str, None] = {}
        """What was touched just now, which is looked at before all that may be new."""
        self._todo: dict[str, None] = {}
        self._busy: set[str] = set()
        """What is on its way into the store, or out of the folder."""
        self._slots = asyncio.Semaphore(_MOST_OPEN)
        self._stored: list[tuple[Ready, bool]] = []
        self._bad: list[Bad] = []
        self._partial: dict[str, _Partial] = {}
        """Half-written files."""
        self._refused: dict[str, float] = {}
        """What can't be sent now, and when to try it again."""
        self._unsure: set[str] = set()
        """Messages whose file was missing and may just have been written: it is looked for again."""
        self._seen = 0
        self._inode = 0
        self._look_at = 0.0
        self._look_all_at = 0.0
        self._soon = 0.0
        """When a look may be had at the earliest."""

    @property
    def waiting(self) -> int:
        return len(self._refused)

    def touched(self, names: Iterable[str]) -> None:
        """These files may be new."""
        names = [*names]
        if len(names) > _AT_ONCE:  # in their order, then
            self._seen = 0
            self._look_at = min(self._look_at, self._soon)
        else:
            self._hints.update(dict.fromkeys(names))
        self._stir.set()

    def own(self, name: str, mark: Mark) -> None:
        """The node writes this. Called from other threads, as `knows` is."""
        self._known[name] = hash(mark)

    def knows(self, name: str) -> bool:
        """Whether a file is as it is known already."""
        known = self._known.get(name)
        if known is None:
            return False
        try:
            return hash(drops.mark_of(os.lstat(self.folder / name))) == known
        except OSError:
            return True

    async def run(self, watcher: Watcher) -> None:
        """For ever."""
        await asyncio.to_thread(self._give_back)
        while True:
            self._stir.clear()
            try:
                await self._look_around(watcher)
                await self._work()
                if not self._hints and not self._todo and self._seen:
                    self.looked.set()
            except StoreError as error:
                self._say(f"the store can't be read: {error}")
                await asyncio.sleep(_AGAIN_S)
            try:
                async with asyncio.timeout(0 if self._hints or self._todo else self._pause()):
                    await self._stir.wait()
            except TimeoutError:
                self._wake_what_waits()

    def _pause(self) -> float:
        clock = time.monotonic()
        checks = (waiting.check_at for waiting in self._partial.values())
        due = min(self._look_at, clock + _LOOK_EVERY_S, *self._refused.values(), *checks)
        return max(0.0, due - clock)

    def _wake_what_waits(self) -> None:
        clock = time.monotonic()
        due = [name for name, at in self._refused.items() if at <= clock]
        for name, waiting in self._partial.items():
            if waiting.check_at <= clock:
                waiting.put_off()
                due.append(name)
        self._todo.update(dict.fromkeys(due))

    # ------------------------------------------------------------ looking

    async def _look_around(self, watcher: Watcher) -> None:
        """Find what nobody has told of."""
        clock = time.monotonic()
        if clock < self._look_at:
            return
        thorough = clock >= self._look_all_at
        try:
            changed, inode, found = await asyncio.to_thread(self._find, 0 if thorough else self._seen)
        except OSError as error:
            self._seen = 0
            self._say(f"the outbox of {self._agent} can't be read: {error.strerror}")
            self._look_at = time.monotonic() + _AGAIN_S
            return
        if inode != self._inode:
            if self._inode:
                watcher.anew()
            self._inode = inode
        if thorough:
            self._look_all_at = clock + _LOOK_ALL_S
        self._todo.update(dict.fromkeys(found))
        # What has just changed may have done so again under the same time stamp: 1 says that it is to be looked at.
        self._seen = changed if time.time_ns() - changed > drops.SETTLED_NS else 1
        await self._write_again(await asyncio.to_thread(self._still_missing))
        end = time.monotonic()
        self._soon = end + 2 * (end - clock)
        self._look_at = end + max(_LOOK_OFTEN_S if watcher.problem else _LOOK_EVERY_S, _REST * (end - clock))

    def _find(self, seen: int) -> tuple[int, int, list[str]]:
        """When the folder last changed, which one it is, and what is new in it, or was mended: the oldest first."""
        self.bounced.send_mended(at=now().wall, thorough=not seen)
        status = self.folder.stat()
        if status.st_mtime_ns == seen:
            return status.st_mtime_ns, status.st_ino, []
        found = []
        present = set()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not drops.is_drop(entry.name):
                    continue
                present.add(entry.name)
                try:
                    mark = drops.mark_of(entry.stat(follow_symlinks=False))
                except OSError:
                    continue
                if self._known.get(entry.name) != hash(mark):
                    found.append((mark.mtime_ns, entry.name))
        for name in [name for name in list(self._known) if name not in present]:
            self._known.pop(name, None)
        return status.st_mtime_ns, status.st_ino, [name for _, name in sorted(found)]

    def _give_back(self) -> None:
        """What a crash left on its way out is found again."""
        try:
            left = [name for name in os.listdir(self.folder) if name.startswith(drops.TAKEN)]  # noqa: PTH208 - names
            for name in left:
                drops.give_back(str(self.folder), name.removeprefix(drops.TAKEN))
        except OSError as error:
            log.warning("what was left in %s stays there: %s", self.folder, error)

    async def _work(self) -> None:
        """Do all that is to be done now."""
        while self._hints or self._todo or self._stored or self._bad:
            await self._clear()
            names = [name for name in self._take() if name not in self._busy]
            if not names:
                continue
            ids = {*map(drops.stem, names)}
            try:
                known = await self._store.read(partial(queries.known, agent=self._agent, ids=ids))
            except StoreError:
                self._todo.update(dict.fromkeys(names))
                raise
            seen = await asyncio.to_thread(self._look_at_all, names, known)
            for name in names:
                self._refused.pop(name, None)
            if not self._refused:
                self.problem = ""
            for turn, item in enumerate(sorted(seen, key=_age)):
                await self._judge(item)
                if turn % _PER_TURN == _PER_TURN - 1:
                    await asyncio.sleep(0)

    def _look_at_all(self, names: list[str], known: dict[str, Known]) -> list[Seen]:
        self._let_settle(names)
        return [seen for name in names if (seen := self._look(name, known)) is not None]

    def _let_settle(self, names: list[str]) -> None:
        """Wait until the youngest of these files is a little older."""
        wait = 0.0
        for name in names:
            with contextlib.suppress(OSError):
                age = time.time() - os.lstat(self.folder / name).st_mtime
                if 0 <= age < _STILL_S:
                    wait = max(wait, _STILL_S - age)
        time.sleep(wait)

    def _look(self, name: str, known: dict[str, Known]) -> Seen | None:
        """In a thread. None for what is half-written and has not changed since."""
        waiting = self._partial.get(name)
        if waiting is not None and not waiting.is_over():
            with contextlib.suppress(OSError):
                if drops.mark_of(os.lstat(self.folder / name)) == waiting.mark:
                    return None
        return drops.look(str(self.folder), self._agent, name, known.get(drops.stem(name)), most=self._most)

    def _take(self) -> list[str]:
        names = self._hints or self._todo
        taken = [name for name, _ in zip(names, range(_AT_ONCE), strict=False)]
        for name in taken:
            del names[name]
        return taken

    async def _judge(self, seen: Seen) -> None:
        former = self._partial.pop(seen.name, None)
        match seen:
            case History(name, mark):
                self._known[name] = hash(mark)
            case Gone(name, again):
                if again:
                    self._partial[name] = _Partial(Mark(0, 0, 0), drops.QUIET_S)
            case Unfinished(name, mark, error):
                if former is None or former.mark != mark:
                    self._partial[name] = _Partial(mark, seen.patience)
                elif former.is_over():
                    self._bounce(Bad(name, mark, error))
                else:
                    self._partial[name] = former
            case Bad():
                self._bounce(seen)
            case Ready():
                self._busy.add(seen.name)
                await self._slots.acquire()
                self._hub.submit(_Submitted(self, seen), seen.message, None)

    # ------------------------------------------------------------ what became of it

    def stored(self, ready: Ready, *, fresh: bool) -> None:
        self._slots.release()
        self._stored.append((ready, fresh))
        self._stir.set()

    def rejected(self, ready: Ready, error: TrishulaError) -> None:
        self._slots.release()
        if error.code in _PASSING:
            self._busy.discard(ready.name)
            self._wait(ready.name, _AGAIN_S, str(error))
        else:
            self._bounce(Bad(ready.name, ready.mark, error))

    def _bounce(self, bad: Bad) -> None:
        self._busy.add(bad.name)
        self._bad.append(bad)
        self._stir.set()

    async def _clear(self) -> None:
        """Take out of the folder what is stored, or can't be."""
        bad, self._bad = self._bad, []
        stored, self._stored = self._stored, []
        if not bad and not stored:
            return
        left = await asyncio.to_thread(self._clear_away, stored, bad)
        self._busy.difference_update([ready.name for ready, _ in stored], [item.name for item in bad])
        self._todo.update(dict.fromkeys(left.changed))
        for name, error in left.stuck.items():
            self._wait(name, _MUCH_LATER_S, f"{drops.text_of(name)} can't be taken out of the outbox: {error}")
        await self._write_again(left.without_file)

    async def _write_again(self, ids: list[str]) -> None:
        """Have the files of stored messages written that were taken out of the outbox with what lay in their place."""
        if ids:
            self._unsure |= {*ids}
            unmarked = await self._store.write(lambda db: queries.write_outbox_again(db, self._agent, ids))
            self._unsure -= {*ids} - {*unmarked}
            self._projector.wake()

    def _still_missing(self) -> list[str]:
        unsure, self._unsure = self._unsure, set()
        return [name for name in unsure if not os.path.lexists(f"{self.folder}/{name}.json")]

    def _clear_away(self, stored: list[tuple[Ready, bool]], bad: list[Bad]) -> _Left:
        """In a thread."""
        left = _Left()
        for ready, fresh in stored:
            # Our file took its place, and another drop of the same bytes the place of that, with the same inode again.
            exact = fresh and self._is_marked(ready)
            left.note(ready.name, partial(self._put_away, ready))
            self.bounced.left(ready.name)
            path = f"{self.folder}/{ready.message.id}.json"
            if not exact and not holds(path, ready.message.payload):
                left.without_file.append(ready.message.id)
        for item in bad:
            log.warning("%s in the outbox of %s was not sent: %s", item.name, self._agent, item.error)
            bounce = partial(drops.bounce, self._mailbox, self._agent, item.name, item.mark, item.error, at=now().wall)
            left.note(item.name, bounce)
            if item.error.code == "id_conflict" and not os.path.lexists(f"{self.folder}/{item.error.value}.json"):
                left.without_file.append(str(item.error.value))  # it lay in its place
        return left

    def _is_marked(self, ready: Ready) -> bool:
        with contextlib.suppress(OSError):
            return drops.mark_of(os.lstat(self.folder / ready.name)) == ready.mark
        return False

    def _put_away(self, ready: Ready) -> bool:
        message = ready.message
        if ready.raw == message.payload and ready.name in drops.names(message.id, self._agent, message.digest):
            self._known[ready.name] = hash(ready.mark)  # it is what we would write
            return True
        return drops.remove(str(self.folder), ready.name, ready.mark, ready.raw)

    def _wait(self, name: str, seconds: float, why: str) -> None:
        """To be looked at again, and found to be the same, after so long."""
        self._refused[name] = time.monotonic() + seconds
        self.problem = why
        self._log.warning(self._agent, f"what lies in the outbox of {self._agent} waits: {why}")

    def _say(self, text: str) -> None:
        self._log.warning(self._agent, text)


class _Partial:
    """A half-written file as it was at the last look. It is given up after `patience` seconds without change."""

    def __init__(self, mark: Mark, patience: float) -> None:
        self.mark = mark
        self._every_s = patience / _CHECKS
        self._over_at = time.monotonic() + patience
        self.put_off()

    def put_off(self) -> None:
        self.check_at = time.monotonic() + self._every_s

    def is_over(self) -> bool:
        return time.monotonic() >= self._over_at


@dataclass(slots=True)
class _Left:
    """What could not be taken out of the folder, and why; and stored messages that have no file there."""

    changed: list[str] = field(default_factory=list)
    stuck: dict[str, str] = field(default_factory=dict)
    without_file: list[str] = field(default_factory=list)

    def note(self, name: str, step: Callable[[], bool]) -> None:
        """Do it. It says whether the file was still what was read."""
        try:
            if not step():
                self.changed.append(name)
        except OSError as error:
            self.stuck[name] = error.strerror or str(error)


class _Submitted:
    """A dropped file on its way into the store."""

    __slots__ = ("_box", "_ready")

    def __init__(self, box: Outbox, ready: Ready) -> None:
        self._box = box
        self._ready = ready

    def stored(self, effect: effects.Stored) -> None:
        self._box.stored(self._ready, fresh=effect.fresh)

    def rejected(self, effect: effects.Rejected) -> None:
        self._box.rejected(self._ready, effect.error)


def _age(seen: Seen) -> tuple[int, str]:
    return (0 if isinstance(seen, Gone) else seen.mark.mtime_ns, seen.name)
