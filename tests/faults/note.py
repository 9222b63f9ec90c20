"""The closing note: what was counted, and how long it took to notice, to go round about and to be linked again."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MEASURES = {
    "detection": "from the fault until the last node concerned wrote that its link is down",
    "reroute": "from the fault until mail came by way of a third node, in both directions",
    "rsync": "from the last link that was found dead until the last node concerned wrote that its mail goes by rsync;"
    " documented as under 2 s",
    "delivery": "of each message that came by rsync, from its storing to its arrival; documented as 4 s at the p50",
    "by link": "from the mending until the first message came by a link again; documented as under 5 s",
    "reconnect": "from the mending, or from the fault where the hosts mend it themselves, until the last wrote that its"
    " link is up; documented as under 5 s",
}


@dataclass
class Note:
    count: str = "nothing was counted"
    times: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """Seconds, by the fault and by what was measured."""

    def add(self, fault: str, **seconds: float) -> None:
        for measure, value in seconds.items():
            self.times[fault][measure].append(value)

    def lines(self) -> Iterator[str]:
        yield self.count
        yield ""
        yield f"{'':<20}{'':<10}{'trials':>8}{'p50':>10}{'max':>10}"
        for fault, times in self.times.items():
            for measure in filter(times.__contains__, MEASURES):
                p50, most = (f"{value:.2f} s" for value in (statistics.median(times[measure]), max(times[measure])))
                yield f"{fault:<20}{measure:<10}{len(times[measure]):>8}{p50:>10}{most:>10}"
        yield ""
        yield from (f"{measure:<10}  {meaning}" for measure, meaning in MEASURES.items())
