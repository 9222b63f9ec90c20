"""A new store beside mailboxes that are filled: what lies in them has arrived once (rule 14), or was sent (rule 11).

An origin that sends it again, because it never got its receipt, gets one; and nobody gets anything twice.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from trishula.node import queries
from trishula.node.bounces import changed_at
from trishula.node.config import Config
from trishula.node.database import SqlRows, StoreError, connect
from trishula.node.drops import is_drop, is_text, stem
from trishula.node.files import TEMPORARY, content, move
from trishula.protocol.directory import Directory
from trishula.protocol.envelope import Key
from trishula.protocol.errors import MessageError
from trishula.protocol.ledger import apply
from trishula.protocol.message import digest_of, inspect
from trishula.protocol.names import PROBE
from trishula.protocol.records import Adopt

_LARGEST = 64 * 1024 * 1024
_PER_COMMIT = 256

log = logging.getLogger(__name__)


def take_stock(path: Path, config: Config, unknown: Collection[str]) -> list[str]:
    """Before anything runs: make the store at `path` and the mailboxes agree, where one of them is new.

    A new store learns what the mailboxes hold. An inbox that was missing or can't be used (`unknown`) gets the files of
    what is unread: their absence does not say that anybody has read them. What lies in an outbox that is new to the
    store is moved aside. Returns the agents whose outboxes may be sent from. Raises `StoreError`.
    """
    db = connect(path)
    try:
        queries.want_receipts(db, [agent.name for agent in config.agents.values() if agent.receipts])
        if unknown:
            queries.write_again(db, unknown)
        if db.execute("SELECT 1 FROM meta WHERE key = 'adopted' AND value = '0'").fetchone() is not None:
            _adopt(db, config)
        return [agent for agent in config.agents if _has_begun(db, agent, config.mailbox_dir / agent / "outbox")]
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


def _has_begun(db: sqlite3.Connection, agent: str, outbox: Path) -> bool:
    """Whether all that lies in this outbox is known, or came there since the store knows it (rule 11)."""
    key = f"outbox {agent}"
    if db.execute("SELECT 1 FROM meta WHERE key = ?", (key,)).fetchone() is not None:
        return True
    target = outbox / "aside" / datetime.now(UTC).date().isoformat()
    try:
        count = set_aside(db, agent, outbox, target)
    except OSError as error:
        log.error("nothing in %s is sent: what lies there can't be moved aside (%s)", outbox, error)  # noqa: TRY400
        return False
    db.execute("INSERT INTO meta VALUES (?, '1')", (key,))
    if count:
        log.warning("%d files that lay in the outbox of %s before are not sent: see %s", count, agent, target)
    return True


def set_aside(db: sqlite3.Connection, agent: str, outbox: Path, target: Path) -> int:
    """Move all files that would be sent into the folder `target`, but what the store knows. Says how many there were.

    Safe to be broken off, and begun again.
    """
    with os.scandir(outbox) as entries:
        names = [entry.name for entry in entries if is_drop(entry.name) and entry.is_file(follow_symlinks=False)]
    count = 0
    for name in names:
        known = queries.known(db, agent, [stem(name)]).get(stem(name))
        payload = content(f"{outbox}/{name}", known.size) if known is not None else None
        if known is not None and payload is not None and digest_of(payload) == known.digest:
            continue
        target.mkdir(0o770, parents=True, exist_ok=True)
        for number in itertools.count():
            with contextlib.suppress(FileExistsError):
                move(f"{outbox}/{name}", f"{target}/{name.removesuffix('.json')}{f'~{number}' if number else ''}.json")
                break
        count += 1
    return count


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
                    at=changed_at(changed),
                    read=read,
                    payload=None if read else payload,
                    file=file.name if not read and is_text(file.name) else "",
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
