"""Real nodes that are killed, frozen, cut off, slowed down and reset in mid-stream: the promise holds all the same."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest

from integration.correspondence import Correspondence
from integration.network import Network
from trishula.cli.sandbox import STANDARD, Place, Sandbox, until
from trishula.protocol.envelope import State

FIVE = {name: [name] for name in ("mac", "agni", "rushabdev", "vayu", "varuna")}
PAIR = {name: [name] for name in ("mac", "agni")}
MEGABYTE = 1024 * 1024
SLOW = 1_000_000
"""Bits a second."""


@asynccontextmanager
async def running(
    directory: Path, homes: dict[str, list[str]] | None = None, network: Network | None = None
) -> AsyncIterator[Sandbox]:
    """A mesh that is up and linked, over `network` if there is one; in the end no node has met a bug."""
    with Sandbox(directory, homes or STANDARD, via=network.via if network else None) as mesh:
        async with network or nullcontext():
            mesh.start()
            await mesh.linked()
            yield mesh
        mesh.stop()
        for place in mesh.places.values():
            log = place.log.read_text()
            assert "Traceback" not in log, log


class Watch:
    """What a node's log says from here on."""

    def __init__(self, place: Place) -> None:
        self._log = place.log
        self._from = place.log.stat().st_size

    @property
    def text(self) -> str:
        return self._log.read_bytes()[self._from :].decode()

    async def says(self, words: str, *, seconds: float = 20) -> None:
        await until(lambda: words in self.text, f"{self._log} says {words!r}", seconds=seconds)


async def all_is_well(mail: Correspondence, *, at_least: int = 100) -> None:
    """Everything that was stored is delivered, once, as it was written, and its sender knows."""
    await mail.ended()
    assert await mail.mistakes() == []
    assert not mail.refused_to_store
    assert set(mail.outcomes) == {State.DELIVERED}
    assert mail.outcomes[State.DELIVERED] >= at_least


# ---------------------------------------------------------------- kill -9


