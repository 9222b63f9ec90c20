"""kill -9 at any moment: what was reported stored is in the inbox exactly once, and who comes back is linked again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

import trishula
from trishula.cli.sandbox import Sandbox, until
from trishula.protocol.message import digest_of

ROUNDS = 4
WRITERS = 4


def found(mesh: Sandbox, agent: str) -> Counter[tuple[str, str]]:
    """(id, digest) of every message in the agent's inbox or archive, with the number of its files."""
    files = Counter[tuple[str, str]]()
    for box in ("inbox", "archive"):
        for path in (mesh.home(agent).mailbox(agent) / box).glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # the agent has just moved it
                payload = path.read_bytes()
                files[json.loads(payload)["id"], digest_of(payload)] += 1
    return files


async def write(client: trishula.Client, to: str, receipts: list[trishula.Receipt], stop: asyncio.Event) -> None:
    for number in itertools.count():
        if stop.is_set():
            return
        receipts.append(await client.send(to, subject=str(number), body="x" * (number % 7) * 300))


async def handle(mesh: Sandbox, agent: str, chance: random.Random, stop: asyncio.Event) -> None:
    """The agent at work: it archives most of what comes, often before its node knows it to be on the disk."""
    mailbox = mesh.home(agent).mailbox(agent)
    number = itertools.count()
    while not stop.is_set():
        await asyncio.sleep(0.001)
        for path in (mailbox / "inbox").glob("*.json"):
            if chance.random() < 0.7:
                # Under a name of its own: if the same message came again, it would be there twice.
                path.rename(mailbox / "archive" / f"{next(number)}~{path.name}")


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_what_was_stored_is_there_exactly_once_whoever_is_killed_whenever(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"], "agni": ["agni"]}) as mesh:
            mesh.start()
            await mesh.linked()
            sent: dict[str, list[trishula.Receipt]] = {"mac": [], "agni": []}
            stop, handled = asyncio.Event(), asyncio.Event()
            async with mesh.client("mac") as mac, mesh.client("agni") as agni, asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(handle(mesh, agent, random.Random(seed), handled)) for agent in sent]
                writing = [
                    tasks.create_task(write(client, to, sent[to], stop))
                    for client, to in ((mac, "agni"), (agni, "mac"))
                    for _ in range(WRITERS)
                ]
                for _ in range(ROUNDS):
                    await asyncio.sleep(chance.uniform(0.02, 0.4))
                    victim = chance.choice(["mac", "agni"])
                    mesh.kill(victim)
                    await asyncio.sleep(chance.uniform(0, 0.3))
                    mesh.start(victim)
                    # now and then it is killed again before it has found its feet
                    if chance.random() < 0.3:
                        await asyncio.sleep(chance.uniform(0.2, 0.6))
                        mesh.kill(victim)
                        mesh.start(victim)
                    await mesh.up(victim)
                stop.set()
                await asyncio.gather(*writing)
                await asyncio.gather(*(receipt.delivered(timeout=60) for each in sent.values() for receipt in each))
                for agent, receipts in sent.items():
                    expected = {(receipt.id, receipt.digest) for receipt in receipts}
                    assert len(expected) == len(receipts) > ROUNDS
                    await until(lambda a=agent, e=expected: e <= found(mesh, a).keys(), f"{agent} has all")  # type: ignore[misc]
                handled.set()
                await asyncio.gather(*working)
            for agent, receipts in sent.items():
                # Nothing twice, nothing altered; and what is there beside that was sent too, though we never heard so.
                files = found(mesh, agent)
                assert set(files.values()) == {1}
                assert files.keys() >= {(receipt.id, receipt.digest) for receipt in receipts}
                assert len({message_id for message_id, _ in files}) == len(files)
            for place in mesh.places.values():
                assert "Traceback" not in place.log.read_text()

    asyncio.run(story())


@pytest.mark.parametrize("victim", ["mac", "agni"])
def test_a_killed_peer_that_comes_back_is_linked_again(tmp_path: Path, victim: str) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"], "agni": ["agni"]}) as mesh:
            mesh.start()
            await mesh.linked()
            mesh.kill(victim)
            (other,) = {"mac", "agni"} - {victim}

            async def alone() -> bool:
                return not (await mesh.status(other))["peers"][victim]["linked"]

            await until(alone, f"{other} misses {victim}")
            mesh.start(victim)
            await mesh.up(victim)
            await mesh.linked()  # in under 5 s: tests/topology asks that of hosts

    asyncio.run(story())


def test_what_was_stored_while_the_recipient_was_away_arrives_in_order_when_it_is_back(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"], "agni": ["agni"]}) as mesh:
            mesh.start("mac")
            await mesh.up("mac")
            async with mesh.client("mac") as mac:
                receipts = [await mac.send("agni", subject=str(number)) for number in range(300)]
                mesh.kill("mac")
                mesh.start()
                async with mesh.client("agni", patience=20) as agni:
                    seen = [(await agni.receive(timeout=60)).id for _ in receipts]
                assert seen == [receipt.id for receipt in receipts]
                await asyncio.gather(*(receipt.delivered(timeout=60) for receipt in receipts))

    asyncio.run(story())
