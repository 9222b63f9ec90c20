"""A whole mesh in memory: hosts, their agents and the network; troubles end, the dust settles, the witness judges."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations

from simulation.agents import Agent
from simulation.host import Host, Wiring
from simulation.network import Network
from simulation.posts import Rsync
from simulation.witness import Witness
from simulation.world import World
from trishula.protocol.directory import Directory
from trishula.protocol.limits import Limits
from trishula.protocol.link import SILENT_AFTER
from trishula.protocol.signing import Keyring, PairKey

NAMES = "abcdefg"
LAPTOP = "a"
"""Not always on, and behind a router: it dials, and nobody dials it."""
AGENTS_PER_NODE = 2
SETTLED_WITHIN = 100.0
"""Seconds after which all must be well again; the longest pause before an offer is a minute."""
AFTERMATH = SILENT_AFTER + 0.5
OLD, ACCEPT_NEW, SEND_NEW, NEW = range(4)
"""The steps of a rotation of keys."""


class Mesh:
    """Hosts `a`, `b`, … with agents `a0`, `a1`, `b0`, …; of each pair, one dials, but for those that are `apart`.

    `posts` are the pairs with rooms for rsync.
    """

    def __init__(
        self,
        world: World,
        nodes: int,
        limits: Limits | None = None,
        *,
        apart: Collection[frozenset[str]] = (),
        posts: Collection[frozenset[str]] = (),
    ) -> None:
        self.world = world
        self.network = Network(world)
        self.limits = limits or Limits()
        self.names = NAMES[:nodes]
        self.homes = {f"{name}{number}": name for name in self.names for number in range(AGENTS_PER_NODE)}
        pairs = [pair for pair in combinations(self.names, 2) if frozenset(pair) not in apart]
        self._diallers = {pair: LAPTOP if LAPTOP in pair else world.random.choice(pair) for pair in pairs}
        self.witness = Witness(world, homes=self.homes, linkable={frozenset(pair) for pair in pairs})
        self.hosts: dict[str, Host] = self.witness.hosts
        runs = {pair: LAPTOP if LAPTOP in pair else world.random.choice(sorted(pair)) for pair in posts}
        self.rsync = Rsync(world, self.hosts, runs)
        self._leaving: str | None = None
        """Who is being removed."""
        self._told: set[str] = set()
        """The nodes whose configuration says so."""
        self.keys = dict.fromkeys(self.names, OLD)
        for name in self.names:
            self.hosts[name] = Host(world, self.network, self.rsync, self.witness, self._wiring(name))
        self.agents = {agent: Agent(agent, self.hosts[home]) for agent, home in self.homes.items()}

    # ------------------------------------------------------------ configuration

    def keyring(self, name: str) -> Keyring:
        step = self.keys[name]
        kids = {OLD: ["1"], ACCEPT_NEW: ["1", "2"], SEND_NEW: ["2", "1"], NEW: ["2"]}[step]
        return Keyring({peer: [pair_key(name, peer, kid) for kid in kids] for peer in self.names if peer != name})

    def _wiring(self, name: str) -> Wiring:
        gone = {self._leaving} if name in self._told else set()
        peers = {peer: peer != LAPTOP for peer in self.names if peer != name and peer not in gone}
        homes = {agent: home for agent, home in self.homes.items() if home not in gone}
        return Wiring(
            node=name,
            dials=tuple(peer for peer in peers if self._diallers.get((min(name, peer), max(name, peer))) == name),
            peers=peers,
            always_on=name != LAPTOP,
            agents=tuple(agent for agent, home in homes.items() if home == name),
            directory=Directory(homes, {"firsts": [agent for agent in homes if agent.endswith("0")]}),
            keyring=self.keyring(name),
            limits=self.limits,
        )

    def configure(self, name: str) -> None:
        """Restart a node with its configuration of now."""
        self.hosts[name].restart(self._wiring(name))

    def rekey(self, name: str, step: int) -> None:
        if not self.hosts[name].removed:
            self.world.tell(name, f"has keys of step {step}")
            self.keys[name] = step
            self.configure(name)

    def remove(self, name: str) -> None:
        """A node begins to leave the mesh: the others are told one by one."""
        self._leaving = self.witness.leaving = name

    def tell(self, name: str) -> None:
        """This node learns who left."""
        if self._leaving not in (None, name):
            self.world.tell(name, f"learns that {self._leaving} is removed")
            self._told.add(name)
            self.configure(name)

    def switch_off(self, name: str) -> None:
        """The host of a removed node, for ever."""
        self.hosts[name].crash(power=False)
        self.hosts[name].removed = True

    # ------------------------------------------------------------ life

    def boot(self) -> None:
        for host in self.hosts.values():
            host.boot()

    def heal(self) -> None:  # noqa: C901 - a line for each trouble
        """End all troubles."""
        self.world.tell("the world", "is healed")
        self.network.heal()
        self.rsync.heal()
        if self._leaving is not None:
            if not self.hosts[self._leaving].removed:
                self.switch_off(self._leaving)
            for name in self.names:
                if name not in self._told:
                    self.tell(name)
        if any(self.keys.values()):
            for name in self.names:
                if self.keys[name] != NEW:
                    self.rekey(name, NEW)
        for host in self.hosts.values():
            host.fuse = None
            host.full = False
            host.error = 0
            host.sync_takes = 0.002
            host.wake()
            if host.process is not None:
                host.process.thaw_for_good()
            if host.process is not None:
                host.process.present("")
            host.boot()
        for agent in self.agents.values():
            if agent.reads_after is not None:
                agent.reads_after = 0.0
                agent.arrived()

    def settle(self) -> None:
        """Wait until all is well, longer for what comes late (a link that is dead and not yet found so), then judge."""
        self.world.run(self.world.now + SETTLED_WITHIN, stop=self.is_settled)
        self.world.run(self.world.now + AFTERMATH)
        self.world.run(self.world.now + SETTLED_WITHIN, stop=self.is_settled)
        self.witness.demand(self.is_heard(), "an agent never heard of the fate of its message")
        self.witness.verdict()

    def is_heard(self) -> bool:
        return all(
            submission.done or agent.host.removed for agent in self.agents.values() for submission in agent.submissions
        )

    def is_settled(self) -> bool:
        return self.is_heard() and next(self.witness.unkept(), None) is None


def pair_key(one: str, other: str, kid: str = "1") -> PairKey:
    return PairKey(kid, f"{min(one, other)}-{max(one, other)}-{kid}".encode())
