"""What a seed makes of a mesh: a plan of letters and troubles, each of which stays the same if others are left out.

from simulation.schedule import live
live(7)                    # raises, with the story, if a promise is broken
live(7, keep=[2, 5])       # the same without the other steps
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from random import Random
from time import monotonic
from unittest import mock

from simulation.adversary import Adversary
from simulation.agents import Agent
from simulation.host import Host
from simulation.mesh import ACCEPT_NEW, LAPTOP, NAMES, NEW, SEND_NEW, Mesh
from simulation.witness import Submission
from simulation.world import ViolationError, World
from trishula.protocol import custody, delivery, origin, post, retention
from trishula.protocol.limits import Limits

SIZES = {3: 10, 4: 5, 5: 3, 6: 1, 7: 1}
"""How often a mesh has so many nodes."""
HUB = NAMES[1]
STORY_SHOWN = 60
MINUTE, DAY, YEAR = 60_000, 86_400_000, 31_536_000_000

TROUBLES = {
    "kill": 4,
    "light_a_fuse": 6,
    "break_a_connection": 4,
    "cut_off": 3,
    "isolate": 2,
    "freeze": 2,
    "sleep": 1,
    "fill_a_disk": 2,
    "slow_a_disk": 2,
    "dial_twice": 2,
    "set_a_clock": 3,
    "restore": 3,
    "lose_a_store": 1,
    "rotate_keys": 2,
    "rotate_keys_carelessly": 1,
    "remove_a_node": 2,
    "meddle": 3,
    "go_dark": 5,
    "break_rsync": 2,
}
"""How often each happens, more or less."""
BLOCKING = {"rotate_keys", "rotate_keys_carelessly", "remove_a_node", "set_a_clock", "meddle"}
"""After these a relay may hold until it expires what nobody can take: it must have room for more."""
LETTERS = {"letter": 6, "flurry": 2, "contradiction": 1, "retry": 2, "probe": 1}


@dataclass(frozen=True)
class Step:
    """Something that happens at a time; `seed` decides how."""

    number: int
    time: float
    kind: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """All that is drawn before the world begins."""

    seed: int
    nodes: int
    lasts: float
    """Seconds in which things happen."""
    steps: tuple[Step, ...]


def plan(seed: int, nodes: int | None = None) -> Plan:
    random = Random(f"plan {seed}")
    drawn = random.choices(list(SIZES), weights=list(SIZES.values()))[0]
    lasts = random.choice([2.0, 4.0, 7.0])
    kinds = random.choices(list(LETTERS), weights=list(LETTERS.values()), k=random.choice([3, 6, 15]))
    count = random.choice([0, 1, 2, 3, 4, 6])
    kinds += random.choices(list(TROUBLES), weights=list(TROUBLES.values()), k=count)
    steps = [Step(number, random.uniform(0, lasts), kind, random.getrandbits(32)) for number, kind in enumerate(kinds)]
    return Plan(seed, nodes or drawn, lasts, tuple(steps))


def live(seed: int, nodes: int | None = None, *, keep: Collection[int] | None = None) -> Mesh:
    """One schedule, from a quiet start over its troubles to the verdict; of its steps, only `keep`."""
    drawn = plan(seed, nodes)
    steps = [step for step in drawn.steps if keep is None or step.number in keep]
    world = World(seed)
    random = Random(f"world {seed}")
    kinds = {step.kind for step in drawn.steps}
    with _scaled(random), _told(world, drawn, nodes, keep):
        limits = Limits(
            window_bytes=random.choice([1, 2000, 4 * 1024 * 1024]),
            max_skew=random.choice([500, 2000]),
            max_open=random.choice([100_000, 100_000, 20]),
            max_unread=random.choice([100_000, 100_000, 3]),
            max_held_bytes=random.choice([10**8, 6000]) if BLOCKING.isdisjoint(kinds) else 10**8,
        )
        mesh = Mesh(world, drawn.nodes, limits, apart=_apart(random, drawn.nodes), posts=_posts(random, drawn.nodes))
        fate = Fate(mesh, random)
        for step in steps:
            world.at(step.time, partial(fate.strike, step))
        mesh.boot()
        world.run(drawn.lasts)
        mesh.heal()
        fate.is_over = True
        mesh.settle()
    return mesh


def _apart(random: Random, nodes: int) -> list[frozenset[str]]:
    """Pairs that are never linked, such as two hosts behind routers. All still hangs together by `HUB`."""
    pairs = [frozenset(pair) for pair in combinations(NAMES[:nodes], 2) if HUB not in pair]
    return random.sample(pairs, random.choice([0, 0, 0, 1, 1, 2])) if nodes > 3 else pairs[: random.choice([0, 0, 1])]


def _posts(random: Random, nodes: int) -> list[frozenset[str]]:
    """The pairs that rsync can carry between: all, some, or none."""
    pairs = [frozenset(pair) for pair in combinations(NAMES[:nodes], 2)]
    return random.sample(pairs, random.choice([0, len(pairs) // 2, len(pairs), len(pairs)]))


@contextmanager
def _scaled(random: Random) -> Iterator[None]:
    """Small windows, so that a few messages fill them; short pauses, so that a schedule sees what follows them."""
    windows = random.choice(
        [
            {"WINDOW_COUNT": delivery.WINDOW_COUNT},
            {"WINDOW_COUNT": 8, "LOAD_COUNT": 4, "BATCH_COUNT": 3},
            {"WINDOW_COUNT": 3, "LOAD_COUNT": 2, "BATCH_COUNT": 1},
            {"WINDOW_BYTES": 2000, "BATCH_BYTES": 900, "LOAD_COUNT": 8},
        ]
    )
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(delivery, **windows, _RETRY_CAP=4.0))
        stack.enter_context(mock.patch.multiple(origin, _LOOK_EVERY_S=5.0, _GIVEN_UP_AT_ONCE=3))
        stack.enter_context(mock.patch.multiple(custody, RECLAIM_BASE=4.0, RECLAIM_CAP=8.0))
        stack.enter_context(mock.patch.multiple(retention, EVERY=2.0, AT_ONCE=random.choice([3, 500])))
        posts = {"PATIENCE": random.choice([0.05, 0.4, post.PATIENCE]), "WINDOW": random.choice([1, 3000, post.WINDOW])}
        stack.enter_context(
            mock.patch.multiple(post, **posts, ANSWERED_WITHIN=random.choice([0.5, 4.0]), ANSWERED_CAP=8.0)
        )
        yield


@contextmanager
def _told(world: World, drawn: Plan, nodes: int | None, keep: Collection[int] | None) -> Iterator[None]:
    """Whatever goes wrong is told with its seed, the command that shows it again, and the end of the story."""
    try:
        yield
    except Exception as error:
        story = list(world.story)
        error.add_note("\n".join(["the story ends:", *story[-STORY_SHOWN:]]))
        error.add_note(f"again: {again(drawn.seed, nodes, keep)}")
        raise


def again(seed: int, nodes: int | None = None, keep: Collection[int] | None = None) -> str:
    """The command that shows a schedule again."""
    command = f"pytest tests/simulation --seed {seed}"
    if nodes is not None:
        command += f" --nodes {nodes}"
    if keep is not None:
        command += " --keep " + (",".join(map(str, sorted(keep))) or "none")
    return command


def failure(seed: int, nodes: int | None = None, *, keep: Collection[int] | None = None) -> str:
    """What is wrong with a schedule, or nothing."""
    try:
        live(seed, nodes, keep=keep)
    except Exception as error:  # noqa: BLE001 - a crash of the core is a failure as well
        return f"{type(error).__name__}: {error}"
    return ""


def shrink(seed: int, nodes: int | None = None, *, within: float = 30.0) -> list[int]:
    """The fewest steps of a failing schedule with which it still fails, by leaving out more and more of them.

    The search is over after so many seconds, with what it has found by then.
    """
    over = monotonic() + within
    kept = [step.number for step in plan(seed, nodes).steps]
    size = max(1, len(kept) // 2)
    while True:
        for start in range(0, len(kept), size):
            if monotonic() > over:
                return kept
            without = kept[:start] + kept[start + size :]
            if failure(seed, nodes, keep=without):
                kept = without
                break
        else:
            if size == 1:
                return kept
            size //= 2


class Fate:
    """What agents and fate do to a mesh."""

    def __init__(self, mesh: Mesh, random: Random) -> None:
        self._mesh = mesh
        self._world = mesh.world
        self.is_over = False
        """Whether all is healed, and to remain so."""
        self._wrong_clocks: list[int] = []
        self._removing = False
        self._rotating = False
        self._random = random
        mesh.network.slowest = random.choice([0.002, 0.02, 0.3])
        mesh.rsync.loses = random.choice([0.0, 0.0, 0.1])
        mesh.rsync.slowest = random.choice([0.05, 0.5, 3.0])
        for host in mesh.hosts.values():
            host.news_takes = random.choice([0.001, 0.02])
            skew = mesh.limits.max_skew // 2 - 50
            host.skew = random.randint(-skew, skew)
        for agent in mesh.agents.values():
            slow = [] if mesh.limits.max_unread > 100 else [3.0]  # what nobody reads ends as a full inbox
            agent.reads_after = random.choice([0.0, 0.5, *(slow or [None, None])])
            agent.moves_files = random.random() < 0.5

    def strike(self, step: Step) -> None:
        self._random = Random(step.seed)
        self._world.tell("fate", f"step {step.number}: {step.kind.replace('_', ' ')}")
        getattr(self, f"_{step.kind}")()

    # ------------------------------------------------------------ agents

    def _write(self) -> tuple[Agent, Submission]:
        random = self._random
        agent = random.choice(list(self._mesh.agents.values()))
        others = list(self._mesh.agents)
        to = random.choice([random.choice(others), random.choice(others), random.sample(others, 2), "all", "@firsts"])
        ttl = random.choice([None] * 3 + [random.randint(100, 3000), random.randint(100, 20000)])
        size = random.choice([1, 1, 300, 3000])
        return agent, agent.write(to, size=size, urgent=random.random() < 0.2, ttl=ttl)

    def _letter(self) -> None:
        self._write()

    def _flurry(self) -> None:
        random = self._random
        agent = random.choice(list(self._mesh.agents.values()))
        to = random.choice(list(self._mesh.agents))
        for _ in range(8):
            urgent = random.random() < 0.3
            self._world.after(random.uniform(0, 0.01), partial(agent.write, to, urgent=urgent))

    def _contradiction(self) -> None:
        agent, letter = self._write()
        self._world.after(self._random.choice([0.0, 0.001, 3.0]), lambda: agent.contradict(letter))

    def _retry(self) -> None:
        agent, letter = self._write()
        pause = self._random.choice([0.0, 0.001, 2.0])
        self._world.after(pause, lambda: None if letter.is_over(self._world.now) else agent.submit(letter))

    def _probe(self) -> None:
        agent = self._random.choice(list(self._mesh.agents.values()))
        posts = self._mesh.rsync.peers(agent.host.name)
        by_post = bool(posts) and self._random.random() < 0.5
        node = self._random.choice(posts if by_post else list(self._mesh.names))
        agent.probe(node, self._random.choice([1000, 60_000]), by_post=by_post)

    # ------------------------------------------------------------ fate

    def _host(self) -> Host:
        return self._random.choice([host for host in self._mesh.hosts.values() if not host.removed])

    def _for_a_while(self, end: Callable[[], None]) -> None:
        self._world.after(self._random.choice([0.05, 0.5, 2.0, 5.0]) * self._random.uniform(0.5, 1.5), end)

    def _later(self, within: float, action: Callable[[], None]) -> None:
        """As long as troubles last."""
        self._world.after(self._random.uniform(0, within), lambda: None if self.is_over else action())

    def _kill(self) -> None:
        host = self._host()
        host.crash(power=self._random.random() < 0.4)
        self._for_a_while(host.boot)

    def _light_a_fuse(self) -> None:
        points = ["Commit", "Transmit", "Transmit", "Stored", "Arrived", "Progressed", "durable", "durable"]
        points += ["filed", "filesync", "marked", "Handled", "Load", "Posting"]
        self._host().fuse = (self._random.choice(points), self._random.randint(1, 8))

    def _break_a_connection(self) -> None:
        if connections := self._mesh.network.connections():
            end = self._random.choice(connections)
            self._world.tell("fate", f"breaks the connection of {end.host} and {end.other.host}")
            end.cut(tell=self._random.random() < 0.7)

    def _cut_off(self) -> None:
        one, other = self._random.sample(list(self._mesh.hosts), 2)
        self._block(self._random.choice([[(one, other)], [(one, other), (other, one)]]))

    def _isolate(self) -> None:
        """One host from all others, or a mesh that falls apart."""
        random = self._random
        names = list(self._mesh.hosts)
        some = set(random.sample(names, random.choice([1, 1, len(names) // 2])))
        ways = [(one, other) for one in names for other in names if (one in some) != (other in some)]
        self._block([way for way in ways if way[0] in some] if random.random() < 0.3 else ways)

    def _go_dark(self) -> None:
        """No link from one host to any other, or none at all: they find out soon, and agents write all the same."""
        random, names = self._random, list(self._mesh.hosts)
        some = random.choice([names, [random.choice(names)]])
        self._block([(one, other) for one in names for other in names if one != other and {one, other} & {*some}])
        for end in self._mesh.network.connections():
            if {end.host, end.other.host} & {*some}:
                end.cut(tell=random.random() < 0.8)
        for _ in range(4):
            writer, reader = random.sample(list(self._mesh.agents.values()), 2)
            size = random.choice([1, 300, 3000])
            self._later(2.0, partial(writer.write, reader.name, size=size, urgent=random.random() < 0.2))

    def _block(self, ways: list[tuple[str, str]]) -> None:
        network = self._mesh.network
        self._world.tell("fate", f"blocks {' '.join(''.join(way) for way in ways)}")

        def unblock() -> None:
            for way in ways:
                if network.blocked(*way):
                    network.unblock(*way)

        for way in ways:
            network.block(*way)
        self._for_a_while(unblock)

    def _break_rsync(self) -> None:
        """It fails, or a room can't be written, between two hosts or between all."""
        rsync, random = self._mesh.rsync, self._random
        pairs = rsync.pairs()
        if pairs and random.random() < 0.5:
            pairs = [random.choice(pairs)]
        troubles = random.choice([rsync.broken, rsync.spoilt])
        self._world.tell("fate", f"{'breaks' if troubles is rsync.broken else 'spoils'} rsync for {len(pairs)} pairs")
        for pair in pairs:
            troubles[pair] = troubles.get(pair, 0) + 1

        def mend() -> None:
            for pair in pairs:
                troubles[pair] = max(0, troubles.get(pair, 0) - 1)

        self._for_a_while(mend)

    def _freeze(self) -> None:
        if (process := self._host().process) is not None:
            process.freeze()
            self._for_a_while(process.thaw)

    def _sleep(self) -> None:
        """The lid is closed: nothing runs, and the monotonic clock does not count it."""
        host = self._mesh.hosts[LAPTOP]
        host.fall_asleep()
        self._for_a_while(host.wake)

    def _fill_a_disk(self) -> None:
        host = self._host()
        self._world.tell(host.name, "has a full disk")
        host.full = True
        knows = self._random.random() < 0.5
        if knows and host.process is not None:
            host.process.present("the disk is full")

        def make_room() -> None:
            host.full = False
            if host.process is not None:
                host.process.present("")

        self._for_a_while(make_room)

    def _slow_a_disk(self) -> None:
        host = self._host()
        host.sync_takes = self._random.choice([0.1, 1.0, 3.0])
        self._world.tell(host.name, f"has a disk that takes {host.sync_takes} s")

        def recover() -> None:
            host.sync_takes = 0.002

        self._for_a_while(recover)

    def _dial_twice(self) -> None:
        """Two links to one node, dialled by either side."""
        host = self._host()
        peers = [peer for peer in host.wiring.peers if frozenset((host.name, peer)) in self._mesh.witness.linkable]
        if host.process is not None and peers:
            host.process.dial(self._random.choice(peers))

    def _set_a_clock(self) -> None:
        """Forth or back. No two clocks that are wrong at a time agree."""
        host = self._host()
        error = self._random.choice([MINUTE, 90 * MINUTE, 8 * DAY, 40 * DAY, YEAR, 10 * YEAR])
        error *= self._random.choice([1, -1])
        if error in self._wrong_clocks:
            return
        self._wrong_clocks.append(error)
        self._world.tell(host.name, f"has its clock set wrong by {error / MINUTE:.0f} minutes")
        host.error = error

        def set_right() -> None:
            host.error = 0

        self._for_a_while(set_right)

    def _restore(self) -> None:
        """A backup is made now and comes back in a while."""
        host = self._host()
        backup = host.disk.copy()

        def restore() -> None:
            if not host.removed:
                host.restore(backup)
                self._for_a_while(host.boot)

        self._later(4.0, restore)

    def _lose_a_store(self) -> None:
        host = self._host()
        host.restore(type(host.disk)())
        self._for_a_while(host.boot)

    def _rotate_keys(self) -> None:
        """As it should be: nobody sends with a new key before all accept it, nor forgets an old one that is sent."""
        if self._rotating:
            return
        self._rotating = True
        at = self._world.now
        for step in (ACCEPT_NEW, SEND_NEW, NEW):
            for name in self._random.sample(list(self._mesh.names), len(self._mesh.names)):
                at += self._random.uniform(0.0, 0.3)
                self._at(at, partial(self._mesh.rekey, name, step))

    def _rotate_keys_carelessly(self) -> None:
        """Some send with a key that others don't know yet."""
        if self._rotating:
            return
        self._rotating = True
        for name in self._mesh.names:
            for step in self._random.choice([(SEND_NEW, NEW), (ACCEPT_NEW, NEW), (NEW,)]):
                self._later(4.0, partial(self._rekey_further, name, step))

    def _rekey_further(self, name: str, step: int) -> None:
        if self._mesh.keys[name] < step:
            self._mesh.rekey(name, step)

    def _remove_a_node(self) -> None:
        """The others learn of it one by one; its host is switched off at some time."""
        if self._removing:
            return
        self._removing = True
        # Not the one that holds together who is apart.
        name = self._random.choice([name for name in self._mesh.names if name != HUB])
        self._mesh.remove(name)
        for other in self._mesh.names:
            if other != name:
                self._later(3.0, partial(self._mesh.tell, other))
        self._later(3.0, partial(self._mesh.switch_off, name))

    def _at(self, time: float, action: Callable[[], None]) -> None:
        self._world.at(time, lambda: None if self.is_over else action())

    def _meddle(self) -> None:
        network, witness = self._mesh.network, self._mesh.witness
        witness.hostile = True
        if witness.evil is None:
            witness.evil = self._random.choice(list(self._mesh.names))
        adversary = Adversary(self._mesh, witness.evil, self._random, self._random.choice([1, 2, 5]))
        self._world.tell("fate", f"an adversary has the keys of {witness.evil}")
        if network.meddler is not None:
            network.meddler.leave()
        network.meddler = adversary

        def leave() -> None:
            if network.meddler is adversary:
                adversary.leave()
                network.meddler = None

        self._for_a_while(leave)


__all__ = ["Plan", "Step", "ViolationError", "again", "failure", "live", "plan", "shrink"]
