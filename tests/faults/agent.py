"""An agent on one of the hosts: writes to all others, files its mail away, and tells in lines of JSON what it learns.

    python agent.py SOCKET MAILBOX STREAM EVERY_S RECIPIENT...

Each line has the moment `at`, in seconds since 1970. When stdin ends it writes no more, waits until all that it wrote
is confirmed, and leaves.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import trishula

PATIENCE_S = 60.0


def tell(**what: Any) -> None:
    sys.stdout.write(json.dumps({"at": time.time(), **what}) + "\n")
    sys.stdout.flush()


async def write(mesh: trishula.Client, to: str, stream: str, every_s: float, stop: asyncio.Event) -> None:
    receipts = []
    while not stop.is_set():
        body = f"{to}, this is number {len(receipts)} ✓ " * (1 + len(receipts) % 50)
        # While the node is away this waits, and then sends the same message again.
        receipt = await mesh.send(to, subject="faults", body=body, stream=stream)
        tell(stored=receipt.id, to=to, digest=receipt.digest)
        receipts.append(receipt)
        await asyncio.sleep(every_s)
    for receipt in receipts:
        (outcome,) = await receipt.delivered(timeout=PATIENCE_S)
        tell(confirmed=receipt.id, route=outcome.route)


async def listen(mesh: trishula.Client) -> None:
    async for message in mesh:
        meta = message.meta
        tell(arrived=message.id, sender=message.sender, route=meta.route, at=meta.received_at.timestamp())


async def report_links(mesh: trishula.Client, every_s: float) -> None:
    while True:
        status = await mesh.status()
        tell(linked=sorted(name for name, peer in status["peers"].items() if peer["linked"]))
        await asyncio.sleep(every_s)


async def file_away(mailbox: Path) -> None:
    """As agents do; and a message that moves just when its node dies must not be written again."""
    while True:
        for path in sorted((mailbox / "inbox").glob("*.json"))[::2]:
            path.rename(mailbox / "archive" / path.name)
        await asyncio.sleep(1)


async def main(socket: str, mailbox: str, stream: str, every_s: str, *recipients: str) -> None:
    stop = asyncio.Event()
    async with trishula.Client(socket, patience=PATIENCE_S, timeout=PATIENCE_S) as mesh, asyncio.TaskGroup() as group:
        chores = (listen(mesh), report_links(mesh, 2 * float(every_s)), file_away(Path(mailbox)))
        background = [group.create_task(chore) for chore in chores]
        writers = [group.create_task(write(mesh, to, stream, float(every_s), stop)) for to in recipients]
        await asyncio.to_thread(sys.stdin.read)
        stop.set()
        await asyncio.gather(*writers)
        for task in background:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
