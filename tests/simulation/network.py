"""Connections between hosts: what is sent arrives in order, or the connection dies; and what can happen to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from simulation.world import World

CLOSE_WITHIN = 1.0
"""Seconds for a closing handshake; then the connection is cut."""
CONNECT_WITHIN = 2.5


class Process(Protocol):
    """Who holds an end."""

    sockets: list[End]

    def call(self, action: Callable[[], None]) -> None:
        """Run this when the process runs, unless it has died."""

    def knows(self, peer: str) -> bool:
        """Whether it lets this host in."""

    def accept(self, end: End, peer: str) -> None: ...

    def heard(self, end: End, data: bytes) -> None: ...

    def lost(self, end: End) -> None: ...


class Meddler(Protocol):
    """Sees each message on its way from an end; says what arrives instead, as if sent from which end."""

    def __call__(self, end: End, data: bytes, /) -> list[tuple[End, bytes]]: ...

    def leave(self) -> None: ...


class Network:
    """Hosts by name, the processes that listen on them, and who is cut off from whom."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.listeners: dict[str, Process] = {}
        self.meddler: Meddler | None = None
        self.slowest = 0.02
        """Seconds that a message takes at most."""
        self._blocked: dict[tuple[str, str], int] = {}
        self._ends: list[End] = []
        self._made = 0

    def delay(self) -> float:
        return self.world.random.uniform(0.0002, self.slowest)

    # ------------------------------------------------------------ what can happen

    def block(self, source: str, target: str) -> None:
        """Nothing gets from one host to another until as many `unblock`s: it waits, as TCP does."""
        self._blocked[source, target] = self._blocked.get((source, target), 0) + 1

    def unblock(self, source: str, target: str) -> None:
        self._blocked[source, target] -= 1
        for end in list(self._ends):
            if (end.host, end.other.host) == (source, target):
                end.pump()

    def heal(self) -> None:
        """Nobody is cut off from anybody, and nobody meddles."""
        if self.meddler is not None:
            self.meddler.leave()
            self.meddler = None
        for way in list(self._blocked):
            while self.blocked(*way):
                self.unblock(*way)

    def blocked(self, source: str, target: str) -> bool:
        return self._blocked.get((source, target), 0) > 0

    def connections(self) -> list[End]:
        """The dialler's end of each."""
        return [end for end in self._ends if end.dialled]

    def dial(self, caller: Process, source: str, target: str, answer: Callable[[End | None], None]) -> None:
        """Ends in `answer` with an end, or None."""
        self.world.after(2 * self.delay(), lambda: self._answer(caller, source, target, answer))

    def _answer(self, caller: Process, source: str, target: str, answer: Callable[[End | None], None]) -> None:
        if self.blocked(source, target) or self.blocked(target, source):
            self.world.after(CONNECT_WITHIN, lambda: caller.call(lambda: answer(None)))
        elif target not in self.listeners or not self.listeners[target].knows(source):
            caller.call(lambda: answer(None))
        else:
            listener = self.listeners[target]
            near, far = End(self, caller, source, dialled=True), End(self, listener, target, dialled=False)
            near.other, far.other = far, near
            self._made += 1
            near.number = far.number = self._made
            for end in (near, far):
                self._ends.append(end)
                end.process.sockets.append(end)
            listener.call(lambda: listener.accept(far, source))
            caller.call(lambda: answer(near))

    def forget(self, end: End) -> None:
        if end in self._ends:
            self._ends.remove(end)


class End:
    """One side of a connection, as a process holds it."""

    other: End
    number: int
    """The same at both ends."""

    def __init__(self, network: Network, process: Process, host: str, *, dialled: bool) -> None:
        self.process = process
        self.host = host
        self.dialled = dialled
        self.dead = False
        """Cut: whatever is sent vanishes, and nobody is told unless somebody tells."""
        self._network = network
        self._may_send = True
        self._may_hear = True
        self._under_way: deque[tuple[float, bytes | None]] = deque()

    def send(self, data: bytes) -> None:
        if self._may_send:
            self._push(data)

    def shutdown(self) -> None:
        """Close after what was sent. What the other side has sent until it notices is still heard."""
        if self._may_send:
            self._may_send = False
            self._push(None)
            self._network.world.after(CLOSE_WITHIN, self.lose)

    def cut(self, *, tell: bool) -> None:
        """The connection is gone, with what was under way. Where nobody is told, silence will tell."""
        for end in (self, self.other):
            end.dead = True
            end._under_way.clear()
            if tell:
                self._network.world.after(self._network.delay(), end.lose)

    def lose(self) -> None:
        """This side learns that the connection is gone."""
        if self._may_hear:
            self._may_hear = self._may_send = False
            self._network.forget(self)
            self.process.sockets.remove(self)
            self.process.call(lambda: self.process.lost(self))

    def inject(self, data: bytes) -> None:
        """Arrives at the other side now, whoever sent it."""
        other = self.other
        if other._may_hear:
            other.process.call(lambda: other.process.heard(other, data))

    def pump(self) -> None:
        """Hand over what is due, unless the way is blocked."""
        network = self._network
        while self._under_way and self._under_way[0][0] <= network.world.now:
            if network.blocked(self.host, self.other.host):
                return
            _, item = self._under_way.popleft()
            if item is None:
                self.other.shutdown()
                self.other.lose()
            elif network.meddler is None:
                self.inject(item)
            else:
                for end, data in network.meddler(self, item):
                    end.inject(data)

    def _push(self, item: bytes | None) -> None:
        if self.dead:
            return
        network = self._network
        due = network.world.now + network.delay()
        if self._under_way:
            due = max(due, self._under_way[-1][0])
        self._under_way.append((due, item))
        network.world.at(due, self.pump)
