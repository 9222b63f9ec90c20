"""The library over connections that break at the worst moments: between it and a real node stands a proxy that cuts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import trishula
from trishula.cli.sandbox import Sandbox, until


class Proxy:
    """A Unix socket in front of a node's. `cut` ends all connections; while not `open`, new ones end at once."""

    def __init__(self, path: Path, node: Path) -> None:
        self.path = path
        self.open = True
        self.mute = False
        """Swallow what the node says, and count it as heard."""
        self.swallowed = 0
        self.connections = 0
        self._node = node
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_unix_server(self._serve, self.path)
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if not self.open:
            writer.transport.abort()
            return
        self._writers.add(writer)
        self.connections += 1
        from_node, to_node = await asyncio.open_unix_connection(self._node)
        self._writers.add(to_node)
        await asyncio.gather(self._pump(reader, to_node, muted=False), self._pump(from_node, writer, muted=True))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, muted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if muted and self.mute:
                    self.swallowed += len(data)
                    continue
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("pair"), {"mac": ["mac"], "agni": ["agni"]}) as sandbox:
        sandbox.start()
        asyncio.run(sandbox.linked())
        yield sandbox


def proxy_to(mesh: Sandbox, agent: str, directory: Path) -> contextlib.AbstractAsyncContextManager[Proxy]:
    return Proxy(directory / "proxy.sock", mesh.home(agent).socket(agent)).running()


def copies(mesh: Sandbox, agent: str, box: str, message_id: str) -> int:
    return len(list((mesh.home(agent).mailbox(agent) / box).glob(f"{message_id}*.json")))


def test_a_send_whose_answer_is_lost_is_sent_again_as_the_same_message(mesh: Sandbox, tmp_path: Path) -> None:
    async def story() -> None:
        async with proxy_to(mesh, "mac", tmp_path) as proxy, trishula.Client(proxy.path) as mac:
            proxy.mute = True
            sending = asyncio.create_task(mac.send("agni", subject="once"))
            await until(lambda: proxy.swallowed > 0, "the node has answered")
            proxy.mute = False
            proxy.cut()
            receipt = await sending
            await receipt.delivered(timeout=60)
            assert proxy.connections == 2
            assert (await mac.show(receipt.id))["digest"] == receipt.digest
            await until(lambda: copies(mesh, "agni", "inbox", receipt.id), "the file is there")
            unread = (await asyncio.wait_for(_unread(mesh, "agni"), 60))[-1:]
            assert unread == [receipt.id]
            assert copies(mesh, "agni", "inbox", receipt.id) == 1
            assert copies(mesh, "mac", "outbox", receipt.id) == 1

    asyncio.run(story())


async def _unread(mesh: Sandbox, agent: str) -> list[str]:
    async with mesh.client(agent) as client:
        return [item["id"] for item in (await client.inbox(limit=1000))["messages"]]


def test_many_sends_at_once_survive_many_cuts_each_as_one_message(mesh: Sandbox, tmp_path: Path) -> None:
    async def story() -> None:
        async with proxy_to(mesh, "mac", tmp_path) as proxy, trishula.Client(proxy.path) as mac:
            before = set(await _unread(mesh, "agni"))
            sending = asyncio.gather(*(mac.send("agni", subject=str(number)) for number in range(300)))
            for _ in range(5):
                connections = proxy.connections
                proxy.cut()
                await until(lambda then=connections: proxy.connections > then, "the client is back")  # type: ignore[misc]
            receipts = await sending
            await asyncio.gather(*(receipt.delivered(timeout=60) for receipt in receipts))
            after = [message for message in await _unread(mesh, "agni") if message not in before]
            assert sorted(after) == sorted(receipt.id for receipt in receipts)

    asyncio.run(story())


