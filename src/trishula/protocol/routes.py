"""Who is linked to whom, and which way mail goes: direct, else over one relay (rule 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trishula.protocol import frames
from trishula.protocol.delivery import Delivery
from trishula.protocol.envelope import Key

LOOPBACK = 0
"""The number of the link from the node to itself."""
DIRECT = "direct"
RSYNC = "rsync"


@dataclass(frozen=True, slots=True)
class Offer:
    """A `Deliver` frame that is under way."""

    delivery: Delivery
    keys: tuple[Key, ...]
    size: int
    at: float
    """When it went out (monotonic)."""


@dataclass(slots=True, eq=False)
class Line:
    """A link that is up, as the engine sees it, or a post. `window` is how many bytes may be under way on it."""

    number: int
    node: str
    window: int
    files: bool = False
    """Whether it is a post: frames travel as files, carried by rsync."""
    open: bool = False
    """Whether a post takes new mail."""
    suspect: bool = False
    late: int = 0
    """How often in a row nobody has answered in time what is in a post."""
    next_seq: int = 1
    unacked: int = 0
    offers: dict[int, Offer] = field(default_factory=dict)
    arriving: int = 0
    """Bytes of the peer's mail that are not yet committed here."""

    def way(self, node: str) -> str:
        """How mail between us and `node` that comes over this is reported."""
        return RSYNC if self.files else route_name(node, self.node)


@dataclass(frozen=True, slots=True)
class Route:
    """The way to `dest`: over `line` to it or to a relay. Not `reaches`: the relay waits with the mail."""

    line: Line
    dest: str
    reaches: bool

    @property
    def name(self) -> str:
        """As it is reported."""
        return self.line.way(self.dest)


def route_name(dest: str, via: str) -> str:
    """As it is reported: `direct`, or `relay:<node>`."""
    return DIRECT if via == dest else f"relay:{via}"


class Routes:
    """The links of `node`, and what its neighbours say of theirs. `peers` says of each node if it is always on."""

    def __init__(self, node: str, window: int, peers: Mapping[str, bool], *, always_on: bool) -> None:
        self.node = node
        self.loopback = Line(LOOPBACK, node, window)
        self.lines: dict[int, Line] = {LOOPBACK: self.loopback}
        self.posts: dict[str, Line] = {}
        """By node: the way that is left where there is no other."""
        self.neighbours: dict[str, frames.Topology] = {}
        """What each linked node last said."""
        self._peers = dict(peers)
        self._always_on = always_on

    def lines_to(self, node: str) -> list[Line]:
        return [line for line in self.lines.values() if line.node == node]

    def linked(self) -> list[str]:
        """The nodes that new mail may be sent to."""
        return sorted({line.node for line in self.lines.values() if line.number != LOOPBACK and not line.suspect})

    def line_to(self, node: str) -> Line | None:
        """The newest link to a node that is above suspicion."""
        newest = None
        for line in self.lines.values():
            if line.node == node and not line.suspect and (newest is None or line.number > newest.number):
                newest = line
        return newest

    def reaches(self, relay: str, dest: str) -> bool:
        """Whether `relay` is linked to us and, by its own word, to `dest`."""
        said = self.neighbours.get(relay)
        return said is not None and dest in said.links and self.line_to(relay) is not None

    def find(self, number: int) -> Line | None:
        """A link or a post by its number."""
        if number >= 0:
            return self.lines.get(number)
        return next((line for line in self.posts.values() if line.number == number), None)

    def by_link(self, dest: str) -> Route | None:
        """The way over links that reaches `dest`: direct, else over one relay."""
        line = self.line_to(dest)
        if line is not None:
            return Route(line, dest, reaches=True)
        relays = [relay for relay in self.linked() if self.reaches(relay, dest)]
        if relays:
            return self._over(dest, min(relays, key=lambda relay: (not self._peers[relay], relay)), reaches=True)
        return None

    def route(self, dest: str) -> Route | None:
        """The way that mail for `dest` goes now, or None: it waits here."""
        found = self.by_link(dest)
        if found is not None:
            return found
        post = self.posts.get(dest)
        if post is not None and post.open:
            return Route(post, dest, reaches=True)
        # Who has said no topology may be of a release that relays nothing.
        waiting = [relay for relay in self.linked() if self._peers[relay] and relay in self.neighbours]
        if waiting and not self._always_on:
            return self._over(dest, waiting[0], reaches=False)
        return None

    def to_tell(self, node: str) -> list[Line]:
        """Where to say what `node` would ask for when a link to it comes up.

        Also on a link that is under suspicion: it may never go down, and then nobody asks.
        """
        route = self.route(node)
        lines = [route.line] if route is not None and route.reaches else []
        if self.line_to(node) is None:
            lines += self.lines_to(node)
        return lines

    def _over(self, dest: str, relay: str, *, reaches: bool) -> Route:
        line = self.line_to(relay)
        assert line is not None
        return Route(line, dest, reaches)
