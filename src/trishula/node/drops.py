"""One file that an agent dropped into its outbox: what it is, what becomes of it, and how it leaves again.

What the node adds is a function of the file (rule 11): who finds the file again finds the same message.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import shlex
import stat
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from trishula.node.bounces import changed_at, iso, reason_file
from trishula.node.files import move, put
from trishula.protocol.errors import MessageError, TrishulaError, TruncatedError
from trishula.protocol.message import Message, complete, digest_of, id_of_file

TAKEN = ".taken-"
"""How the name of a dropped file begins while it is being removed."""

REASON = ".reason.json"
"""How the name of the file ends that says why a dropped file was not sent."""

SETTLED_NS = 2_000_000_000
"""A folder that changed a shorter time ago may change again under the same time stamp."""
_LINE_ENDS = 16
QUIET_S = 2.0
"""So long a file that is no message must have been left alone to be one that will never be."""
_REST_MAY_COME_S = 35.0
"""So long after its last change the beginning of a message may still be gone on with."""
_LARGEST = 64 * 1024 * 1024
_any = msgspec.json.Decoder()


class Mark(NamedTuple):
    """What tells whether a file is still the one that was read."""

    inode: int
    mtime_ns: int
    size: int


def mark_of(status: os.stat_result) -> Mark:
    return Mark(status.st_ino, status.st_mtime_ns, status.st_size)


class Known(NamedTuple):
    """What the store has under an id."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class History:
    """The node wrote it, of a message that is stored; or it is none of ours: a folder, a link, a pipe."""

    name: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Gone:
    """It is not there, or changes just now."""

    name: str
    again: bool


@dataclass(frozen=True, slots=True)
class Unfinished:
    """It may still be written; `error` is what there is to say if not."""

    name: str
    mark: Mark
    error: TrishulaError

    @property
    def patience(self) -> float:
        """Seconds for which it must be left alone from now on to be given up."""
        if not isinstance(self.error, TruncatedError):
            return QUIET_S
        age = time.time() - self.mark.mtime_ns / 1e9
        return max(QUIET_S, min(_REST_MAY_COME_S - age, _REST_MAY_COME_S))


@dataclass(frozen=True, slots=True)
class Bad:
    """It is whole and can't be sent."""

    name: str
    mark: Mark
    error: TrishulaError


@dataclass(frozen=True, slots=True)
class Ready:
    """A message."""

    name: str
    mark: Mark
    raw: bytes
    message: Message


Seen = History | Gone | Unfinished | Bad | Ready


def is_text(name: str) -> bool:
    """Whether the name of a file is text, and not any bytes: only then the store can keep it."""
    return text_of(name) == name


def text_of(name: str) -> str:
    """The name, or what can be written in place of one that is any bytes."""
    return name.encode("utf-8", "backslashreplace").decode()


def is_drop(name: str) -> bool:
    """Whether a file of this name is meant to be sent."""
    return name.endswith(".json") and not name.startswith(".")


def stem(name: str) -> str:
    """The id of the message whose file this would be, had the node written it."""
    return text_of(name).removesuffix(".json").partition("~")[0]


def names(message_id: str, sender: str, digest: str) -> tuple[str, str, str]:
    """What the node calls the file of a message, best first (rule 12)."""
    return f"{message_id}.json", f"{message_id}~{sender}.json", f"{message_id}~{sender}~{digest[:16]}.json"


def look(folder: str, agent: str, name: str, known: Known | None, *, most: int) -> Seen:
    """What the file is. `known` is what the store has under the id in its name, `most` the limit of a message."""
    path = f"{folder}/{name}"
    own = None
    mark = Mark(0, 0, 0)  # of a folder that may not be searched
    try:
        mark = mark_of(status := os.lstat(path))
        if not stat.S_ISREG(status.st_mode):
            return History(name, mark)
        own = known if known is not None and known.size == mark.size else None
        raw = read(path, mark) if own is not None or mark.size <= most else b""
    except PermissionError as error:
        text = f"it can't be read: {error.strerror}"
        return Unfinished(name, mark, MessageError(text, code="unreadable", fix=_let_read(folder, name)))
    except OSError as error:
        return Gone(name, again=error.errno != errno.ENOENT)
    if raw is None:
        return Gone(name, again=True)
    if own is not None and digest_of(raw) == own.digest:
        return History(name, mark)
    return _judge(agent, name, mark, raw, most)


def _let_read(folder: str, name: str) -> str:
    """What makes a file readable to the node: `mkstemp` makes it 0600, and in a folder with another group."""
    file = shlex.quote(text_of(name))
    with contextlib.suppress(OSError, KeyError):
        group = os.stat(folder).st_gid  # noqa: PTH116 - as above
        if os.lstat(f"{folder}/{name}").st_gid != group:
            return f"chgrp {grp.getgrgid(group).gr_name} {file} && chmod g+r {file}"
    return f"chmod g+r {file}"