def test_an_outcome_that_came_while_the_client_was_away_is_asked_for(tmp_path: Path) -> None:
    async def story() -> None:
        homes = {"mac": ["mac"], "agni": ["agni"], "rushabdev": ["rushabdev"]}
        with Sandbox(tmp_path / "mesh", homes) as mesh:
            mesh.start("mac", "rushabdev")
            await mesh.up("mac", "rushabdev")
            async with proxy_to(mesh, "mac", tmp_path) as proxy, trishula.Client(proxy.path) as mac:
                receipt = await mac.send(["agni", "rushabdev"], subject="while I am away")
                waiting = asyncio.create_task(receipt.delivered(timeout=60))
                proxy.open = False
                proxy.cut()
                mesh.start("agni")

                async def delivered() -> bool:
                    async with mesh.client("mac") as other:
                        outcomes = (await other.show(receipt.id))["outcomes"]
                    return all(outcome["state"] == "delivered" for outcome in outcomes)

                await until(delivered, "the message is delivered behind the client's back")
                assert not receipt.settled
                proxy.open = True
                assert {outcome.to for outcome in await waiting} == {"agni", "rushabdev"}

    asyncio.run(story())


def test_messages_go_on_after_the_last_that_was_read_with_none_twice_and_none_left_out(
    mesh: Sandbox, tmp_path: Path
) -> None:
    async def story() -> None:
        async with (
            mesh.client("mac") as mac,
            proxy_to(mesh, "agni", tmp_path) as proxy,
            trishula.Client(proxy.path) as agni,
        ):
            for _ in await _unread(mesh, "agni"):
                await agni.receive(timeout=60)
            sent, seen = [], []
            for number in range(60):
                receipt = await mac.send("agni", subject=str(number))
                sent.append(receipt.id)
                if number % 20 == 10:
                    await receipt.delivered(timeout=60)
                    proxy.cut()
                if number % 3 == 0:
                    seen.append((await agni.receive(timeout=60)).id)
            while len(seen) < len(sent):
                seen.append((await agni.receive(timeout=60)).id)
            assert seen == sent

    asyncio.run(story())


def test_a_request_that_finds_no_node_for_its_whole_time_says_that_it_is_not_reachable(
    mesh: Sandbox, tmp_path: Path
) -> None:
    async def story() -> None:
        async with proxy_to(mesh, "mac", tmp_path) as proxy, trishula.Client(proxy.path, timeout=0.5) as mac:
            proxy.open = False
            proxy.cut()
            with pytest.raises(trishula.NodeUnreachable, match=str(proxy.path)):
                await mac.send("agni", subject="nobody hears")
            proxy.open = True
            await until(lambda: proxy.connections >= 2, "the client is back")
            assert (await mac.status())["node"] == "mac"

    asyncio.run(story())


def test_a_node_that_is_there_and_says_nothing_is_timed_out(mesh: Sandbox, tmp_path: Path) -> None:
    async def story() -> None:
        async with proxy_to(mesh, "mac", tmp_path) as proxy, trishula.Client(proxy.path, timeout=0.2) as mac:
            proxy.mute = True
            with pytest.raises(trishula.TimedOut, match=r"did not answer within 0\.2 s"):
                await mac.send("agni", subject="heard and not answered")

    asyncio.run(story())


def test_a_new_store_begins_its_cursors_anew_and_so_does_the_client(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"]}) as mesh:
            mesh.start()
            await mesh.up()
            async with mesh.client("mac") as mac:
                for number in range(5):
                    await mac.send("mac", subject=f"old {number}")
                    message = await mac.receive(timeout=60)
                    assert message["subject"] == f"old {number}"
                    if number < 4:
                        await mac.done(message)
                archive = mesh.places["mac"].mailbox("mac") / "archive"
                await until(lambda: len(list(archive.iterdir())) == 4, "what is done is in the archive")
                mesh.stop("mac")
                store = mesh.places["mac"].root / "state" / "store"
                store.rename(store.with_name("lost"))
                mesh.start()
                await mac.send("mac", subject="new")
                for subject in ("old 4", "new"):  # what lies in the inbox is still unread
                    assert (await mac.receive(timeout=60))["subject"] == subject

    asyncio.run(story())
