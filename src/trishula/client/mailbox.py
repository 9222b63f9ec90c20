"""The files of an agent, for who reads and writes them itself: they are there when the node is not."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trishula.client.message import Message, Meta
from trishula.protocol.message import Message as Fixed
from trishula.protocol.message import digest_of, id_of_file

MAILBOX_VARIABLE = "TRISHULA_MAILBOX"
DEFAULT_MAILBOX = "~/trishula"

FILE_FALLBACK = "file_fallback"
_LAST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""What can be said of when a file was changed: it may have any time."""


class Mailbox:
    """A folder with `inbox/`, `outbox/` and `archive/`: `path`, else what TRISHULA_MAILBOX says, else ~/trishula."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path or os.environ.get(MAILBOX_VARIABLE) or DEFAULT_MAILBOX).expanduser()
        self._known: dict[str, tuple[tuple[int, int, int], Message | None]] = {}
        """What was read from each file, and what the file was then."""

    def messages(self) -> dict[str, Message]:
        """The files in `inbox/` that hold a message, by name, the oldest first. What is half-written is left out."""
        found: list[tuple[int, str, Message]] = []
        known = self._known
        self._known = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path / "inbox") as entries:
            for entry in entries:
                if not entry.name.endswith(".json") or entry.name.startswith("."):
                    continue
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    mark = (status.st_ino, status.st_mtime_ns, status.st_size)
                    read = known.get(entry.name)
                    if read is None or read[0] != mark:
                        read = (mark, _read(Path(entry.path), status))
                    self._known[entry.name] = read
                    if read[1] is not None:
                        found.append((status.st_mtime_ns, entry.name, read[1]))
        return {name: message for _, name, message in sorted(found, key=lambda item: item[:2])}

    def drop(self, message: Fixed) -> Path:
        """Put a message into `outbox/`, whole: its node sends it as soon as it can, once."""
        target = self.path / "outbox" / f"{message.id}.json"
        temporary = target.with_name(f".{uuid.uuid4()}.tmp")
        try:
            with temporary.open("xb") as file:
                os.fchmod(file.fileno(), 0o660)  # the node reads it by the folder's group, whatever our umask
                file.write(message.payload)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def archive(self, name: str) -> bool:
        """This file is handled: out of `inbox/`, which is `done` to the node. False where it is not there any more."""
        source, folder = self.path / "inbox" / name, self.path / "archive"
        stem = name.removesuffix(".json")
        for target in (folder / name, folder / f"{stem}~{uuid.uuid4().hex[:8]}.json"):
            with contextlib.suppress(FileExistsError):
                try:
                    os.link(source, target, follow_symlinks=False)  # which, unlike a rename, never replaces
                except FileNotFoundError:
                    return False
                source.unlink(missing_ok=True)
                return True
        return False


def _read(path: Path, status: os.stat_result) -> Message | None:
    if not stat.S_ISREG(status.st_mode):
        return None
    raw = path.read_bytes()
    try:
        fields: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    message = Message(fields)
    message.setdefault("from", "")
    if "id" not in message:
        # Where the node takes in what is unsigned, it calls it so.
        message["id"] = id_of_file(str(message["from"]), path.name, status.st_mtime_ns, raw)
    message.raw = raw.strip()
    message.meta = Meta(
        from_node="",
        route="file",
        method=FILE_FALLBACK,
        received_at=datetime.fromtimestamp(min(max(status.st_mtime, 0), _LAST), UTC),
        digest=digest_of(raw),
    )
    return message
