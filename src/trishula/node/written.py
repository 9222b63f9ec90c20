"""What is in mailboxes already, found by content: what a crash left unmarked is not written twice (rule 12)."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from trishula.node.drops import is_text, names
from trishula.node.files import TEMPORARY, content
from trishula.node.queries import FileDue
from trishula.protocol.message import digest_of


class Written:
    """The files in `inbox/`, `outbox/` and `archive/`: the agent may have moved what we wrote."""

    def __init__(self, root: Path, agents: Iterable[str]) -> None:
        self._root = root
        self._agents = tuple(agents)
        self._scan()

    def find(self, file: FileDue) -> tuple[str, str] | None:
        """The box in which a file is already, and its name there."""
        found = self._find(file)
        if found is None and self._vanished:
            self._scan()  # the agent is moving files just now: look where they are going
            found = self._find(file)
        return found

    def _scan(self) -> None:
        """The inbox before the archive, so that what is moved between them is seen at least once."""
        self._by_size: dict[tuple[str, str, int], list[str]] = defaultdict(list)
        self._contents: dict[tuple[str, str, int], dict[str, str]] = {}
        self._vanished = False
        for agent in self._agents:
            for box in ("outbox", "inbox", "archive"):
                with contextlib.suppress(OSError), os.scandir(self._root / agent / box) as entries:
                    for entry in entries:
                        self._note(agent, box, entry)

    def _note(self, agent: str, box: str, entry: os.DirEntry[str]) -> None:
        try:
            if entry.is_file(follow_symlinks=False) and not entry.name.startswith(TEMPORARY) and is_text(entry.name):
                self._by_size[agent, box, entry.stat(follow_symlinks=False).st_size].append(entry.path)
        except OSError:
            self._vanished = True

    def _find(self, file: FileDue) -> tuple[str, str] | None:
        digest = digest_of(file.payload)
        for box in ("outbox",) if file.box == "outbox" else ("inbox", "archive"):
            path = self._read(file.agent, box, len(file.payload)).get(digest)
            if path is not None and box == "outbox" and Path(path).name not in names(file.id, file.sender, digest):
                return None  # a copy, which the agent has dropped
            if path is not None and os.path.lexists(path):
                return box, Path(path).name
            self._vanished = self._vanished or path is not None
        return None

    def _read(self, agent: str, box: str, size: int) -> dict[str, str]:
        """The files of one size by their digest. Each is read once: thousands may have the same size."""
        group = agent, box, size
        if group not in self._contents:
            contents: dict[str, str] = {}
            for path in self._by_size.get(group, ()):
                found = content(path, size)
                if found is None:
                    self._vanished = True
                else:
                    contents[digest_of(found)] = path
            self._contents[group] = contents
        return self._contents[group]
