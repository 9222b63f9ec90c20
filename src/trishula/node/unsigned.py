"""What a host that is not yet in the mesh puts straight into an inbox: shown once, marked, and never acknowledged."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from trishula.node import drops
from trishula.node.bounces import changed_at
from trishula.node.config import Config
from trishula.node.drops import Mark
from trishula.protocol.envelope import Key
from trishula.protocol.errors import MessageError
from trishula.protocol.names import is_agent
from trishula.protocol.records import UNSIGNED, Adopt

_QUIET_S = 10.0
"""A file that is no message, and was left alone for so long, will never be one."""
_TRIES = 2

log = logging.getLogger(__name__)


class Unsigned:
    """Reads files of unknown origin, each once for as long as it does not change."""

    def __init__(self, config: Config) -> None:
        self._directory = config.directory()
        self._limits = config.limits
        self._known: dict[str, dict[str, Mark]] = {agent: {} for agent in config.agents}
        self._tried: Counter[tuple[str, str, Mark]] = Counter()
        """How often each file was handed over: on a full disk nothing came of it."""

    def find(self, agent: str, inbox: Path, names: Iterable[str]) -> tuple[list[Adopt], bool]:
        """The messages among these files, the oldest first; and whether to look again."""
        known = self._known[agent]
        names = {name for name in names if drops.is_drop(name) and drops.is_text(name)}
        for name in known.keys() - names:
            del known[name]
        for key in [key for key in self._tried if key[0] == agent and key[1] not in names]:
            del self._tried[key]
        found: list[Adopt] = []
        unfinished = False
        for name in names:
            try:
                mark = drops.mark_of(status := os.lstat(inbox / name))
                if known.get(name) == mark:
                    continue
                raw = drops.read(str(inbox / name), mark) if self._is_one(status) else b""
            except OSError:
                raw = None
            if raw is None or (raw and not drops.is_object(raw) and time.time() - mark.mtime_ns / 1e9 < _QUIET_S):
                unfinished = True
                continue
            messages = self._message(agent, name, mark, raw)
            self._tried[agent, name, mark] += 1
            if messages and self._tried[agent, name, mark] <= _TRIES:
                found += messages
                unfinished = True
            else:
                del self._tried[agent, name, mark]
                known[name] = mark
        return sorted(found, key=lambda record: record.at), unfinished

    def _is_one(self, status: os.stat_result) -> bool:
        return stat.S_ISREG(status.st_mode) and status.st_size <= self._limits.max_message_bytes

    def _message(self, agent: str, name: str, mark: Mark, raw: bytes) -> list[Adopt]:
        """Laid out as its sender's node would: should it come signed as well, it is the same message."""
        sender = drops.sender_of(raw)
        if not is_agent(sender):
            return []
        try:
            message = drops.finish(sender, name, mark, raw, most=self._limits.max_message_bytes)
        except MessageError as error:
            log.warning("%s in the inbox of %s is left alone: %s", name, agent, error)
            return []
        at = changed_at(mark.mtime_ns)
        return [
            Adopt(
                key=Key(sender, message.id, agent),
                digest=message.digest,
                origin=self._directory.home(sender) or "",
                expires_at=time.time_ns() // 1_000_000 + self._limits.max_ttl,
                at=at,
                read=False,
                payload=message.payload,
                file=name,
                route=UNSIGNED,
            )
        ]
