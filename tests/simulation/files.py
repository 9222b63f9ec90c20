"""The mailbox folders of one host: they outlive its process and its store, and what was not synced is at risk."""

from __future__ import annotations

from random import Random

INBOX = "inbox"
ARCHIVE = "archive"

File = tuple[str, str]
"""The agent whose file it is, and the SHA-256 of what is in it."""


class Mailboxes:
    """Where each file lies. An agent moves files from its inbox to its archive and deletes none."""

    def __init__(self) -> None:
        self.boxes: dict[File, str] = {}
        self.contents: dict[str, bytes] = {}
        self._synced: dict[File, str | None] = {}
        """Of what was touched since the last sync: where it lay then."""

    def write(self, file: File, content: bytes, box: str) -> None:
        self._synced.setdefault(file, self.boxes.get(file))
        self.boxes[file] = box
        self.contents[file[1]] = content

    def archive(self, file: File) -> None:
        self._synced.setdefault(file, self.boxes.get(file))
        self.boxes[file] = ARCHIVE

    def inbox(self, agent: str) -> list[File]:
        return [file for file, box in self.boxes.items() if box == INBOX and file[0] == agent]

    def sync(self) -> None:
        self._synced.clear()

    def power_cut(self, random: Random) -> None:
        """Some of what was not synced is as it was before."""
        for file, former in self._synced.items():
            if random.random() < 0.5:
                if former is None:
                    del self.boxes[file]
                else:
                    self.boxes[file] = former
        self._synced.clear()
