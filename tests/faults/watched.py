"""A stream whose hosts' journals are read as they are written: when a link went down, and when it came up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from faults.stream import Stream, Teller
from topology.nodes import SERVICE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from topology.nodes import Node

End = tuple[str, str]
"""A node, and the one that it is linked to."""

_LINK = re.compile(r"link (?:to|from) (\S+) (up|down|closed)\b")
_MEANS = {"up": "up", "down": "down", "closed": "down"}

# Asks again and again: `journalctl --follow` at times sleeps on the last lines until somebody writes the next. Ends
# with its stdin, since what ssh has started outlives it.
_JOURNAL = f"""
cursor=$(mktemp)
while journalctl --cursor-file="$cursor" --quiet --output=json --output-fields=MESSAGE --unit={SERVICE}; do
  read -r -t 0.2 _
  [ $? -gt 128 ] || break
done
rm "$cursor"
"""


class WatchedStream(Stream):
    """Writes often, and is asked for moments."""

    def __init__(self, mesh: Mapping[str, Node]) -> None:
        self._journals = {name: Teller(node, "root", "bash", "-c", _JOURNAL) for name, node in mesh.items()}
        super().__init__(mesh, every_s=0.1)

    def _tellers(self) -> dict[str, Teller]:
        return super()._tellers() | {f"the journal of {name}": teller for name, teller in self._journals.items()}

    def wait_until(self, what: Literal["up", "down"], ends: Iterable[End], since: float, *, within: float) -> float:
        """When the last of these ends wrote to its journal, after `since`, that its link is up or down."""

        def moments() -> list[float] | None:
            found = [self._first(what, *end, since) for end in ends]
            return None if None in found else found

        return max(eventually(moments, within=within))

    def _first(self, what: str, node: str, peer: str, since: float) -> float | None:
        for line in self._journals[node].said:
            at = int(line["__REALTIME_TIMESTAMP"]) / 1e6
            if at > since and (said := _LINK.match(line["MESSAGE"])) and (said[1], _MEANS[said[2]]) == (peer, what):
                return at
        return None

    def wait_for_rsync(self, ends: Iterable[End], since: float, *, within: float) -> float:
        """When the last of these ends wrote, after `since`, that its mail goes by rsync."""

        def moments() -> list[float] | None:
            found = [self._wrote_of(node, f"no way to {peer}:", since) for node, peer in ends]
            return None if None in found else found

        return max(eventually(moments, within=within))

    def _wrote_of(self, node: str, words: str, since: float) -> float | None:
        for line in self._journals[node].said:
            at = int(line["__REALTIME_TIMESTAMP"]) / 1e6
            if at > since and line["MESSAGE"].startswith(words):
                return at
        return None
