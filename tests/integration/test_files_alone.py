"""What an agent that knows only files is told: receipts, what others put into its inbox; and the log of all sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import trishula
from trishula.cli.sandbox import Sandbox, until
from trishula.node.unsigned import UNSIGNED

TWO = {"mac": ("mac", "dhyana"), "agni": ("agni",)}
PATIENCE_S = 60.0


def in_a_mesh(tmp_path: Path, work: Callable[[Sandbox], Awaitable[None]], settings: dict[str, dict[str, Any]]) -> None:
    with Sandbox(tmp_path, TWO, settings=settings) as mesh:
        mesh.start()

        async def run() -> None:
            await mesh.linked()
            await work(mesh)

        asyncio.run(run())
        assert not any("Traceback" in place.log.read_text() for place in mesh.places.values())


def loaded(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    assert isinstance(found, dict)
    return found


# ---------------------------------------------------------------- receipts


def test_a_receipt_follows_its_message_and_who_wants_none_gets_none(tmp_path: Path) -> None:
    async def work(mesh: Sandbox) -> None:
        mac, agni = mesh.home("mac").mailbox("mac"), mesh.home("agni").mailbox("agni")
        mesh.kill("agni")
        (mac / "outbox" / "m.json").write_text(json.dumps({"id": "m", "to": "agni"}))
        (mesh.home("mac").mailbox("dhyana") / "outbox" / "d.json").write_text(json.dumps({"id": "d", "to": "agni"}))
        receipt = mac / "receipts" / "m~agni.json"
        await until(lambda: loaded(receipt).get("state") == "stored", "it is said to be stored", seconds=PATIENCE_S)
        assert (loaded(receipt)["method"], loaded(receipt)["latency_ms"]) == ("", None)
        mesh.kill("mac")
        mesh.start("mac", "agni")
        await until(lambda: loaded(receipt).get("state") == "delivered", "and delivered", seconds=PATIENCE_S)
        told = loaded(receipt)
        assert (told["id"], told["from"], told["to"], told["node"]) == ("m", "mac", "agni", "agni")
        assert (told["route"], told["method"], told["reason"]) == ("direct", "websocket", "")
        assert told["latency_ms"] > 0
        assert told["stored_at"] < told["at"] < told["expires_at"]
        await until((agni / "inbox" / "m.json").exists, "its file is there", seconds=PATIENCE_S)
        (agni / "inbox" / "m.json").rename(agni / "archive" / "m.json")
        await until(lambda: loaded(receipt).get("state") == "read", "and read", seconds=PATIENCE_S)
        await until((agni / "inbox" / "d.json").exists, "the other has come", seconds=PATIENCE_S)
        assert [path.name for path in (mac / "receipts").iterdir()] == ["m~agni.json"]
        assert not list((mesh.home("mac").mailbox("dhyana") / "receipts").iterdir())

    in_a_mesh(tmp_path, work, {"agents.mac": {"receipts": True}})


# ---------------------------------------------------------------- the log of sends


def test_each_send_is_a_line_in_the_log_and_its_receipt_another(tmp_path: Path) -> None:
    async def work(mesh: Sandbox) -> None:
        path = mesh.places["mac"].root / "JIKOKU_LOG.jsonl"

        def lines() -> list[dict[str, Any]]:
            return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

        async with mesh.client("mac") as mac:
            one = await mac.send("agni", subject="by socket", session_id="my session")
            await one.delivered(timeout=PATIENCE_S)
            await mac.ping("agni")
        (mesh.home("mac").mailbox("mac") / "outbox" / "two.json").write_text('{"id": "two", "to": ["agni", "dhyana"]}')
        await until(lambda: len(lines()) == 6, "all six lines are there", seconds=PATIENCE_S)
        sends = [line for line in lines() if line["event"] == "trishula_send"]
        receipts = [line for line in lines() if line["event"] == "trishula_receipt"]
        everyone = {(one.id, "agni"), ("two", "agni"), ("two", "dhyana")}
        for found, took in ((sends, "latency_ms"), (receipts, "delivered_ms")):
            assert {(line["message_id"], line["to"]) for line in found} == everyone
            for line in found:
                assert {*line} == {
                    *("timestamp", "span_type", "event", "session_id", "agent", "to", "message_id", "method", "route"),
                    *("status", took),
                }
                assert (line["span_type"], line["agent"], line["method"]) == ("TRISHULA_SEND", "mac", "websocket")
                assert line["route"] == "direct"
                assert 0 < line[took] < PATIENCE_S * 1000
        assert {line["status"] for line in sends} == {"stored"}
        assert {line["status"] for line in receipts} == {"delivered"}
        assert sends[0]["session_id"] == "my session" != sends[1]["session_id"]
        path.unlink()
        mesh.kill("agni")

        async def is_down() -> bool:
            return not (await mesh.status("mac"))["peers"]["agni"]["linked"]

        await until(is_down, "the link is down", seconds=PATIENCE_S)
        async with mesh.client("mac") as mac:
            await mac.send("agni", subject="it is away")
        await until(lambda: len(lines()) == 1, "a new file is begun", seconds=PATIENCE_S)
        assert (lines()[0]["method"], lines()[0]["route"]) == ("file_fallback", None)

    in_a_mesh(tmp_path, work, {"node": {"jikoku_log": "{root}/JIKOKU_LOG.jsonl"}})


# ---------------------------------------------------------------- unsigned


def test_what_an_old_peer_puts_into_an_inbox_is_shown_once_as_unsigned_and_nobody_is_told(tmp_path: Path) -> None:
    message = {"id": "old", "from": "agni", "to": "mac", "subject": "by the old sync", "timestamp": "t"}

    async def work(mesh: Sandbox) -> None:
        inbox = mesh.home("mac").mailbox("mac") / "inbox"
        (inbox / "half.json").write_text('{"id": "half", "from": "agni", "to": "m')
        (inbox / "note.json").write_text('"no message"')
        (inbox / "old.json").write_text(json.dumps(message, indent=2))
        async with mesh.client("mac") as mac:
            got = await mac.receive(timeout=PATIENCE_S)
            assert {**got} == message
            assert (got.meta.route, got.meta.method, got.meta.from_node) == (UNSIGNED, "file_fallback", "agni")
            (inbox / "half.json").write_text(json.dumps({**message, "id": "half", "subject": "written slowly"}))
            assert (await mac.receive(timeout=PATIENCE_S))["subject"] == "written slowly"
            listed = (await mac.inbox())["messages"]
            assert {(item["id"], item["route"]) for item in listed} == {("old", UNSIGNED), ("half", UNSIGNED)}
            traced = (await mac.trace("old"))["received"]
            assert [(row["route"], row["file"]) for row in traced] == [(UNSIGNED, "inbox/old.json")]
            assert [path.name for path in inbox.glob("old*")] == ["old.json"]
            # The peer has moved into the mesh, and sends the same, signed.
            (mesh.home("agni").mailbox("agni") / "outbox" / "x.json").write_text(json.dumps(message))
            async with mesh.client("agni") as agni:

                async def delivered() -> bool:
                    try:
                        shown = await agni.show("old")
                    except trishula.TrishulaError:
                        return False
                    return [outcome["state"] for outcome in shown["outcomes"]] == ["delivered"]

                await until(delivered, "it is answered as a duplicate", seconds=PATIENCE_S)
                await agni.send("mac", subject="the next one")
            assert (await mac.receive(timeout=PATIENCE_S))["subject"] == "the next one"
            assert sorted(path.name for path in inbox.glob("old*")) == ["old.json"]
            await mac.done("old")
            await mac.done("half")
        archive = inbox.with_name("archive")
        await until(lambda: len(list(archive.iterdir())) == 2, "what is done is archived", seconds=PATIENCE_S)
        (inbox / "old.json").write_text(json.dumps(message, indent=2))  # the old sync brings it again
        mesh.kill("mac")
        mesh.start("mac")
        await mesh.linked()
        (inbox / "new.json").write_text(json.dumps({**message, "id": "new", "subject": "new"}))
        async with mesh.client("mac") as mac:
            assert [(await mac.receive(timeout=PATIENCE_S))["subject"] for _ in range(2)] == ["the next one", "new"]
        assert "receipt" not in mesh.places["agni"].log.read_text()

    in_a_mesh(tmp_path, work, {"node": {"unsigned_inbox": True}})


def test_without_the_setting_what_others_put_into_an_inbox_is_left_alone(tmp_path: Path) -> None:
    async def work(mesh: Sandbox) -> None:
        inbox = mesh.home("mac").mailbox("mac") / "inbox"
        (inbox / "old.json").write_text('{"id": "old", "from": "agni", "to": "mac"}')
        async with mesh.client("agni") as agni, mesh.client("mac") as mac:
            sent = await agni.send("mac", subject="first")
            assert (await mac.receive(timeout=PATIENCE_S))["subject"] == "first"
            await until((inbox / f"{sent.id}.json").exists, "its file is there", seconds=PATIENCE_S)
            (inbox / f"{sent.id}.json").unlink()
            await sent.read(timeout=PATIENCE_S)  # so the inbox has been looked at
            assert (await mac.inbox())["messages"] == []
        assert (inbox / "old.json").exists()

    in_a_mesh(tmp_path, work, {})


# ---------------------------------------------------------------- hybrid


def test_both_ways_are_merged_and_each_message_is_there_once(tmp_path: Path) -> None:
    async def work(mesh: Sandbox) -> None:
        mailbox = mesh.home("mac").mailbox("mac")
        async with trishula.Hybrid(mailbox, mesh.home("mac").socket("mac")) as hybrid:
            async with mesh.client("agni") as agni:
                await agni.send("mac", subject="one")
                await agni.send("mac", subject="two")
            await until(lambda: len(hybrid.get_pending()) == 2, "both came by the socket", seconds=PATIENCE_S)
            await until(lambda: len(list((mailbox / "inbox").iterdir())) == 2, "and as files", seconds=PATIENCE_S)
            (mailbox / "inbox" / "by-hand.json").write_text('{"id": "h", "from": "agni", "subject": "by hand"}')
            messages = await hybrid.get_messages()
            assert [message["subject"] for message in messages] == ["one", "two", "by hand"]
            assert [message.meta.method for message in messages] == ["websocket", "websocket", "file_fallback"]
            await hybrid.done(messages[0])
            await hybrid.done(messages[2])
            assert [message["subject"] for message in hybrid.get_pending()] == ["two"]
            await until(
                lambda: len(list((mailbox / "archive").iterdir())) == 2, "both are archived", seconds=PATIENCE_S
            )
            assert [message["subject"] for message in await hybrid.get_messages()] == ["two"]
            mesh.kill("mac")
            await until(lambda: not hybrid.connected, "the node is gone", seconds=PATIENCE_S)
            (two,) = await hybrid.get_messages()
            assert two.meta.method == "websocket"
            await hybrid.done(two)
            assert await hybrid.get_messages() == []
            mesh.start("mac")
            async with mesh.client("agni") as agni:
                sent = await agni.send("mac", subject="three")
                await sent.delivered(timeout=PATIENCE_S)
            await until(
                lambda: [m["subject"] for m in hybrid.get_pending()] == ["three"], "it goes on", seconds=PATIENCE_S
            )

    in_a_mesh(tmp_path, work, {})


def test_a_file_without_an_id_that_the_node_takes_in_is_there_once(tmp_path: Path) -> None:
    async def work(mesh: Sandbox) -> None:
        mailbox = mesh.home("mac").mailbox("mac")
        (mailbox / "inbox" / "by-hand.json").write_text('{"from": "agni", "to": "mac", "subject": "by hand"}\n')
        async with trishula.Hybrid(mailbox, mesh.home("mac").socket("mac")) as hybrid:
            (before,) = await hybrid.get_messages()
            await until(lambda: len(hybrid.get_pending()) == 1, "it is taken in", seconds=PATIENCE_S)
            (message,) = await hybrid.get_messages()
            assert (message.id, message["subject"]) == (before.id, "by hand")
            await hybrid.done(message)
            assert await hybrid.get_messages() == []

    in_a_mesh(tmp_path, work, {"node": {"unsigned_inbox": True}})


def test_with_no_node_there_are_the_files_and_what_is_sent_goes_later_once(tmp_path: Path) -> None:
    async def work(mesh: Sandbox) -> None:
        mailbox = mesh.home("mac").mailbox("mac")
        link = tmp_path / "home"
        link.symlink_to(mailbox)
        async with mesh.client("agni") as agni:
            await (await agni.send("mac", subject="before")).delivered(timeout=PATIENCE_S)
        await until(lambda: list((mailbox / "inbox").iterdir()), "it is there", seconds=PATIENCE_S)
        mesh.kill("mac")
        async with trishula.HybridTRISHULA(link, mesh.home("mac").socket("mac")) as hybrid:
            assert hybrid.agent == "mac"
            assert hybrid.get_pending() == []
            (before,) = await hybrid.get_messages()
            assert (before["subject"], before.meta.route, before.meta.method) == ("before", "file", "file_fallback")
            await hybrid.done(before)
            assert await hybrid.send_with_fallback("agni", {"subject": "by file", "body": 1.10}) == "file_fallback"
            with pytest.raises(trishula.NodeUnreachable):
                await hybrid.done(before)
        mesh.start("mac")
        inbox = mesh.home("agni").mailbox("agni") / "inbox"
        await until(lambda: list(inbox.iterdir()), "it is sent", seconds=PATIENCE_S)
        (path,) = inbox.iterdir()
        assert loaded(path)["subject"] == "by file"
        assert path.read_bytes() == (mailbox / "outbox" / path.name).read_bytes()
        async with mesh.client("agni") as agni:

            async def read() -> bool:
                return bool((await mesh.status("mac"))["agents"]["mac"]["unread"] == 0)

            await until(read, "what was archived is read", seconds=PATIENCE_S)
            assert len((await agni.inbox())["messages"]) == 1

    in_a_mesh(tmp_path, work, {})


def test_sending_says_the_method_and_a_node_that_is_gone_makes_it_a_file(tmp_path: Path) -> None:
    async def work(mesh: Sandbox) -> None:
        mailbox = mesh.home("mac").mailbox("mac")
        async with mesh.client("mac", mailbox=mailbox) as mac:
            assert await mac.send_with_fallback("agni", {"subject": "1"}) == "websocket"
            with pytest.raises(trishula.SendError, match="nobody"):
                await mac.send_with_fallback("nobody", {"subject": "never"})
            mesh.kill("agni")

            async def is_down() -> bool:
                return not (await mac.status())["peers"]["agni"]["linked"]

            await until(is_down, "the link is down", seconds=PATIENCE_S)
            assert await mac.send_with_fallback("agni", {"subject": "2"}) == "file_fallback"
            mesh.kill("mac")
            assert await mac.send_with_fallback("agni", {"subject": "3", "id": "third"}) == "file_fallback"
            assert (mailbox / "outbox" / "third.json").exists()
            mesh.start("mac", "agni")
            inbox = mesh.home("agni").mailbox("agni") / "inbox"
            await until(lambda: len(list(inbox.iterdir())) == 3, "all arrive", seconds=PATIENCE_S)
            assert sorted(loaded(path)["subject"] for path in inbox.iterdir()) == ["1", "2", "3"]
            assert len(list((mailbox / "outbox").glob("*.json"))) == 3

    in_a_mesh(tmp_path, work, {})
