"""A room for each peer, where frames lie as files: `out/` for it, `in/` from it, `rejected/` what nobody could read.

    hub ── transmit ──► out/ ═══ rsync ═══► in/ (there) ── heard ──► hub

A file holds one frame, as it would have gone over a link. Mail stays in `out/` until its frame is acknowledged; an
answer until it was pushed, or until nobody can want it any more. What comes is read once, remembered by its name and
kept a while, so that rsync does not bring it again. A node that stops leaves word in `read.json` of what it has read:
the keys by which that was signed may be gone when it is up again. One that is killed reads it once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import secrets
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from trishula.node.courier import Courier
from trishula.node.files import put
from trishula.node.logs import Sparing
from trishula.node.wire import LARGEST_PEER_FRAME
from trishula.protocol import frames
from trishula.protocol.backoff import full_jitter
from trishula.protocol.errors import FrameError

KEPT_S = 600.0
"""Seconds that an answer lies in `out/` which nobody fetches."""
_READ_S = 120.0
"""Seconds that a file lies in `in/` after it came, or was last written to by an rsync that has ended."""
_HEARD_S = 5.0
"""Seconds that it lies there after it was read: then what it said is in the store."""
ROOM_BYTES = 1 << 30
"""Of `in/`: nothing more is fetched."""
PULL_EVERY_S = 2.0
PULL_EVERY_IDLE_S = 60.0
_LOOK_EVERY_S = 0.25
_LOOK_EVERY_IDLE_S = 1.0
_ROUND_S = 0.3
"""Between two runs of rsync at least."""
_RETRY_BASE_S = 1.0
_RETRY_CAP_S = 30.0
_AT_ONCE = 200
_BYTES_AT_ONCE = 16 * 1024 * 1024
_MOST_FILES = 20_000
"""That are looked at together: whoever puts more there waits."""
_READ = "read.json"
_MOST_REJECTED = 100
_LARGEST_REJECTED = 1024 * 1024

_random = random.SystemRandom().random

CARRIED = (frames.Deliver, frames.Ack, frames.Receipts, frames.Defer)

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who reads what comes: the hub."""

    def heard(self, number: int, frame: frames.MeshFrame) -> None: ...

    def tell(self, node: str, frame: frames.Frame) -> None:
        """Say this on the link to a node, if there is one."""


@dataclass(slots=True)
class _Seen:
    identity: tuple[int, int]
    since: float


@dataclass(slots=True)
class _Outgoing:
    """A file in `out/`. `seq`: the number of the mail in it, or None for an answer."""

    name: str
    seq: int | None
    since: float


@dataclass(frozen=True, slots=True)
class _Look:
    """What there is in `in/`: frames that are new, whether there may be more of them, and the bytes of all files."""

    frames: list[frames.MeshFrame]
    more: bool
    size: int


