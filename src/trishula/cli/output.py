"""What the command prints: JSON for programs, tables and plain sentences for people."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reorder what stands beside them."""
_LINES = frozenset("\u2028\u2029")


def print_json(value: Any) -> None:
    """One line of JSON, in ASCII: whatever a message holds, it stays one line on every terminal and in every log."""
    print(json.dumps(value), flush=True)


def visible(text: str, *, lines: bool = False) -> str:
    r"""Text of strangers, made safe for a terminal: what would act on it is shown as \x1b or \u202e.

    With `lines`, line feeds and tabs do what they are there for.
    """
    return "".join(char if char.isprintable() or (lines and char in "\n\t") else _shown(char) for char in text)


def _shown(char: str) -> str:
    harmless = unicodedata.category(char) in ("Cf", "Zs") and char not in _DIRECTION
    return char if harmless and char not in _LINES else char.encode("unicode_escape").decode()


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> None:
    """Columns as wide as what is in them; those numbered in `right` are flushed right."""
    cells = [list(head), *([visible(str(cell)) for cell in row] for row in rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        padded = [
            " " * (width - _width(cell)) + cell if column in right else cell + " " * (width - _width(cell))
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(padded).rstrip())


def clock(ms: int) -> str:
    """A moment for people, in their own time zone."""
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().isoformat(" ", "seconds")


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def age(seconds: float) -> str:
    """A span of time for people, in its largest unit: `3 min`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def bounced_line(agent: str, bounced: dict[str, Any], *, now: float) -> str:
    """What an agent has in `bounced/`, in a line. `now` is in ms since 1970."""
    count, oldest = bounced["count"], age((now - (bounced["oldest"] or now)) / 1000)
    are = "1 file" if count == 1 else f"{count} files"
    return f"{are} in bounced/ of {agent}, the oldest for {oldest}: {bounced['reason']}; `trishula bounced` lists them"


def size(count: int) -> str:
    """Bytes for people: `1.5 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:  # noqa: PLR2004 - what the units mean
            return f"{value:.0f} {unit}" if unit == "B" or value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _width(text: str) -> int:
    """Columns on a terminal, near enough."""
    return sum(
        0
        if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(char) in "WF"
        else 1
        for char in text
    )