def _judge(agent: str, name: str, mark: Mark, raw: bytes, most: int) -> Seen:
    if mark.size > most:
        return Bad(name, mark, _too_large(mark.size, most))
    try:
        return Ready(name, mark, raw, finish(agent, name, mark, raw, most=most))
    except MessageError as error:
        return Bad(name, mark, error) if is_object(raw) else Unfinished(name, mark, error)


def finish(agent: str, name: str, mark: Mark, raw: bytes, *, most: int) -> Message:
    """The message in a dropped file, whatever is missing filled in. Raises `MessageError`."""
    return complete(
        raw,
        sender=agent,
        new_id=id_of_file(agent, text_of(name), mark.mtime_ns, raw),
        timestamp=iso(changed_at(mark.mtime_ns)),
        max_bytes=most,
    )


def is_draft(folder: str, agent: str, name: str, payload: bytes) -> bool:
    """Whether the file there, finished, is the message with this payload: its place is the message's own."""
    seen = look(folder, agent, name, None, most=_LARGEST)
    return isinstance(seen, Ready) and (seen.message.payload == payload or seen.message.is_again(payload))


def remove(folder: str, name: str, mark: Mark, raw: bytes) -> bool:
    """Remove a dropped file, if it is still what was read; else it stays. Says whether it has gone.

    With another end of its last line it is still that: its writer had not quite finished.
    """
    path = f"{folder}/{name}"
    taken = f"{folder}/{TAKEN}{name}"
    try:
        now = mark_of(os.lstat(path))
        if now != mark and not (now.inode == mark.inode and _is_still(path, now, raw)):
            return False
        os.rename(path, taken)  # noqa: PTH104 - once for every drop
    except FileNotFoundError:
        return True
    if mark_of(os.lstat(taken)) == now:
        os.unlink(taken)  # noqa: PTH108 - see above
        return True
    give_back(folder, name)
    return False


def give_back(folder: str, name: str) -> None:
    """What was taken is not what was read, or nobody knows: it is in the outbox again."""
    taken = f"{folder}/{TAKEN}{name}"
    try:
        move(taken, f"{folder}/{name}")
    except FileExistsError:  # another has its name meanwhile, and both are to be sent
        move(taken, f"{folder}/{name.removesuffix('.json')}~{os.lstat(taken).st_ino}.json")


def bounce(mailbox: str, agent: str, name: str, mark: Mark, error: TrishulaError, *, at: int) -> bool:
    """Move what can't be sent to `bounced/`, the reason beside it. Says whether it was still what was read."""
    source = f"{mailbox}/outbox/{name}"
    try:
        if mark_of(os.lstat(source)) != mark:
            return False
    except FileNotFoundError:
        return True
    bounced = f"{mailbox}/bounced"
    target = name
    if any(os.path.lexists(f"{bounced}/{taken}") for taken in (name, name + 2 * REASON)):
        target = f"{name.removesuffix('.json')}~{mark.mtime_ns}.json"
    # The reason comes first: a crash in between leaves the file where it is found again.
    explain(bounced, agent, target, mark, error, at=at)
    with contextlib.suppress(FileNotFoundError):
        move(source, f"{bounced}/{target}")
    return True


def explain(bounced: str, agent: str, name: str, mark: Mark, error: TrishulaError, *, at: int) -> None:
    """Write beside the file `name` in `bounced/` why it was not sent."""
    reason = reason_file(agent, name, mark.size, mark.mtime_ns, error, at)
    put(bounced, name + REASON, reason, temporary=f"drop-{mark.inode}")


def read(path: str, mark: Mark) -> bytes | None:
    """The whole of a regular file; None where it is not the one with this mark."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as stream:  # noqa: PTH123 - a descriptor, no path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        raw = stream.read(mark.size + 1)
        # What is written while it is read would be a message that nobody wrote.
        return raw if mark_of(os.fstat(descriptor)) == mark and len(raw) == mark.size else None


def is_object(raw: bytes) -> bool:
    """Whether these bytes are a whole JSON object, good or bad."""
    return isinstance(_decoded(raw), dict)


def _is_still(path: str, mark: Mark, raw: bytes) -> bool:
    return mark.size <= len(raw) + _LINE_ENDS and (read(path, mark) or b"").strip() == raw.strip()


def sender_of(raw: bytes) -> str:
    """Whom a message says it is from, or nothing."""
    value = _decoded(raw)
    sender = value.get("from") if isinstance(value, dict) else None
    return sender if isinstance(sender, str) else ""


def _decoded(raw: bytes) -> Any:
    try:
        return _any.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        return None


def _too_large(size: int, most: int) -> MessageError:
    return MessageError(
        f"the file has {size} bytes, the limit is {most}",
        code="too_large",
        key="max_message_bytes",
        value=size,
        fix="send a reference to a file instead, or raise limits.max_message_bytes on every node",
    )
