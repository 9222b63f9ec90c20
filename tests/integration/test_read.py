"""The last step of the ladder, and what is said where it is never reached: real nodes, agents and files."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trishula
from trishula.cli.sandbox import Sandbox, until

TRISHULA = [sys.executable, "-m", "trishula.cli.main"]
TWO = {"mac": ["mac"], "agni": ["agni"]}


def state(receipt: trishula.Receipt) -> str:
    (outcome,) = receipt.outcomes
    return outcome.state.value


def box(mesh: Sandbox, agent: str, name: str) -> set[str]:
    return {path.name for path in (mesh.home(agent).mailbox(agent) / name).iterdir()}


async def arrives(mesh: Sandbox, agent: str, message_id: str) -> Path:
    path = mesh.home(agent).mailbox(agent) / "inbox" / f"{message_id}.json"
    await until(path.exists, f"{path} is there")
    return path


# ---------------------------------------------------------------- done


def test_what_is_done_is_read_by_its_senders_word_too_and_its_file_is_archived(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac, three_nodes.client("agni") as agni:
            receipt = await mac.send("agni", subject="to be done")
            await receipt.delivered(timeout=60)
            file = await arrives(three_nodes, "agni", receipt.id)
            payload = file.read_bytes()
            with pytest.raises(trishula.TimedOut, match=r"not yet read after .* by agni on agni"):
                await receipt.read(timeout=0.05)
            done = await agni.done(receipt.id)
            assert [(item["id"], item["from"], item["fresh"]) for item in done["messages"]] == [
                (receipt.id, "mac", True)
            ]
            (outcome,) = await receipt.read(timeout=60)
            assert (outcome.state, outcome.route) == ("read", "direct")
            archived = file.parent.parent / "archive" / file.name
            await until(archived.exists, "the file is archived")
            assert archived.read_bytes() == payload
            assert not file.exists()
            again = await agni.done(receipt.id)
            assert again["messages"] == [{**done["messages"][0], "fresh": False}]
            assert receipt.id not in {item["id"] for item in (await agni.inbox(limit=1000))["messages"]}

    asyncio.run(story())


def test_done_of_what_never_came_is_an_error_by_name(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac, three_nodes.client("agni") as agni:
            receipt = await mac.send("agni", subject="mine")
            await receipt.delivered(timeout=60)
            for asked, sender in (("no-such-id", None), (receipt.id, "rushabdev")):
                with pytest.raises(trishula.RequestError, match=f"no message {asked}") as unknown:
                    await agni.done(asked, sender)
                assert unknown.value.code == "not_found"
            with pytest.raises(trishula.RequestError, match="no message id"):
                await agni.done("../etc/passwd")
            assert state(receipt) == "delivered"

    asyncio.run(story())


def test_each_session_gets_each_message_until_one_says_done(three_nodes: Sandbox) -> None:
    async def story() -> None:
        async with three_nodes.client("rushabdev") as old:
            for item in (await old.inbox(limit=1000))["messages"]:
                await old.done(item["id"])
        async with three_nodes.client("mac") as mac:
            first, second = [await mac.send("rushabdev", subject=subject) for subject in ("first", "second")]
            for receipt in (first, second):
                await receipt.delivered(timeout=60)
            async with three_nodes.client("rushabdev") as one, three_nodes.client("rushabdev") as other:
                for session in (one, other):
                    assert (await session.receive(timeout=60)).id == first.id
                    assert (await session.receive(timeout=60)).id == second.id
                await one.done(first.id)
            async with three_nodes.client("rushabdev") as late:
                assert (await late.receive(timeout=60)).id == second.id

    asyncio.run(story())


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_file_that_has_left_the_inbox_is_read(three_nodes: Sandbox, how: str) -> None:
    async def story() -> None:
        async with three_nodes.client("mac") as mac:
            receipt, other = [await mac.send("agni", subject=how) for _ in range(2)]
            for each in (other, receipt):
                await each.delivered(timeout=60)
                file = await arrives(three_nodes, "agni", each.id)
            if how == "removed":
                file.unlink()
            else:
                file.rename(file.parent.parent / "archive" / "mine.json")
            await receipt.read(timeout=60)
            assert not file.exists()
            assert state(other) == "delivered"
            await arrives(three_nodes, "agni", other.id)

    asyncio.run(story())


def test_a_file_that_was_moved_while_the_node_was_down_is_read(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, TWO) as mesh:
            mesh.start()
            await mesh.linked()
            async with mesh.client("mac") as mac:
                receipt, other = [await mac.send("agni", subject="x") for _ in range(2)]
                for each in (other, receipt):
                    file = await arrives(mesh, "agni", each.id)
                await written_and_marked(mesh, "agni", 2)
                mesh.kill("agni")
                file.rename(file.parent.parent / "archive" / "mine.json")
                mesh.start("agni")
                await receipt.read(timeout=60)
                assert state(other) == "delivered"
            assert box(mesh, "agni", "inbox") == {f"{other.id}.json"}
            assert box(mesh, "agni", "archive") == {"mine.json"}

    asyncio.run(story())


async def written_and_marked(mesh: Sandbox, node: str, count: int) -> None:
    """The files of so many messages are known to be on the disk."""
    path = mesh.places[node].root / "state" / "store" / "trishula.db"

    def marked() -> bool:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return bool(db.execute("SELECT count(*) = ? FROM ledger WHERE projected = 1", (count,)).fetchone()[0])
        finally:
            db.close()

    await until(marked, "the files are marked")


def test_an_inbox_that_is_gone_at_the_start_is_filled_again_and_nothing_in_it_was_read(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"]}) as mesh:
            mesh.start()
            await mesh.up()
            async with mesh.client("mac") as mac:
                receipt = await mac.send("mac", subject="keep me")
                file = await arrives(mesh, "mac", receipt.id)
                await written_and_marked(mesh, "mac", 1)
                mesh.stop()
                file.parent.rename(file.parent.with_name("not-mounted"))
                mesh.start()
                await until(file.exists, "it is there again")
                assert [item["id"] for item in (await mac.inbox())["messages"]] == [receipt.id]

    asyncio.run(story())


def test_a_new_store_beside_filled_mailboxes_doubles_nothing_and_answers_for_all(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, TWO) as mesh:
            mesh.start()
            await mesh.linked()
            async with mesh.client("mac") as mac, mesh.client("agni") as agni:
                sent = [await mac.send("agni", subject=f"before {number}") for number in range(3)]
                for receipt in sent:
                    await arrives(mesh, "agni", receipt.id)
                await agni.done(sent[0].id)
                await until(lambda: len(box(mesh, "agni", "archive")) == 1, "one is in the archive")
            mesh.stop()
            inbox = mesh.home("agni").mailbox("agni") / "inbox"
            (inbox / "notes.txt").write_text("no message")
            for moment, receipt in enumerate(sent[1:], time.time_ns()):  # they may have been written in one
                os.utime(inbox / f"{receipt.id}.json", ns=(moment, moment))
            store = mesh.places["agni"].root / "state" / "store"
            store.rename(store.with_name("lost"))
            # An origin that never got its receipts:
            with sqlite3.connect(mesh.places["mac"].root / "state" / "store" / "trishula.db") as db:
                db.execute("UPDATE outgoing SET state = 'stored', settled_at = NULL, latency_ms = NULL")
            db.close()
            mesh.start()
            await mesh.linked()

            async def answered() -> bool:
                states = {receipt.id: await state_of(mesh, receipt.id) for receipt in sent}
                return states == {sent[0].id: "read", sent[1].id: "delivered", sent[2].id: "delivered"}

            await until(answered, "the origin gets its receipts")
            assert box(mesh, "agni", "inbox") == {"notes.txt", f"{sent[1].id}.json", f"{sent[2].id}.json"}
            async with mesh.client("agni") as agni:
                assert [item["id"] for item in (await agni.inbox())["messages"]] == [sent[1].id, sent[2].id]
            assert "3 messages in them are taken as delivered" in mesh.places["agni"].log.read_text()

    asyncio.run(story())


async def state_of(mesh: Sandbox, message_id: str) -> str:
    async with mesh.client("mac") as mac:
        return str((await mac.show(message_id))["outcomes"][0]["state"])


# ---------------------------------------------------------------- bounces


def test_a_refusal_is_a_file_in_bounced_with_its_reason(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, TWO) as mesh:
            config = mesh.places["agni"].config
            config.write_text(config.read_text().replace("[limits]\n", "[limits]\nmax_message_bytes = 1024\n"))
            mesh.start()
            await mesh.linked()
            socket = str(mesh.home("mac").socket("mac"))
            done = await asyncio.to_thread(
                run, "send", "agni", "x" * 2000, "--subject", "Long", "--wait", "delivered", "--socket", socket
            )
            assert done.returncode == 1
            assert "agni refused it for agni: too_large" in done.stderr
            message_id = done.stdout.split()[1]
            file = mesh.home("mac").mailbox("mac") / "bounced" / f"{message_id}~agni.json"
            await until(file.exists, "it is in bounced/")
            told = json.loads(file.read_text())
            assert list(told) == ["id", "from", "to", "state", "reason", "at", "subject", "text"]
            assert (told["to"], told["state"], told["subject"]) == ("agni", "refused", "Long")
            assert "limit is 1024" in told["reason"]
            assert "never get this message" in told["text"]

    asyncio.run(story())


def test_what_nobody_confirms_by_its_expiry_is_unconfirmed_for_program_person_and_file(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, limits={"max_skew_s": 1}) as mesh:
            mesh.start("mac", "agni")
            await mesh.up("mac", "agni")
            await until(lambda: mesh._linked("mac", "agni"), "a peer confirms the clock")
            async with mesh.client("mac") as mac:
                receipt = await mac.send("rushabdev", subject="in vain", ttl_s=1)
                with pytest.raises(trishula.Unconfirmed, match="may have arrived all the same") as unconfirmed:
                    await receipt.delivered(timeout=60)
                assert [outcome.dest for outcome in unconfirmed.value.outcomes] == ["rushabdev"]
                assert not receipt.settled
            file = mesh.home("mac").mailbox("mac") / "bounced" / f"{receipt.id}~rushabdev.json"
            await until(file.exists, "it is in bounced/")
            assert json.loads(file.read_text())["state"] == "unconfirmed"
            traced = run("trace", receipt.id, "--socket", str(mesh.home("mac").socket("mac")))
            assert "given up" in traced.stdout
            assert "it may have arrived" in traced.stdout

    asyncio.run(story())


# ---------------------------------------------------------------- limits


def test_an_agent_with_too_much_under_way_is_told_the_limit(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, TWO, limits={"max_open_per_agent": 2}) as mesh:
            mesh.start("mac")
            await mesh.up("mac")
            async with mesh.client("mac") as mac:
                for _ in range(2):
                    await mac.send("agni", body="x")
                with pytest.raises(trishula.SendError, match="2 messages to agni under way, the limit is 2") as refused:
                    await mac.send("agni", body="x")
                assert (refused.value.code, refused.value.key) == ("quota", "limits.max_open_per_agent")
                await mac.send("mac", body="a node that is down takes no room from others")
            said = await asyncio.to_thread(run, "send", "agni", "x", "--socket", str(mesh.home("mac").socket("mac")))
            assert (said.returncode, said.stdout) == (1, "")
            assert "the limit is 2" in said.stderr
            await until(lambda: len(box(mesh, "mac", "outbox")) == 3, "what was stored is in the outbox, and no more")

    asyncio.run(story())


def test_a_store_at_its_limit_takes_nothing_new_and_says_which_limit(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"]}, limits={"max_store_bytes": 1024 * 1024}) as mesh:
            mesh.start()
            await mesh.up()
            async with mesh.client("mac") as mac:

                async def filled() -> bool:
                    await mac.send("mac", body="x" * 100_000)
                    return False

                with pytest.raises(trishula.SendError, match="the limit is 1048576") as refused:
                    await until(filled, "the store is full")
                assert (refused.value.code, refused.value.key) == ("store_full", "limits.max_store_bytes")
                status = await mac.status()
                assert status["store"]["used"] >= status["store"]["limit"] == 1024 * 1024

    asyncio.run(story())


def test_a_full_inbox_takes_more_once_something_in_it_is_done(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, TWO, limits={"max_unread_per_agent": 1}) as mesh:
            mesh.start()
            await mesh.linked()
            async with mesh.client("mac") as mac, mesh.client("agni") as agni:
                first = await mac.send("agni", subject="first")
                await first.delivered(timeout=60)
                second = await mac.send("agni", subject="second")

                async def waits() -> bool:
                    (row,) = (await mac.trace(second.id))["sent"]
                    return "the inbox of agni is full: 1 unread (limits.max_unread_per_agent)" in row["waits_for"]

                await until(waits, "it is known what the second waits for")
                (row,) = (await mac.trace(second.id))["sent"]
                assert (row["state"], row["place"], row["route_now"]) == ("stored", "waiting", "direct")
                assert row["next_try_s"] >= 0
                assert row["attempts"] >= 1
                await agni.done(first.id)
                await second.delivered(timeout=60)

    asyncio.run(story())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRISHULA, *arguments], capture_output=True, text=True, check=False)


def test_wait_read_ends_when_the_recipient_is_done(three_nodes: Sandbox) -> None:
    mac, agni = (str(three_nodes.home(agent).socket(agent)) for agent in ("mac", "agni"))
    waiting = ["send", "agni", "x", "--subject", "wait for me", "--wait", "read", "--json", "--socket", mac]
    with subprocess.Popen([*TRISHULA, *waiting], stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        mine: list[str] = []
        while not mine and time.monotonic() < deadline:
            listed = json.loads(run("inbox", "--limit", "1000", "--json", "--socket", agni).stdout)["messages"]
            mine = [item["id"] for item in listed if item["subject"] == "wait for me"]
        assert process.poll() is None
        done = run("done", *mine, "--socket", agni)
        assert (done.returncode, done.stdout) == (0, f"done {mine[0]} from mac\n")
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["outcomes"][0]["state"] == "read"
