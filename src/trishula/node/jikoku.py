"""The JIKOKU log: how long each send took, and which way it went, a JSON line each.

Lines go through a bounded queue to a thread, so no send ever waits for this file; what can't be written is counted, and
said as soon as something can.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from trishula.node.bounces import iso
from trishula.node.logs import Sparing
from trishula.node.methods import method_now, method_of
from trishula.node.wire import now
from trishula.protocol import effects
from trishula.protocol.envelope import State
from trishula.protocol.message import Message
from trishula.protocol.names import PROBE
from trishula.protocol.records import Progress

MOST_QUEUED = 10_000
MOST_BYTES = 16 * 1024 * 1024
"""Of one file; then it is FILE.1, and what was FILE.1 is FILE.2."""
KEEP = 5
_LAST_WORDS_S = 2.0

log = logging.getLogger(__name__)


class Submitter(Protocol):
    """Who submitted a message: hears of its fate."""

    def stored(self, effect: effects.Stored) -> None: ...

    def rejected(self, effect: effects.Rejected) -> None: ...


class _Timed:
    """Stands between a submitter and the hub."""

    __slots__ = ("_begun", "_log", "_route", "_session", "_submitter")

    def __init__(
        self, log: Jikoku, submitter: Submitter, session: str, begun: float, route: Callable[[str], str]
    ) -> None:
        self._log = log
        self._submitter = submitter
        self._session = session
        self._begun = begun
        self._route = route

    def stored(self, effect: effects.Stored) -> None:
        if effect.fresh:
            latency_ms = (now().mono - self._begun) * 1000
            for row in effect.progress:
                self._log.stored(row, self._session, self._route(row.dest), latency_ms)
        self._submitter.stored(effect)

    def rejected(self, effect: effects.Rejected) -> None:
        self._submitter.rejected(effect)


class Jikoku:
    """One file, written by a thread of its own from `start` to `stop`."""

    def __init__(
        self, path: Path, *, most_bytes: int = MOST_BYTES, keep: int = KEEP, most_queued: int = MOST_QUEUED
    ) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._keep = keep
        self._queue: queue.Queue[bytes | None] = queue.Queue(most_queued)
        self._session = uuid.uuid4().hex
        """For messages that name no session of their own: this run of the node."""
        self.dropped = 0
        """Lines that nobody will ever read."""
        self._unsaid = 0
        self._log = Sparing(log)
        self._thread = threading.Thread(target=self._write_forever, name="jikoku", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued, unless that takes too long."""
        try:
            self._queue.put(None, timeout=_LAST_WORDS_S)
            self._thread.join(_LAST_WORDS_S)
        except queue.Full:
            pass

    def timed(self, submitter: Submitter, message: Message, begun: float, route: Callable[[str], str]) -> Submitter:
        """In place of `submitter`: what it hears is noted. `begun` (monotonic) is when the send was called."""
        return _Timed(self, submitter, _session_of(message), begun, route)

    def stored(self, row: Progress, session: str, route: str, latency_ms: float) -> None:
        """A message is stored, `latency_ms` after the call that sent it; `route` is the way that it goes now."""
        took = {"latency_ms": round(latency_ms, 3)}
        self._say("trishula_send", row, row.stored_at, session, method_now(route), route, took)

    def settled(self, row: Progress) -> None:
        """The first word on a message, or that there will be none."""
        delivered = row.state in (State.DELIVERED, State.READ) and row.latency_ms is not None
        took = {"delivered_ms": round(row.latency_ms or 0.0, 3) if delivered else None}
        self._say("trishula_receipt", row, row.settled_at or 0, "", method_of(row.route), row.route, took)

    def _say(
        self,
        event: str,
        row: Progress,
        at: int,
        session: str,
        method: str,
        route: str,
        took: Mapping[str, float | None],
    ) -> None:
        if row.key.sender == PROBE:
            return
        line = {
            "timestamp": iso(at),
            "span_type": "TRISHULA_SEND",
            "event": event,
            "session_id": session or self._session,
            "agent": row.key.sender,
            "to": row.key.to,
            "message_id": row.key.id,
            "method": method or None,
            "route": route or None,
            **took,
            "status": row.state.value,
        }
        try:
            self._queue.put_nowait(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        except queue.Full:
            self._drop(1, "more is sent than it can take")

    # ------------------------------------------------------------ the thread

    def _write_forever(self) -> None:
        more = True
        while more:
            lines, more = self._waiting()
            self._write(lines)

    def _waiting(self) -> tuple[list[bytes], bool]:
        """All that is queued, at least one line; and whether more may follow."""
        lines = []
        line = self._queue.get()
        while line is not None:
            lines.append(line)
            try:
                line = self._queue.get_nowait()
            except queue.Empty:
                return lines, True
        return lines, False

    def _write(self, lines: list[bytes]) -> None:
        """The file is opened anew each time, so it may be moved or removed."""
        if not lines:
            return
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o640)
            try:
                if self._unsaid:
                    lines = [self._confession(), *lines]
                size = os.fstat(descriptor).st_size
                self._append(descriptor, b"".join(lines), size)
            finally:
                os.close(descriptor)
            self._unsaid = 0
            if size + sum(map(len, lines)) >= self._most_bytes:
                self._rotate()
        except OSError as error:
            self._drop(len(lines), error.strerror or str(error))

    @staticmethod
    def _append(descriptor: int, block: bytes, size: int) -> None:
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            os.ftruncate(descriptor, size)  # half a line would spoil the next one
            raise

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))

    def _confession(self) -> bytes:
        at = iso(time.time_ns() // 1_000_000)
        line = {"timestamp": at, "span_type": "TRISHULA_SEND", "event": "trishula_lines_lost", "count": self._unsaid}
        return json.dumps(line).encode() + b"\n"

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        self._unsaid += count
        self._log.warning("jikoku", f"{self._path}: {self.dropped} lines could not be written so far: {why}")


_head = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _session_of(message: Message) -> str:
    """What the message itself calls its session."""
    if b'"session_id"' not in message.payload:
        return ""
    session = msgspec.json.decode(_head.decode(message.payload).get("session_id", b'""'))
    return session if isinstance(session, str) else ""
