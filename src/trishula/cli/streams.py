"""The standard streams of the command: closed, full or broken ones included.

What a command did stays done when its result can't be printed, and a script must be able to tell the two apart. So a
write to standard output that fails raises `Unprinted`, wherever it was printed from; standard error, which is the last
resort, never fails.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from trishula.protocol.errors import TrishulaError

_CLOSED = {0: os.O_WRONLY, 1: os.O_RDONLY, 2: os.O_RDONLY}
"""How /dev/null takes the place of a closed stream: so that using it fails, and no other file gets its number."""


class Unprinted(TrishulaError):  # noqa: N818 - reads as the fact that it is
    """Standard output takes no more. `fact`: what is done all the same, for standard error to say."""

    code = "unprinted"

    def __init__(self, reason: OSError, fact: str = "") -> None:
        self.reason = reason
        self.fact = fact
        why = "it is closed" if reason.errno == errno.EBADF else reason.strerror
        super().__init__(f"{fact and f'{fact}, but '}standard output can't be written ({why})")

    @property
    def reader_left(self) -> bool:
        """Whether there is nothing to say: who reads no further, as `head` does, wants no more."""
        return self.reason.errno == errno.EPIPE and not self.fact


class _Output(io.FileIO):
    """A descriptor whose failures are `Unprinted`."""

    def write(self, data: Any, /) -> int:
        try:
            return self._write(data)
        except OSError as error:
            raise Unprinted(error) from None

    def _write(self, data: Any) -> int:
        while True:
            written = cast("int | None", super().write(data))
            if written is not None:
                return written
            select.select([], [self], [])  # a parent has made our pipe non-blocking, and it is full


class _LastResort(_Output):
    """A descriptor that never fails."""

    def write(self, data: Any, /) -> int:
        try:
            return self._write(data)
        except OSError:
            return memoryview(data).nbytes


def take_over() -> None:
    """Make the process's own streams behave as this page says. Once, at the start of the program."""
    for number, flags in _CLOSED.items():
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free, which is this one
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)), encoding="utf-8")
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_LastResort(2, "w", closefd=False), sys.stderr, line_buffering=True)


def _text(raw: io.FileIO, before: TextIO | None, *, line_buffering: bool = False) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=(before and before.encoding) or "utf-8",
        errors="backslashreplace",  # a terminal that can't show a character gets its number instead of a traceback
        line_buffering=line_buffering or raw.isatty(),
    )


@contextlib.contextmanager
def after(fact: str, problem: TrishulaError | None = None) -> Iterator[None]:
    """Print here what became of something that is done; then raise `problem`.

    Where it can't be printed, `Unprinted` has the `fact`; a problem, which explains itself, comes first.
    """
    try:
        yield
        sys.stdout.flush()
    except Unprinted as lost:
        if problem is None:
            raise Unprinted(lost.reason, fact) from None
        print(f"trishula: {fact}", file=sys.stderr)
    if problem is not None:
        raise problem


def settle() -> None:
    """Print what is left; drop it where it can't be, for Python flushes once more at exit and must not fail."""
    try:
        sys.stdout.flush()
    except Unprinted:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
