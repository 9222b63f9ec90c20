"""Notices that agents have moved or removed files from their inboxes: that says `done` as well as `done` does.

The folders are looked at each second, and listed where they have changed. What is gone is what the store says was
written, by name, and is not there: it is asked first, so that a file which is just being written is not missed. What is
there and was not sent here is left alone, or taken in unsigned, as the configuration says.

An inbox that is another folder than before says nothing of what was read: what is unread is written there again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from trishula.node import queries
from trishula.node.database import StoreError
from trishula.node.hub import Hub
from trishula.node.mailbox import Projector
from trishula.node.store import Store
from trishula.node.unsigned import Unsigned

_EVERY_S = 1.0
_REST = 10.0
"""A look that took long is followed by so many times its own duration of rest: a huge inbox is looked at less often."""
_AT_ONCE = 1000
_SETTLED_NS = 2_000_000_000
"""A folder that changed a shorter time ago may change again under the same time stamp."""

log = logging.getLogger(__name__)


class Inboxes:
    """The inboxes of the agents here."""

    def __init__(
        self,
        mailbox_dir: Path,
        agents: Iterable[str],
        store: Store,
        projector: Projector,
        hub: Hub,
        unsigned: Unsigned | None = None,
    ) -> None:
        """`unsigned` reads what is there and was not sent here; without it, that is left alone."""
        self._folders = {agent: mailbox_dir / agent / "inbox" for agent in agents}
        self._store = store
        self._projector = projector
        self._hub = hub
        self._unsigned = unsigned
        self._seen: dict[str, int] = {}
        """When each folder had last changed when it was last looked at."""
        self._which: dict[str, tuple[int, int]] = {}
        """Which folder each is, by device and inode."""
        self._rest_until = dict.fromkeys(self._folders, 0.0)

    async def run(self) -> None:
        """For ever."""
        while True:
            changes = await asyncio.to_thread(self._changes)
            for agent, (changed, folder) in changes.items():
                if self._which.setdefault(agent, folder) != folder:
                    await self._fill_anew(agent, folder)
                    continue
                begun = time.monotonic()
                if begun < self._rest_until[agent]:
                    continue
                if self._seen.get(agent) != changed or agent in self._projector.marked:
                    await self._look(agent, changed)
                    self._rest_until[agent] = time.monotonic() + _REST * (time.monotonic() - begun)
            await asyncio.sleep(_EVERY_S)

    async def _fill_anew(self, agent: str, folder: tuple[int, int]) -> None:
        try:
            await self._store.write(partial(queries.write_again, agents=[agent]))
        except StoreError:
            return  # and looked at again
        self._which[agent] = folder
        self._projector.wake()
        log.warning("the inbox of %s is another folder than before: what is unread is written there again", agent)

    async def _look(self, agent: str, changed: int) -> None:
        self._projector.marked.discard(agent)
        self._seen.pop(agent, None)
        try:
            files = await self._store.read(partial(queries.inbox_files, agent=agent))
        except StoreError:
            return
        try:
            present = await asyncio.to_thread(lambda: set(os.listdir(self._folders[agent])))  # noqa: PTH208 - names only
            which = _identity(await asyncio.to_thread(self._folders[agent].stat))
            if which != self._which.setdefault(agent, which):
                return  # it was put in its place just now
        except OSError:
            return  # a folder that can't be read says nothing
        gone = [file for file in files if file.archived or file.file not in present]
        for start in range(0, len(gone), _AT_ONCE):
            for file in gone[start : start + _AT_ONCE]:
                self._hub.done(None, agent, file.id, file.sender)
            await asyncio.sleep(0)
        unfinished = await self._adopt(agent, present.difference(file.file for file in files))
        # What was said to be done may not have been noted, on a full disk for one: look again.
        if not gone and not unfinished and time.time_ns() - changed > _SETTLED_NS:
            self._seen[agent] = changed

    async def _adopt(self, agent: str, names: set[str]) -> bool:
        """Take in what others have put there. Says whether to look again."""
        if self._unsigned is None or self._store.problem:
            return self._unsigned is not None
        records, unfinished = await asyncio.to_thread(self._unsigned.find, agent, self._folders[agent], names)
        for number, record in enumerate(records, 1):
            self._hub.adopt(record)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return unfinished

    def _changes(self) -> dict[str, tuple[int, tuple[int, int]]]:
        """When each folder has last changed, and which one it is."""
        changes = {}
        for agent, folder in self._folders.items():
            try:
                status = folder.stat()
                changes[agent] = status.st_mtime_ns, _identity(status)
            except OSError:
                self._seen.pop(agent, None)
        return changes


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