class Room:
    """One peer's. `number` is what the engine calls its post."""

    def __init__(self, peer: str, folder: Path, number: int, courier: Courier | None, listener: Listener) -> None:
        self.peer = peer
        self.number = number
        self.open = False
        """Whether new mail goes this way, for there is no other."""
        self.problem = ""
        """Why rsync fails, while it does."""
        self.last_run: int | None = None
        """When rsync last did its work, in ms since 1970."""
        self.fails_since: int | None = None
        """Since when it fails, while it does."""
        self._folder = folder
        self._courier = courier
        self._listener = listener
        self._life = secrets.token_hex(4)
        self._count = 0
        self._queue: asyncio.Queue[tuple[_Outgoing, frames.Frame]] = asyncio.Queue()
        self._mail: dict[int, _Outgoing] = {}
        self._answers: dict[str, _Outgoing] = {}
        self._done: list[_Outgoing] = []
        """What need not lie in `out/` any more."""
        self._size = 0
        self._news = asyncio.Event()
        self._look = asyncio.Event()
        self._seen: dict[str, _Seen] = {}
        self._log = Sparing(log, every=60.0)
        self._failures = Sparing(log, every=60.0, level=logging.INFO)

    # ------------------------------------------------------------ from the hub

    def transmit(self, frame: frames.Frame) -> None:
        if isinstance(frame, CARRIED):
            item = self._outgoing_for(frame)
            if item.seq is not None:
                self._mail[item.seq] = item
            self._queue.put_nowait((item, frame))

    def post(self, *, is_open: bool) -> None:
        """New mail goes this way, or no longer: then what lies here goes another way."""
        if is_open:
            log.info("no way to %s: its mail goes by rsync", self.peer)
        else:
            log.info("there is a way to %s again: rsync rests", self.peer)
            self.withdraw([*self._mail])
        self.open = is_open
        self._news.set()

    def withdraw(self, seqs: Iterable[int]) -> None:
        """The mail in these frames has been answered, or goes anew."""
        self._done += [self._mail.pop(seq) for seq in seqs if seq in self._mail]

    def fetch(self) -> None:
        """Files lie for us there."""
        self._news.set()

    def status(self) -> dict[str, Any]:
        return {
            "runs": self._courier is not None,
            "open": self.open,
            "last_run": self.last_run,
            "problem": self.problem,
            "fails_since": self.fails_since,
            "waiting": len(self._mail),
        }

    # ------------------------------------------------------------ tasks

    async def run(self) -> None:
        """For ever: write, read, and have it carried."""
        await asyncio.to_thread(self._tidy)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(), name=f"post to {self.peer}")
                tasks.create_task(self._read(), name=f"post from {self.peer}")
                if self._courier is not None:
                    tasks.create_task(self._carry(self._courier), name=f"rsync with {self.peer}")
        finally:
            self._leave_word()

    async def _write(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            items = [(item, frames.encode(frame)) for item, frame in batch if self._is_wanted(item)]
            try:
                await asyncio.to_thread(self._put, items)
            except OSError as error:
                # It is offered again, or answered again, when nothing comes of it.
                self._log.warning("write", f"the room of {self.peer} can't be written: {error}")
                self._done += [item for item, _ in items]
                self.withdraw([item.seq for item, _ in items if item.seq is not None])
                continue
            self._answers.update((item.name, item) for item, _ in items if item.seq is None)
            self._done += [item for item, _ in items if not self._is_wanted(item)]
            self._news.set()
            if self._courier is None:
                self._listener.tell(self.peer, frames.Posted())

    async def _read(self) -> None:
        while True:
            done, self._done = self._done, []
            look = await asyncio.to_thread(self._take, done)
            self._size = look.size
            for frame in look.frames:
                self._listener.heard(self.number, frame)
                if isinstance(frame, frames.Ack):
                    self.withdraw([frame.seq])
                await asyncio.sleep(0)
            before = time.monotonic() - KEPT_S
            self._fetched([item for item in self._answers.values() if item.since < before])
            if not look.more:
                self._look.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_EVERY_S if self.open else _LOOK_EVERY_IDLE_S):
                        await self._look.wait()

    async def _carry(self, courier: Courier) -> None:
        failures = 0
        while True:
            with contextlib.suppress(TimeoutError):
                waiting = self.open or bool(self._mail)
                pause = PULL_EVERY_S if waiting else PULL_EVERY_IDLE_S
                async with asyncio.timeout(pause if courier.pulls else None):
                    await self._news.wait()
            self._news.clear()
            problem = await self._round(courier)
            if problem:
                failures += 1
                self._news.set()
                pause = full_jitter(failures - 1, base=_RETRY_BASE_S, cap=_RETRY_CAP_S, random=_random())
                await asyncio.sleep(_ROUND_S + pause)
            else:
                failures = 0
                await asyncio.sleep(_ROUND_S)

    async def _round(self, courier: Courier) -> str:
        """Push, if there is something, and pull, if that is for us to do. Returns what went wrong."""
        answers = [*self._answers.values()]
        problem = await courier.push() if answers or self._mail else ""
        if not problem:
            self._fetched(answers)
        if courier.pulls and self._size < ROOM_BYTES:
            problem = await courier.pull() or problem
            self._look.set()
        elif courier.pulls:
            problem = problem or f"what has come from {self.peer} fills its room: {self._size} bytes"
        if problem:
            # The first minutes of a mesh, or a restart, are no fault: if it lasts, that is found (checks.health).
            self._failures.say(problem, f"rsync with {self.peer}: {problem}")
            self.fails_since = self.fails_since or time.time_ns() // 1_000_000
        else:
            self.last_run, self.fails_since = time.time_ns() // 1_000_000, None
        self.problem = problem
        return problem

    # ------------------------------------------------------------ files

    def _outgoing_for(self, frame: frames.Frame) -> _Outgoing:
        self._count += 1
        seq = frame.seq if isinstance(frame, frames.Deliver) else None
        return _Outgoing(f"{self._life}-{self._count:010d}.json", seq, time.monotonic())

    def _is_wanted(self, item: _Outgoing) -> bool:
        """Mail may have gone another way while it waited to be written."""
        return item.seq is None or self._mail.get(item.seq) is item

    def _put(self, items: Sequence[tuple[_Outgoing, bytes]]) -> None:
        for item, content in items:
            put(str(self._folder / "out"), item.name, content, temporary=item.name)

    def _fetched(self, answers: Iterable[_Outgoing]) -> None:
        self._done += [item for answer in answers if (item := self._answers.pop(answer.name, None)) is not None]

    def _tidy(self) -> None:
        """The folders that are missing, and away with what a former life wanted carried: it is offered anew."""
        for name in ("in", "out", "rejected"):
            with contextlib.suppress(OSError):
                (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._clear(name for name in os.listdir(self._folder / "out"))  # noqa: PTH208 - names only
        with contextlib.suppress(OSError, ValueError):
            read = msgspec.json.decode((self._folder / _READ).read_bytes(), type=dict[str, tuple[int, int]])
            now = time.monotonic()
            self._seen = {name: _Seen(identity, now) for name, identity in read.items()}

    def _leave_word(self) -> None:
        """Of what was read, for the next life; but for what may not be in the store yet."""
        before = time.monotonic() - _HEARD_S
        read = {name: seen.identity for name, seen in [*self._seen.items()] if seen.since <= before}
        with contextlib.suppress(OSError):
            put(str(self._folder), _READ, msgspec.json.encode(read), temporary=f".{_READ}")

    def _clear(self, names: Iterable[str]) -> None:
        """Out of `out/`."""
        for name in names:
            with contextlib.suppress(OSError):
                (self._folder / "out" / name).unlink()

    def _take(self, done: Iterable[_Outgoing]) -> _Look:
        """Clear away what is done. Then the frames in files that have come, in the order of their names."""
        self._clear(item.name for item in done)
        now = time.monotonic()
        try:
            with os.scandir(self._folder / "in") as entries:
                present = {entry.name: entry for entry in itertools.islice(entries, _MOST_FILES)}
        except OSError as error:
            self._log.warning("read", f"the room of {self.peer} can't be read: {error}")
            return _Look([], more=False, size=0)
        for name in [name for name, seen in self._seen.items() if name not in present]:
            del self._seen[name]
        taken: list[frames.MeshFrame] = []
        size = fresh = 0
        for name in sorted(present):
            try:
                info = present[name].stat(follow_symlinks=False)
            except OSError:
                continue
            size += info.st_size
            if len(taken) >= _AT_ONCE or fresh >= _BYTES_AT_ONCE:
                continue
            if (frame := self._examine(present[name], info, now)) is not None:
                taken.append(frame)
                fresh += info.st_size
        return _Look(taken, more=len(taken) >= _AT_ONCE or fresh >= _BYTES_AT_ONCE, size=size)

    def _examine(self, entry: os.DirEntry[str], info: os.stat_result, now: float) -> frames.MeshFrame | None:
        """The frame in a file that is new. What is none goes to `rejected/`; what has lain for long goes.

        rsync writes under a name that begins with a dot, and leaves that behind when it is killed.
        """
        try:
            identity = (info.st_mtime_ns, info.st_size)
            seen = self._seen.get(entry.name)
            if seen is None or seen.identity != identity:
                frame = None if entry.name.startswith(".") else _frame(entry.path, info)
                self._seen[entry.name] = _Seen(identity, now)
                return frame
            # Since it came, not since it was read: else each restart would keep it. A clock that jumped costs a copy.
            lay = (time.time_ns() - info.st_ctime_ns) / 1e9
            if abs(lay) > _READ_S and now - seen.since > _HEARD_S:
                os.unlink(entry.path)  # noqa: PTH108 - an entry of scandir
        except FileNotFoundError:
            pass
        except (OSError, FrameError) as error:
            self._reject(entry, info, str(error))
        return None

    def _reject(self, entry: os.DirEntry[str], info: os.stat_result, why: str) -> None:
        self._log.warning("reject", f"rejected {entry.name} from {self.peer}: {why}")
        rejected = self._folder / "rejected"
        with contextlib.suppress(OSError):
            small = info.st_size <= _LARGEST_REJECTED
            if small and len(os.listdir(rejected)) < _MOST_REJECTED:  # noqa: PTH208 - names only
                os.rename(entry.path, rejected / f"{time.time_ns()}-{entry.name[:100]}")  # noqa: PTH104
            elif not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)  # noqa: PTH108


def _frame(path: str, info: os.stat_result) -> frames.MeshFrame:
    """What a regular file of bounded size holds; nothing else is opened. Raises `OSError` and `FrameError`."""
    if not stat.S_ISREG(info.st_mode):
        raise FrameError("it is no regular file")
    if info.st_size > LARGEST_PEER_FRAME:
        raise FrameError(f"it has {info.st_size} bytes")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FrameError("it is no regular file")
        frame = frames.decode_peer(stream.read(LARGEST_PEER_FRAME + 1))
    if not isinstance(frame, CARRIED):
        raise FrameError(f"a {type(frame).__name__.lower()} is nothing for the post")
    return frame
