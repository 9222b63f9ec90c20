"""A whole mesh in memory, and what a seed makes of it.

from simulation.mesh import live
live(seed=7, nodes=3)      # raises `ViolationError`, with the story, if a promise is broken
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from unittest import mock

from simulation.adversary import Adversary
from simulation.agents import Agent
from simulation.host import Host, Wiring
from simulation.network import Network
from simulation.witness import Witness
from simulation.world import ViolationError, World
from trishula.protocol import delivery
from trishula.protocol.directory import Directory
from trishula.protocol.limits import Limits
from trishula.protocol.link import SILENT_AFTER
from trishula.protocol.signing import Keyring, PairKey

NAMES = "abcdefg"
AGENTS_PER_NODE = 2
TROUBLE = 10.0
"""Seconds of virtual time in which things happen."""
SETTLED_WITHIN = 100.0
"""Seconds after which all must be well again; the longest pause before an offer is a minute."""
AFTERMATH = SILENT_AFTER + 0.5
HOSTILE = 0.3
"""The share of worlds with an adversary in them."""
STORY_SHOWN = 60


class Mesh:
    """Hosts `a`, `b`, … with agents `a0`, `a1`, `b0`, …; of each pair, one dials."""

    def __init__(self, world: World, nodes: int, limits: Limits | None = None) -> None:
        self.world = world
        self.network = Network(world)
        self.witness = Witness(world)
        names = NAMES[:nodes]
        diallers = {pair: world.random.choice(pair) for pair in combinations(names, 2)}
        homes = {f"{name}{number}": name for name in names for number in range(AGENTS_PER_NODE)}
        directory = Directory(homes, {"firsts": [agent for agent in homes if agent.endswith("0")]})
        self.keyrings = {name: Keyring({peer: [_key(name, peer)] for peer in names if peer != name}) for name in names}
        self.homes = homes
        self.hosts: dict[str, Host] = self.witness.hosts
        for name in names:
            wiring = Wiring(
                node=name,
                dials=tuple(peer for pair in diallers for peer in pair if diallers[pair] == name != peer),
                peers={peer: peer != names[0] for peer in names if peer != name},
                always_on=name != names[0],
                directory=directory,
                keyring=self.keyrings[name],
                limits=limits or Limits(),
            )
            self.hosts[name] = Host(world, self.network, self.witness, wiring)
        self.agents = {agent: Agent(agent, self.hosts[home]) for agent, home in homes.items()}

    def boot(self) -> None:
        for host in self.hosts.values():
            host.boot()

    def heal(self) -> None:
        """End all troubles."""
        self.world.tell("the world", "is healed")
        self.network.meddler = None
        for source in self.hosts:
            for target in self.hosts:
                while self.network.blocked(source, target):
                    self.network.unblock(source, target)
        for host in self.hosts.values():
            host.fuse = None
            host.full = False
            host.sync_takes = 0.002
            if host.process is not None:
                host.process.thaw()
            host.boot()

    def settle(self) -> None:
        """Wait until all is well, longer for what comes late (a link that is dead and not yet found so), then judge."""
        self.world.run(self.world.now + SETTLED_WITHIN, stop=self.is_settled)
        self.world.run(self.world.now + AFTERMATH)
        self.world.run(self.world.now + SETTLED_WITHIN, stop=self.is_settled)
        self.witness.demand(self.is_heard(), "an agent never heard of the fate of its message")
        self.witness.verdict()

    def is_heard(self) -> bool:
        return all(submission.done for agent in self.agents.values() for submission in agent.submissions)

    def is_settled(self) -> bool:
        return self.is_heard() and not self.witness.unkept()


def _key(one: str, other: str) -> PairKey:
    return PairKey("1", f"{min(one, other)}-{max(one, other)}".encode())


# ---------------------------------------------------------------- what a seed makes of it


def live(seed: int, nodes: int) -> Mesh:
    """One schedule, from a quiet start over its troubles to the verdict."""
    world = World(seed)
    with _windows(world), _told(world, nodes):
        limits = Limits(window_bytes=world.random.choice([1, 2000, 4 * 1024 * 1024]))
        mesh = Mesh(world, nodes, limits)
        Chaos(mesh).plan()
        mesh.boot()
        world.run(TROUBLE)
        mesh.heal()
        mesh.settle()
    return mesh


@contextmanager
def _windows(world: World) -> Iterator[None]:
    """Small windows, so that a few messages fill them and the store is read under way."""
    windows = world.random.choice(
        [
            {"WINDOW_COUNT": delivery.WINDOW_COUNT},
            {"WINDOW_COUNT": 8, "LOAD_COUNT": 4, "BATCH_COUNT": 3},
            {"WINDOW_COUNT": 3, "LOAD_COUNT": 2, "BATCH_COUNT": 1},
            {"WINDOW_BYTES": 2000, "BATCH_BYTES": 900, "LOAD_COUNT": 8},
        ]
    )
    with mock.patch.multiple(delivery, **windows):
        yield


@contextmanager
def _told(world: World, nodes: int) -> Iterator[None]:
    """Whatever goes wrong is told with its seed, the command that shows it again, and the end of the story."""
    try:
        yield
    except Exception as error:
        story = list(world.story)
        error.add_note("\n".join(["the story ends:", *story[-STORY_SHOWN:]]))
        error.add_note(f"again: pytest tests/simulation --seed {world.seed} --nodes {nodes}")
        raise


class Chaos:
    """What agents and fate do to a mesh, drawn from the world's seed."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._world = mesh.world
        self._random = mesh.world.random
        self._troubles: list[Callable[[], None]] = [
            self._kill,
            self._kill,
            self._light_a_fuse,
            self._light_a_fuse,
            self._light_a_fuse,
            self._break_a_connection,
            self._break_a_connection,
            self._cut_off,
            self._freeze,
            self._fill_a_disk,
            self._slow_a_disk,
            self._dial_twice,
        ]

    def plan(self) -> None:
        random = self._random
        self._mesh.network.slowest = random.choice([0.002, 0.02, 0.3])
        for host in self._mesh.hosts.values():
            host.news_takes = random.choice([0.001, 0.02])
        for _ in range(random.choice([3, 10, 30])):
            self._world.at(random.uniform(0, TROUBLE), self._write)
        for _ in range(random.choice([0, 1, 2, 4, 8])):
            self._world.at(random.uniform(0, TROUBLE), random.choice(self._troubles))
        if random.random() < HOSTILE:
            self._world.at(random.uniform(0, TROUBLE / 2), self._meddle)

    # ------------------------------------------------------------ agents

    def _write(self) -> None:
        random = self._random
        agent = random.choice(list(self._mesh.agents.values()))
        others = list(self._mesh.agents)
        to = random.choice([random.choice(others), random.sample(others, 2), "all", "@firsts", agent.name])
        ttl = random.choice([None] * 5 + [random.randint(200, 5000)])
        size = random.choice([1, 1, 300, 3000])
        for _ in range(random.choice([0, 0, 8])):
            urgent = random.random() < 0.3
            self._world.after(random.uniform(0, 0.01), partial(agent.write, to, size=size, urgent=urgent, ttl=ttl))
        letter = agent.write(to, size=size, ttl=ttl)
        if random.random() < 0.2:
            self._world.after(random.choice([0.0, 0.001, 3.0]), lambda: agent.submit(letter))
        if random.random() < 0.1:
            self._world.after(random.choice([0.0, 0.001, 3.0]), lambda: agent.contradict(letter))

    # ------------------------------------------------------------ fate

    def _host(self) -> Host:
        return self._random.choice(list(self._mesh.hosts.values()))

    def _for_a_while(self, end: Callable[[], None]) -> None:
        self._world.after(self._random.choice([0.05, 0.5, 2.0, 5.0]) * self._random.uniform(0.5, 1.5), end)

    def _kill(self) -> None:
        host = self._host()
        host.crash(power=self._world.chance(0.3))
        self._for_a_while(host.boot)

    def _light_a_fuse(self) -> None:
        points = ["Commit", "Transmit", "Transmit", "Stored", "Arrived", "Progressed", "durable", "durable"]
        self._host().fuse = (self._random.choice(points), self._random.randint(1, 8))

    def _break_a_connection(self) -> None:
        if connections := self._mesh.network.connections():
            end = self._random.choice(connections)
            self._world.tell("fate", f"breaks a connection of {end.host} and {end.other.host}")
            end.cut(tell=self._world.chance(0.7))

    def _cut_off(self) -> None:
        one, other = self._random.sample(list(self._mesh.hosts), 2)
        ways = self._random.choice([[(one, other)], [(one, other), (other, one)]])
        network = self._mesh.network
        self._world.tell("fate", f"blocks {ways}")

        def unblock() -> None:
            for way in ways:
                if network.blocked(*way):
                    network.unblock(*way)

        for way in ways:
            network.block(*way)
        self._for_a_while(unblock)

    def _freeze(self) -> None:
        if (process := self._host().process) is not None:
            process.freeze()
            self._for_a_while(process.thaw)

    def _fill_a_disk(self) -> None:
        host = self._host()
        self._world.tell(host.name, "has a full disk")
        host.full = True
        self._mesh.witness.disorder = True

        def make_room() -> None:
            host.full = False

        self._for_a_while(make_room)

    def _slow_a_disk(self) -> None:
        host = self._host()
        self._world.tell(host.name, "has a slow disk")
        host.sync_takes = self._random.choice([0.1, 1.0, 3.0])

        def recover() -> None:
            host.sync_takes = 0.002

        self._for_a_while(recover)

    def _dial_twice(self) -> None:
        """Two links to one node, dialled by either side."""
        host = self._host()
        if host.process is not None:
            host.process.dial(self._random.choice(list(host.wiring.peers)))

    def _meddle(self) -> None:
        network = self._mesh.network
        self._mesh.witness.disorder = True
        network.meddler = Adversary(
            self._mesh.witness, network, self._random.choice([1, 2, 5]), self._mesh.keyrings, self._mesh.homes
        )

        def leave() -> None:
            network.meddler = None

        self._for_a_while(leave)


__all__ = ["Chaos", "Mesh", "ViolationError", "live"]
