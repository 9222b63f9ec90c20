"""A new store beside mailboxes that are filled: what lies in them has arrived once (rule 14).

An origin that sends it again, because it never got its receipt, gets one; and nobody gets anything twice.
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from trishula.node import queries
from trishula.node.config import Config
from trishula.node.database import SqlRows, StoreError, connect
from trishula.node.files import TEMPORARY, content
from trishula.protocol.directory import Directory
from trishula.protocol.envelope import Key
from trishula.protocol.errors import MessageError
from trishula.protocol.ledger import apply
from trishula.protocol.message import inspect
from trishula.protocol.names import PROBE
from trishula.protocol.records import Adopt

_LARGEST = 64 * 1024 * 1024
_PER_COMMIT = 256

log = logging.getLogger(__name__)


def take_stock(path: Path, config: Config, without_inbox: Collection[str]) -> None:
    """Before anything runs: make the store at `path` and the mailboxes agree, where one of them is new.

    A new store learns what the mailboxes hold; an inbox that is new gets the files of what is unread: their absence
    does not say that anybody has read them. Raises `StoreError`.
    """
    db = connect(path)
    try:
        if without_inbox:
            queries.write_again(db, without_inbox)
        if db.execute("SELECT 1 FROM meta WHERE key = 'adopted' AND value = '0'").fetchone() is not None:
            _adopt(db, config)
    except sqlite3.Error as error:
        raise StoreError(f"{path} can't be written: {error}", fix="see the disk of this host") from None
    finally:
        db.close()


def _adopt(db: sqlite3.Connection, config: Config) -> None:
    """Safe to be broken off, and begun again."""
    now = time.time_ns() // 1_000_000
    found = found_in(config.mailbox_dir, config.agents, config.directory(), now + config.limits.max_ttl)
    count = 0
    while batch := list(itertools.islice(found, _PER_COMMIT)):
        db.execute("BEGIN IMMEDIATE")
        for record in batch:
            apply(SqlRows(db), record)
        db.execute("COMMIT")
        count += len(batch)
    db.execute("UPDATE meta SET value = '1' WHERE key = 'adopted'")
    if count:
        log.warning("the store is new, the mailboxes are not: %d messages in them are taken as delivered before", count)


def found_in(mailbox_dir: Path, agents: Iterable[str], directory: Directory, expires_at: int) -> Iterator[Adopt]:
    """A record for each message in an inbox (unread, the oldest first) or an archive (read)."""
    for agent in agents:
        for box in ("inbox", "archive"):
            for changed, file in _files(mailbox_dir / agent / box):
                payload = content(str(file), _LARGEST)
                if payload is None:
                    continue
                try:
                    message = inspect(payload, max_bytes=_LARGEST)
                except MessageError:
                    continue
                origin = directory.home(message.sender)
                if origin is None or message.sender == PROBE:
                    continue
                read = box == "archive"
                yield Adopt(
                    key=Key(message.sender, message.id, agent),
                    digest=message.digest,
                    origin=origin,
                    expires_at=expires_at,
                    at=changed // 1_000_000,
                    read=read,
                    payload=None if read else payload,
                    file="" if read else file.name,
                )


def _files(folder: Path) -> list[tuple[int, Path]]:
    """With the times of their last change, in ns since 1970, in that order."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry.stat(follow_symlinks=False).st_mtime_ns, Path(entry.path))
                for entry in entries
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith(TEMPORARY)
            )
    except OSError as error:
        log.warning("what is in %s can't be taken into account: %s", folder, error)
        return []
