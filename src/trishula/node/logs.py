"""One line per event on stderr, never a traceback for what a stranger did, never a flood."""

from __future__ import annotations

import logging
import os
import sys
import time

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _Line(logging.Formatter):
    """A line for the journal, with its priority (sd-daemon(3)), or one with the time for a terminal."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        shown = "\n".join(map(safe, text.split("\n"))) if record.exc_info else safe(text.replace("\n", " | "))
        return f"<{_PRIORITY.get(record.levelno, 6)}>{shown}" if self._journal else shown


def safe(text: str) -> str:
    """What comes from outside must not forge a second line or steer a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def set_up(level: int = logging.INFO) -> None:
    """Log to stderr from here on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(journal="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # What the library knows of a bad handshake we say ourselves, with the address.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)


class Sparing:
    """Says the same thing about the same subject once in `every` seconds, and how often it was meant."""

    _MOST_SUBJECTS = 1000

    def __init__(self, log: logging.Logger, every: float = 10.0, level: int = logging.WARNING) -> None:
        self._log = log
        self._every = every
        self._level = level
        self._said: dict[str, tuple[float, int]] = {}

    def warning(self, subject: str, message: str) -> None:
        """As `say`: of what is set up with the level of a warning."""
        self.say(subject, message)

    def say(self, subject: str, message: str) -> None:
        now = time.monotonic()
        last, held_back = self._said.get(subject, (-self._every, 0))
        if now - last < self._every:
            self._said[subject] = (last, held_back + 1)
            return
        if len(self._said) >= self._MOST_SUBJECTS:
            self._said.clear()
        self._said[subject] = (now, 0)
        self._log.log(self._level, "%s%s", message, f" ({held_back} more like it since)" if held_back else "")


class Bounded:
    """Says up to `most` things in `every` seconds, then how many it held back: for what a peer can cause at will."""

    def __init__(self, log: logging.Logger, most: int = 50, every: float = 10.0) -> None:
        self._log = log
        self._most = most
        self._every = every
        self._since = -every
        self._said = 0

    def warning(self, message: str) -> None:
        now = time.monotonic()
        if now - self._since >= self._every:
            if self._said > self._most:
                self._log.warning("%d more warnings were held back", self._said - self._most)
            self._since, self._said = now, 0
        self._said += 1
        if self._said <= self._most:
            self._log.warning("%s", message)
