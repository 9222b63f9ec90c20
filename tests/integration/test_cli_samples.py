"""The agents' own messages, from the command line to the recipient's disk: every field as it was, to the last digit."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trishula.cli.sandbox import Sandbox, until

SAMPLES = sorted((Path(__file__).parent.parent / "samples").glob("*.json"))
FILLED_IN = ("id", "from", "timestamp")


def slices(raw: bytes) -> list[tuple[str, bytes]]:
    """The fields of an object in their order, each value as it is spelt."""
    return [(key, bytes(value)) for key, value in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items()]


def recipients(message: Mapping[str, Any], mesh: Sandbox) -> list[str]:
    to = message["to"]
    if isinstance(to, str) and to.lower() == "all":
        return [agent for place in mesh.places.values() for agent in place.agents if agent != message["from"]]
    return [to] if isinstance(to, str) else to


def test_the_samples_are_here() -> None:
    assert len(SAMPLES) == 11


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_arrives_with_every_field_equal(three_nodes: Sandbox, sample: Path) -> None:
    original = sample.read_bytes()
    message = json.loads(original)
    sender = three_nodes.home(message["from"])
    command = [
        sys.executable,
        "-m",
        "trishula.cli.main",
        "send",
        "--file",
        str(sample),
        "--wait",
        "delivered",
        "--json",
    ]
    done = subprocess.run(
        [*command, "--timeout", "20", "--socket", str(sender.socket(message["from"]))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    receipt = json.loads(done.stdout)
    assert receipt["id"] == message.get("id", receipt["id"])
    expected = recipients(message, three_nodes)
    assert [outcome["to"] for outcome in receipt["outcomes"]] == expected
    assert {outcome["state"] for outcome in receipt["outcomes"]} == {"delivered"}

    async def arrivals() -> None:
        outbox = sender.mailbox(message["from"]) / "outbox" / f"{receipt['id']}.json"
        for agent in expected:
            inbox = three_nodes.home(agent).mailbox(agent) / "inbox" / f"{receipt['id']}.json"
            for path in (inbox, outbox):
                await until(path.exists, f"{path} is there")
                arrived = slices(path.read_bytes())
                added = [key for key in FILLED_IN if key not in message]
                assert arrived[: len(message)] == slices(original)
                assert [key for key, _ in arrived[len(message) :]] == added
                assert hashlib.sha256(path.read_bytes()).hexdigest() == receipt["digest"]
            async with three_nodes.client(agent) as client:
                async for received in client:
                    if received.id == receipt["id"] and received.meta.digest == receipt["digest"]:
                        break
                assert received.raw + b"\n" == inbox.read_bytes()
                assert received.items() >= message.items()
                assert received.meta.from_node == sender.name

    asyncio.run(asyncio.wait_for(arrivals(), 60))


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_of_both_files_is_the_digest_of_the_receipt(three_nodes: Sandbox) -> None:
    async def send() -> tuple[str, list[Path]]:
        async with three_nodes.client("mac") as mac:
            receipt = await mac.send("agni", subject="sum")
            await receipt.delivered(timeout=60)
            files = [
                three_nodes.home("mac").mailbox("mac") / "outbox" / f"{receipt.id}.json",
                three_nodes.home("agni").mailbox("agni") / "inbox" / f"{receipt.id}.json",
            ]
            await until(lambda: all(file.exists() for file in files), "both files are there")
            return receipt.digest, files

    digest, files = asyncio.run(send())
    summed = subprocess.run(["sha256sum", *files], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in summed.stdout.splitlines()] == [digest, digest]