@pytest.mark.parametrize("nodes", [3, pytest.param(5, marks=pytest.mark.long)])
def test_mail_arrives_once_though_nodes_are_killed_in_mid_stream(tmp_path: Path, seed: int, nodes: int) -> None:
    chance = random.Random(seed)

    async def story() -> None:
        async with running(tmp_path, dict(list(FIVE.items())[:nodes])) as mesh, Correspondence(mesh, seed) as mail:
            for _ in range(4):
                await asyncio.sleep(chance.uniform(0.1, 0.5))
                victims = chance.sample(list(mesh.places), chance.randint(1, nodes // 2))
                for victim in victims:
                    mesh.kill(victim)
                await asyncio.sleep(chance.uniform(0, 0.4))
                mesh.start(*victims)
                if chance.random() < 0.3:
                    # again, before it has found its feet
                    await asyncio.sleep(chance.uniform(0, 0.5))
                    mesh.kill(victims[0])
                    mesh.start(victims[0])
                await mesh.up(*victims)
            await mesh.linked()
            await all_is_well(mail)

    asyncio.run(story())


# ---------------------------------------------------------------- SIGSTOP


def test_frozen_nodes_are_given_up_and_taken_back_when_they_go_on(tmp_path: Path, seed: int) -> None:
    """Two of three at once: so there is one that dials and one that is dialled, and a link between frozen ends."""
    frozen = random.Random(seed).sample(list(STANDARD), 2)
    (witness,) = STANDARD.keys() - set(frozen)

    async def story() -> None:
        async with running(tmp_path) as mesh, Correspondence(mesh, seed) as mail:
            watch = Watch(mesh.places[witness])
            for name in frozen:
                mesh.signal(name, signal.SIGSTOP)
            for name in frozen:
                await until(lambda name=name: silent(watch, name), f"{witness} misses {name}")  # type: ignore[misc]
                assert not (await mesh.status(witness))["peers"][name]["linked"]
            for name in frozen:
                mesh.signal(name, signal.SIGCONT)
            await mesh.linked()
            await all_is_well(mail)

    asyncio.run(story())


def silent(watch: Watch, peer: str) -> bool:
    return any(f"link {way} {peer} down: silent for" in watch.text for way in ("to", "from"))


# ---------------------------------------------------------------- the network


def test_a_half_open_link_is_found_from_both_sides_and_made_again(tmp_path: Path, seed: int) -> None:
    network = Network()

    async def story() -> None:
        async with running(tmp_path, network=network) as mesh, Correspondence(mesh, seed) as mail:
            mac, agni = Watch(mesh.places["mac"]), Watch(mesh.places["agni"])
            wire = network.between("mac", "agni")
            wire.cut()
            await mac.says("link to agni down: silent for")
            await agni.says("link from mac down: silent for")
            # The pair's network comes back by halves: there is somebody again, but nobody listens.
            wire.refusing = True
            await until(lambda: wire.refused >= 3, "mac dials again and again")
            wire.heal()
            await mesh.linked("mac")
            await all_is_well(mail)

    asyncio.run(story())


@pytest.mark.long
def test_mail_arrives_once_over_connections_that_are_reset_at_any_byte(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    network = Network()

    async def story() -> None:
        async with running(tmp_path, FIVE, network) as mesh, Correspondence(mesh, seed, pause_s=0.2) as mail:
            for proxy in network.proxies:
                # From within the TLS handshake to a few dozen frames.
                proxy.reset_after(lambda: int(10 ** chance.uniform(2.5, 5)))
            await until(lambda: sum(proxy.resets for proxy in network.proxies) >= 25, "it was reset often", seconds=60)
            for proxy in network.proxies:
                proxy.heal()
            await mesh.linked()
            await all_is_well(mail)

    asyncio.run(story())


@pytest.mark.long
def test_a_large_message_on_a_slow_link_is_no_silence_while_small_ones_come_the_other_way(
    tmp_path: Path, seed: int
) -> None:
    network = Network()

    async def story() -> None:
        async with running(tmp_path, PAIR, network) as mesh, Correspondence(mesh, seed, most_each=0) as mail:
            watches = [Watch(place) for place in mesh.places.values()]
            wire = network.between("mac", "agni")
            wire.rate = SLOW
            enough = asyncio.Event()
            sending = asyncio.create_task(small_mail(mail, "agni", "mac", enough))
            large = await mail.send("mac", ["agni"], "large", body="x" * (MEGABYTE - 200))
            assert large.receipt is not None
            await large.receipt.delivered(timeout=120)
            enough.set()
            await sending
            await all_is_well(mail, at_least=20)
            assert wire.connections == 1
            assert not any("down" in watch.text for watch in watches)

    asyncio.run(story())


async def small_mail(mail: Correspondence, sender: str, to: str, enough: asyncio.Event) -> None:
    for number in itertools.takewhile(lambda _: not enough.is_set(), itertools.count()):
        await mail.send(sender, [to], f"small-{number}")
        await asyncio.sleep(0.05)


# ---------------------------------------------------------------- load


def test_a_busy_peer_is_not_taken_for_a_dead_one(tmp_path: Path, seed: int) -> None:
    """Everybody floods everybody, with large messages in between: no link goes down."""

    async def flood(mail: Correspondence, sender: str, others: list[str], number: int) -> None:
        for count in range(50):
            size = MEGABYTE - 200 if count == 25 and number % 2 else 1000
            await mail.send(sender, others, f"{sender}-flood-{number}-{count}", body="x" * size)

    async def story() -> None:
        async with running(tmp_path) as mesh, Correspondence(mesh, seed, most_each=0) as mail:
            watches = [Watch(place) for place in mesh.places.values()]
            async with asyncio.TaskGroup() as tasks:
                for sender in STANDARD:
                    for number in range(8):
                        tasks.create_task(flood(mail, sender, sorted(STANDARD.keys() - {sender}), number))
            await all_is_well(mail, at_least=2400)
            assert not any("down" in watch.text for watch in watches)

    asyncio.run(story())
