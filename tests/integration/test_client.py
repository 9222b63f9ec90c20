"""The library against real nodes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import unix_connect

import trishula
from trishula.cli.sandbox import Sandbox, until
from trishula.protocol import agent_frames, frames


async def inbox_file(mesh: Sandbox, agent: str, message_id: str) -> bytes:
    path = mesh.home(agent).mailbox(agent) / "inbox" / f"{message_id}.json"
    await until(path.exists, f"{path} is there")
    return path.read_bytes()


async def drained(client: trishula.Client) -> None:
    """Read what other tests have left."""
    page = await client.inbox(limit=1000)
    for _ in page["messages"]:
        await client.receive(timeout=60)


# ---------------------------------------------------------------- sending and receiving


def test_a_message_goes_from_agent_to_agent_with_all_that_is_known_of_it(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac, three_nodes.client("agni") as agni:
            await drained(agni)
            assert (mac.agent, mac.node) == ("mac", "mac")
            receipt = await mac.send("agni", subject="Build", body={"steps": [1, 2.50]}, priority="high", mood="calm")
            (outcome,) = await receipt.delivered(timeout=60)
            assert (outcome.to, outcome.dest, outcome.state) == ("agni", "agni", "delivered")
            assert (outcome.route, outcome.method) == ("direct", "websocket")
            assert outcome.latency_ms is not None
            assert outcome.latency_ms > 0

            message = await agni.receive(timeout=60)
            assert message["from"] == message.sender == "mac"
            assert message.id == receipt.id
            assert message["body"] == {"steps": [1, 2.5]}
            assert (message["subject"], message["priority"], message["mood"]) == ("Build", "high", "calm")
            assert (message.meta.from_node, message.meta.route) == ("mac", "direct")
            assert abs(datetime.now(UTC) - message.meta.received_at) < timedelta(minutes=1)

            file = await inbox_file(three_nodes, "agni", receipt.id)
            assert file == message.raw + b"\n"
            assert hashlib.sha256(file).hexdigest() == receipt.digest == message.meta.digest

    asyncio.run(story())


def test_a_list_of_recipients_has_an_outcome_for_each(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac:
            receipt = await mac.send(["agni", "rushabdev", "mac"], subject="Plan")
            await receipt.delivered(timeout=60)
            assert {outcome.to: outcome.state for outcome in receipt.outcomes} == {
                "agni": "delivered",
                "rushabdev": "delivered",
                "mac": "delivered",
            }

    asyncio.run(story())


def test_all_means_everybody_but_the_sender(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("agni") as agni:
            receipt = await agni.send("ALL", subject="Standup")
            assert {outcome.to for outcome in await receipt.delivered(timeout=60)} == {"mac", "rushabdev"}

    asyncio.run(story())


def test_the_same_message_sent_again_is_the_same_message(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac, three_nodes.client("agni") as agni:
            await drained(agni)
            message = {"id": "same-again", "to": "agni", "body": "x", "timestamp": "2026-01-01T00:00:00Z"}
            first = await mac.send(message)
            await first.delivered(timeout=60)
            again = await mac.send(message)
            assert (again.id, again.digest) == (first.id, first.digest)
            await again.delivered(timeout=60)
            last = await mac.send("agni", subject="after it")
            assert [(await agni.receive(timeout=60)).id for _ in range(2)] == ["same-again", last.id]

    asyncio.run(story())


def test_an_id_reused_with_another_content_is_refused_by_name(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac:
            await mac.send({"id": "reused", "to": "agni", "body": "one"})
            with pytest.raises(trishula.SendError, match="already sent another message with the id reused") as refused:
                await mac.send({"id": "reused", "to": "agni", "body": "two"})
            assert (refused.value.code, refused.value.key) == ("id_conflict", "id")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("to", "word"), [("nobody", "known are agni, mac, rushabdev"), ("@builders", "no groups"), (["mac", "x"], "'x'")]
)
def test_an_unknown_recipient_is_an_error_that_names_the_known(
    three_nodes: Sandbox, to: str | list[str], word: str
) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac:
            with pytest.raises(trishula.SendError, match=word) as refused:
                await mac.send(to, body="x")
            assert refused.value.code == "unknown_recipient"

    asyncio.run(story())


def test_a_message_over_the_limit_is_refused_here_and_the_connection_goes_on(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac:
            with pytest.raises(trishula.MessageError, match="the limit is 1048576"):
                await mac.send("agni", body="x" * 1024 * 1024)
            await (await mac.send("agni", body="x" * 1000 * 1000)).delivered(timeout=60)

    asyncio.run(story())


def test_a_refusal_by_the_recipients_node_comes_back_with_its_reason(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"], "agni": ["agni"]}) as mesh:
            config = mesh.places["agni"].config
            config.write_text(config.read_text().replace("[limits]\n", "[limits]\nmax_message_bytes = 1024\n"))
            mesh.start()
            await mesh.linked()
            async with mesh.client("mac") as mac:
                receipt = await mac.send("agni", body="x" * 2000)
                with pytest.raises(trishula.Refused, match=r"agni refused it for agni: too_large.*limit is 1024"):
                    await receipt.delivered(timeout=60)
                assert receipt.settled
                assert receipt.outcomes[0].state == "refused"

    asyncio.run(story())


def test_every_client_of_an_agent_gets_every_message(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with (
            three_nodes.client("mac") as mac,
            three_nodes.client("agni") as one,
            three_nodes.client("agni") as other,
        ):
            await asyncio.gather(drained(one), drained(other))
            sent = [(await mac.send("agni", subject=str(number))).id for number in range(20)]
            for client in (one, other):
                assert [(await client.receive(timeout=60)).id for _ in sent] == sent

    asyncio.run(story())


def test_iteration_begins_with_the_unread_and_goes_on_where_it_left_off(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac:
            async with three_nodes.client("rushabdev") as rushabdev:
                await drained(rushabdev)
            first = [(await mac.send("rushabdev", subject=str(number))).id for number in range(6)]
            async with three_nodes.client("rushabdev") as rushabdev:
                while (await rushabdev.receive(timeout=60)).id != first[0]:
                    pass
                async for message in rushabdev:
                    assert message.id == first[1]
                    break
                seen = []
                async for message in rushabdev:
                    seen.append(message.id)
                    if len(seen) == 4:
                        break
                assert seen == first[2:]
                new = await mac.send("rushabdev", subject="new")
                assert (await rushabdev.receive(timeout=60)).id == new.id

    asyncio.run(story())


def test_waiting_for_a_message_in_vain_is_timed_out_and_loses_none(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac, three_nodes.client("rushabdev") as rushabdev:
            await drained(rushabdev)
            with pytest.raises(trishula.TimedOut, match="no message within"):
                await rushabdev.receive(timeout=0.01)
            sent: list[str] = []
            seen: list[str] = []

            async def send() -> None:
                for number in range(200):
                    receipt = await mac.send("rushabdev", subject=str(number))
                    sent.append(receipt.id)

            sending = asyncio.create_task(send())
            while not sending.done() or len(seen) < len(sent):
                try:
                    seen.append((await rushabdev.receive(timeout=0.0005)).id)
                except trishula.TimedOut:
                    continue
            await sending
            assert seen == sent

    asyncio.run(story())


def test_an_agent_that_does_not_read_can_still_send(three_nodes: Sandbox) -> None:
    """Its unread mail is more than all buffers on the way take."""

    async def story() -> None:
        async with three_nodes.client("mac") as mac, three_nodes.client("agni") as agni:
            await drained(agni)
            letters = [await mac.send("agni", subject=str(number), body="x" * 200_000) for number in range(60)]
            await asyncio.gather(*(letter.delivered(timeout=60) for letter in letters))
            first = await agni.receive(timeout=60)
            assert first.id == letters[0].id
            reply = await agni.send("mac", reply_to=first.id, body="thinking about it")
            await reply.delivered(timeout=60)
            for letter in letters[1:]:
                assert (await agni.receive(timeout=60)).id == letter.id

    asyncio.run(story())


@pytest.mark.parametrize("style", ["plain", "async"])
def test_on_message_is_called_with_each_message_and_its_meta(three_nodes: Sandbox, style: str) -> None:
    async def story() -> None:
        seen: list[tuple[str, str]] = []

        def plain(message: trishula.Message, meta: trishula.Meta) -> None:
            seen.append((message.id, meta.from_node))

        async def asynchronous(message: trishula.Message, meta: trishula.Meta) -> None:
            await asyncio.sleep(0)
            plain(message, meta)

        callback = plain if style == "plain" else asynchronous
        async with (
            three_nodes.client("mac") as mac,
            trishula.Client(three_nodes.home("agni").socket("agni"), on_message=callback) as agni,
        ):
            receipt = await mac.send("agni", subject="ring")
            await until(lambda: (receipt.id, "mac") in seen, "the callback was called")
            with pytest.raises(RuntimeError, match="on_message"):
                aiter(agni)

    asyncio.run(story())


def test_what_on_message_raises_comes_out_of_the_block_as_itself(three_nodes: Sandbox) -> None:
    def explode(message: trishula.Message, _: trishula.Meta) -> None:
        raise LookupError(message.id)

    async def story() -> None:
        async with three_nodes.client("mac") as mac:
            await mac.send("agni", subject="boom")
            with pytest.raises(LookupError):
                async with trishula.Client(three_nodes.home("agni").socket("agni"), on_message=explode):
                    await asyncio.get_running_loop().create_future()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_what_the_block_raises_comes_out_as_itself(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac"):
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        asyncio.run(story())


# ---------------------------------------------------------------- asking


def test_inbox_lists_the_unread_in_pages(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("agni") as agni, three_nodes.client("rushabdev") as rushabdev:
            sent = [await agni.send("rushabdev", subject=f"page {number}") for number in range(5)]
            await asyncio.gather(*(receipt.delivered(timeout=60) for receipt in sent))
            everything = (await rushabdev.inbox(limit=1000))["messages"]
            assert [item["id"] for item in everything][-5:] == [receipt.id for receipt in sent]
            last = everything[-1]
            assert (last["from"], last["subject"], last["digest"]) == ("agni", "page 4", sent[-1].digest)
            start = everything[-6]["cursor"] if len(everything) > 5 else 0
            page = await rushabdev.inbox(after=start, limit=2)
            assert [item["subject"] for item in page["messages"]] == ["page 0", "page 1"]
            assert page["more"] is True
            rest = await rushabdev.inbox(after=page["messages"][-1]["cursor"])
            assert [item["subject"] for item in rest["messages"]] == ["page 2", "page 3", "page 4"]
            assert rest["more"] is False

    asyncio.run(story())


def test_show_has_the_exact_payload_on_both_sides(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac, three_nodes.client("agni") as agni:
            receipt = await mac.send(b'{"to":"agni","price":1.10}')
            await receipt.delivered(timeout=60)
            sent, got = await mac.show(receipt.id), await agni.show(receipt.id)
            assert (sent["box"], got["box"]) == ("outbox", "inbox")
            assert sent["payload"] == got["payload"]
            assert '"price": 1.10,' in sent["payload"]
            assert hashlib.sha256(sent["payload"].encode()).hexdigest() == sent["digest"] == got["digest"]
            assert sent["outcomes"][0]["state"] == "delivered"
            assert got["meta"]["node"] == "mac"
            with pytest.raises(trishula.RequestError, match="no-such-id"):
                await mac.show("no-such-id")

    asyncio.run(story())


def test_status_tells_of_links_and_agents(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac:
            status = await mac.status()
            assert (status["node"], status["ready"], status["version"]) == ("mac", True, trishula.__version__)
            assert {name: peer["linked"] for name, peer in status["peers"].items()} == {"agni": True, "rushabdev": True}
            assert status["agents"]["mac"]["unread"] >= 0
            assert status["store"]["ok"] is True

    asyncio.run(story())


def test_an_agent_is_attached_while_a_client_of_it_waits_for_messages(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"]}) as mesh:
            mesh.start()
            await mesh.up()
            async with mesh.client("mac") as asking:

                async def attached() -> int:
                    return int((await asking.status())["agents"]["mac"]["attached"])

                async def twice() -> bool:
                    return await attached() == 2

                async def nobody() -> bool:
                    return await attached() == 0

                assert await nobody()
                async with mesh.client("mac") as one, mesh.client("mac") as other:
                    waiting = [asyncio.create_task(client.receive()) for client in (one, other)]
                    await until(twice, "both are attached")
                    for task in waiting:
                        task.cancel()
                await until(nobody, "nobody is attached")

    asyncio.run(story())


def test_ping_goes_to_every_node_and_leaves_no_file(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac:
            for node in three_nodes.places:
                outcome = await mac.ping(node, timeout=60)
                assert (outcome.dest, outcome.state, outcome.route) == (node, "delivered", "direct")
            with pytest.raises(trishula.SendError, match="no node 'nowhere'"):
                await mac.ping("nowhere")
        for place in three_nodes.places.values():
            assert not list(place.root.rglob("*ping*"))

    asyncio.run(story())


# ---------------------------------------------------------------- the way in


def test_an_agent_on_the_network_comes_in_by_tls_and_its_token(three_nodes: Sandbox) -> None:
    async def story() -> None:
        place = three_nodes.home("rushabdev")
        for token in (
            {"token_file": place.token_file("rushabdev")},
            {"token": place.token_file("rushabdev").read_text()},
        ):
            async with (
                trishula.Client(url=place.url, ca=place.ca, **token) as rushabdev,  # type: ignore[arg-type]
                three_nodes.client("mac") as mac,
            ):
                assert rushabdev.agent == "rushabdev"
                await drained(rushabdev)
                receipt = await rushabdev.send("mac", subject="over the network")
                await receipt.delivered(timeout=60)
                answer = await mac.send("rushabdev", reply_to=receipt.id)
                assert (await rushabdev.receive(timeout=60)).id == answer.id

    asyncio.run(story())


def test_who_is_not_let_in_hears_why(three_nodes: Sandbox) -> None:
    async def story() -> None:
        place, other = three_nodes.home("rushabdev"), three_nodes.home("agni")
        with pytest.raises(trishula.NodeUnreachable, match="token") as refused:
            async with trishula.Client(url=place.url, ca=place.ca, token_file=other.token_file("agni")):
                pass
        assert refused.value.code == "unauthorized"
        with pytest.raises(trishula.NodeUnreachable, match=r"certificate of wss://.*not to be trusted"):
            async with trishula.Client(url=place.url, token_file=place.token_file("rushabdev")):
                pass
        with pytest.raises(trishula.NodeUnreachable, match="No such file"):
            async with trishula.Client(url=place.url, ca=place.ca, token_file=place.root / "no-such-token"):
                pass

    asyncio.run(story())


def test_where_no_node_is_the_error_names_the_socket_and_the_fix(tmp_path: Path) -> None:
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(stale))

    async def story() -> None:
        for path in (tmp_path / "missing.sock", stale):
            with pytest.raises(trishula.NodeUnreachable, match="systemctl start trishula-node") as unreachable:
                async with trishula.Client(path):
                    pass
            assert str(path) in str(unreachable.value)
        with pytest.raises(trishula.NodeUnreachable, match=r"wss://127\.0\.0\.1:9"):
            async with trishula.Client(url="wss://127.0.0.1:9", token="x"):
                pass

    asyncio.run(story())


def test_a_patient_client_waits_for_a_node_that_starts_later(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"]}) as mesh:

            async def enter() -> str:
                async with mesh.client("mac", patience=20) as mac:
                    return mac.node

            entering = asyncio.create_task(enter())
            await asyncio.sleep(0)
            mesh.start()
            assert await entering == "mac"

    asyncio.run(story())


# ---------------------------------------------------------------- against the node without the library


def test_a_from_that_is_not_the_authenticated_agent_is_refused_by_the_node_naming_both(three_nodes: Sandbox) -> None:
    async def story() -> dict[str, Any]:
        async with unix_connect(str(three_nodes.home("mac").socket("mac"))) as connection:
            assert isinstance(agent_frames.decode_reply(await connection.recv(decode=False)), agent_frames.Greeting)
            forged = msgspec.Raw(b'{"to": "agni", "from": "rushabdev", "body": "I am not who I say"}')
            await connection.send(frames.encode(agent_frames.Send(ref=1, message=forged)), text=True)
            answer: dict[str, Any] = json.loads(await connection.recv())
            return answer

    answer = asyncio.run(story())
    assert (answer["frame"], answer["code"], answer["key"]) == ("failed", "wrong_sender", "from")
    assert "'rushabdev'" in answer["message"]
    assert "'mac'" in answer["message"]
