"""When no link works rsync carries the mail, through a real sshd, and rests when there is a link again."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import trishula
from integration.correspondence import Correspondence
from integration.network import Network
from integration.posts import Posts
from trishula.cli.sandbox import Sandbox, until
from trishula.node.courier import Courier
from trishula.protocol.envelope import State

PATIENCE_S = 40.0
KILLS = 5
"""Of each kind."""
BURST = 20_000


class World:
    """A mesh with a network between its nodes that can be cut, and posts."""

    def __init__(self, mesh: Sandbox, network: Network, posts: Posts) -> None:
        self.mesh = mesh
        self.network = network
        self.posts = posts

    def cut(self) -> None:
        for proxy in self.network.proxies:
            proxy.cut()

    def heal(self) -> None:
        for proxy in self.network.proxies:
            proxy.heal()

    def kill_node(self, chance: random.Random) -> None:
        victim = chance.choice(list(self.mesh.places))
        self.mesh.kill(victim)
        self.mesh.start(victim)

    def kill_rsync(self, chance: random.Random) -> None:
        """What a node has started; the other end dies of it."""
        here = chance.choice(list(self.mesh.places))
        subprocess.run(["pkill", "-KILL", "-P", str(self.mesh.pid(here)), "rsync"], check=False)

    def kill_sshd(self, chance: random.Random) -> None:
        sshd = self.posts.sshd(chance.choice(["agni", "rushabdev"]))
        sshd.stop()
        sshd.start()

    async def cut_and_noticed(self) -> None:
        self.cut()
        for name in self.mesh.places:
            await until(lambda name=name: self._posting(name), f"{name} has turned to rsync", seconds=PATIENCE_S)

    async def rests(self, name: str) -> bool:
        """Whether no mail of a node goes by rsync."""
        return not any(peer["rsync"]["open"] for peer in (await self.mesh.status(name))["peers"].values())

    async def _posting(self, name: str) -> bool:
        peers = (await self.mesh.status(name))["peers"].values()
        return all(peer["rsync"]["open"] for peer in peers)


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    """Three hosts, one behind NAT, linked; in the end no node has met a bug."""
    network = Network()
    with Sandbox(directory, via=network.via) as mesh, Posts(mesh, behind_nat="mac") as posts:
        async with network:
            mesh.start()
            await mesh.linked()
            yield World(mesh, network, posts)
        mesh.stop()
        for place in mesh.places.values():
            log = place.log.read_text()
            assert "Traceback" not in log, log


def ways(mail: Correspondence) -> set[tuple[str, State]]:
    """The routes of all that was stored so far, and how far it has come on them."""
    return {(outcome.route, outcome.state) for _, receipt in mail.stored for outcome in receipt.outcomes}


async def cross(mesh: Sandbox, sender: str, to: str, message_id: str) -> str:
    """Send and wait until it is delivered; by which route."""
    async with mesh.client(sender) as client:
        receipt = await client.send({"id": message_id, "to": to, "body": "x"})
        (outcome,) = await receipt.delivered(timeout=PATIENCE_S)
        return outcome.route


def test_without_any_link_mail_crosses_by_rsync_in_every_direction_and_by_link_when_there_is_one(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with world(tmp_path) as here:
            await here.cut_and_noticed()
            pairs = [(one, other) for one in here.mesh.places for other in here.mesh.places if one != other]
            routes = await asyncio.gather(*(cross(here.mesh, *pair, "-".join(pair)) for pair in pairs))
            assert routes == ["rsync"] * 6
            for _, other in pairs:
                inbox = here.mesh.places[other].mailbox(other) / "inbox"
                await until(lambda inbox=inbox: len(list(inbox.iterdir())) == 2, "the files are there")
            here.heal()
            await here.mesh.linked()
            assert await cross(here.mesh, "mac", "agni", "again") == "direct"
            assert "rsync rests" in here.mesh.places["mac"].log.read_text()

    asyncio.run(story())


@pytest.mark.long
def test_a_stream_goes_on_while_links_are_cut_and_come_back_and_everything_arrives_once(
    tmp_path: Path, seed: int
) -> None:
    async def story() -> None:
        async with world(tmp_path) as here, Correspondence(here.mesh, seed) as mail:
            await here.cut_and_noticed()
            await until(lambda: ("rsync", State.DELIVERED) in ways(mail), "rsync carries it", seconds=PATIENCE_S)
            here.heal()
            await here.mesh.linked()
            await mail.ended()
            assert await mail.mistakes() == []
            assert set(mail.outcomes) == {State.DELIVERED}

    asyncio.run(story())


@pytest.mark.long
def test_on_healthy_links_a_burst_starts_no_rsync(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(tmp_path) as here, here.mesh.client("mac", timeout=PATIENCE_S) as mac:
            # On a busy machine the first links may take so long that rsync begins, and rests when they are there.
            for name in here.mesh.places:
                await until(lambda name=name: here.rests(name), f"rsync rests on {name}", seconds=PATIENCE_S)
            before = {name: len(place.log.read_text()) for name, place in here.mesh.places.items()}
            for start in range(0, BURST, 500):
                numbers = range(start, start + 500)
                receipts = await asyncio.gather(*(mac.send("agni", body=f"{number}") for number in numbers))
            await receipts[-1].delivered(timeout=PATIENCE_S)
            for name, place in here.mesh.places.items():
                since = place.log.read_text()[before[name] :]
                lost = re.search(r"link (to|from) \S+ down", since)  # no burst is to blame for that
                assert "mail goes by rsync" not in since or lost, since
                assert await here.rests(name) or lost, since

    asyncio.run(story())


@pytest.mark.long
def test_a_probe_goes_by_rsync_on_request_whatever_links_there_are(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(tmp_path) as here:
            for name, peer in (("mac", "agni"), ("agni", "rushabdev"), ("rushabdev", "agni")):
                async with here.mesh.client(name) as client:
                    assert (await client.ping(peer, route="rsync", timeout=PATIENCE_S)).route == "rsync"

    asyncio.run(story())


def test_a_transfer_that_is_under_way_is_waited_for_and_to_a_doctor_it_is_a_good_sign(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"], "agni": ["agni"]}) as mesh, Posts(mesh, behind_nat="mac") as posts:
            courier = Courier(
                "agni", posts.room("mac", "agni"), mesh.places["mac"].root / "ssh" / "config", pulls=False
            )
            (courier.room / "out" / "1.json").write_text("{}")
            theirs = posts.room("agni", "mac") / "in"
            folder = os.open(theirs, os.O_RDONLY)
            fcntl.flock(folder, fcntl.LOCK_EX)  # as rrsync does
            assert await courier.push(dry=True) == ""
            push = asyncio.create_task(courier.push())
            await asyncio.wait([push], timeout=1)
            os.close(folder)
            assert await push == ""
            assert [path.name for path in theirs.iterdir()] == ["1.json"]

    asyncio.run(story())


@pytest.mark.long
def test_nodes_rsync_and_sshd_are_killed_in_mid_transfer_again_and_again_and_nothing_is_lost(
    tmp_path: Path, seed: int
) -> None:
    async def story() -> None:
        async with world(tmp_path) as here:
            await here.cut_and_noticed()
            chance = random.Random(seed)
            async with Correspondence(here.mesh, seed, most_each=150) as mail:
                for what in chance.sample([here.kill_node, here.kill_rsync, here.kill_sshd] * KILLS, k=3 * KILLS):
                    await asyncio.sleep(chance.uniform(0.1, 0.8))
                    what(chance)
                await here.mesh.up()
                here.heal()
                await mail.ended()
                assert await mail.mistakes() == []

    asyncio.run(story())


@pytest.mark.parametrize("what", ["rubbish", "a symlink", "a FIFO", "a folder", "a greeting", "an unreadable frame"])
def test_what_is_no_mail_is_rejected_and_the_rest_is_read(tmp_path: Path, what: str) -> None:
    async def story() -> None:
        async with world(tmp_path) as here:
            room = here.posts.room("agni", "mac")
            bad = room / "in" / "000-bad.json"
            match what:
                case "rubbish":
                    bad.write_bytes(b"\xff" * 1000)
                case "a symlink":
                    bad.symlink_to("/etc/passwd")
                case "a FIFO":
                    os.mkfifo(bad)
                case "a folder":
                    bad.mkdir()
                case "a greeting":
                    bad.write_text('{"frame": "bye", "reason": "x"}')
                case _:
                    bad.write_text('{"frame": "deliver", "seq": 1, "envelopes": []}')
            await until(lambda: any((room / "rejected").iterdir()), "it is rejected")
            assert bad.name not in {path.name for path in (room / "in").iterdir()}
            async with here.mesh.client("mac") as mac:
                await mac.ping("agni", route="rsync", timeout=PATIENCE_S)

    asyncio.run(story())


def test_a_node_that_works_by_files_alone_sends_and_receives_by_trishula_sync(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"], "agni": ["agni"]}) as mesh, Posts(mesh, behind_nat="mac"):
            for place in mesh.places.values():
                text = place.config.read_text()
                place.config.write_text(text.replace("[node]\n", '[node]\ntransport = "files"\n'))
            mesh.start()
            await mesh.up()
            async with mesh.client("mac") as mac, mesh.client("agni") as agni:
                receipts = [await mac.send("agni", body="to"), await agni.send("mac", body="fro")]
                await until(lambda: synced(mesh, receipts), "rsync has carried all", seconds=PATIENCE_S)
                assert [receipt.outcomes[0].route for receipt in receipts] == ["rsync", "rsync"]

    async def synced(mesh: Sandbox, receipts: list[trishula.Receipt]) -> bool:
        command = [sys.executable, "-m", "trishula.cli.main", "sync", "--config", str(mesh.places["mac"].config)]
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == 0
        return all(receipt.settled for receipt in receipts)

    asyncio.run(story())


def test_a_probe_to_a_peer_without_the_fallback_says_so(three_nodes: Sandbox) -> None:
    async def ping() -> None:
        async with three_nodes.client("mac") as mac:
            with pytest.raises(trishula.TrishulaError, match="no rsync fallback to agni"):
                await mac.ping("agni", route="rsync")

    asyncio.run(ping())
