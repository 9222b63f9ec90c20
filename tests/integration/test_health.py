"""A node tells the truth about itself: each cause by its name with its cure, and nothing more once it is over."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trishula
from trishula.cli.pki import Authority
from trishula.cli.sandbox import Place, Sandbox, until
from trishula.node.database import StoreError
from trishula.node.store import Store
from trishula.protocol.errors import SendError

PAIR = {"mac": ("mac",), "agni": ("agni",)}
ALONE = {"mac": ("mac", "dhyana")}


def bad(status: dict[str, Any]) -> dict[tuple[str, str], str]:
    """The texts of what is not as it should be, by check and what it is about."""
    findings = [one for one in status["findings"] if one["state"] in ("failed", "warning")]
    assert all(one["fix"] for one in findings)
    return {(one["check"], one["about"]): one["text"] for one in findings}


async def said(mesh: Sandbox, name: str, check: str, about: str = "") -> str:
    return bad(await mesh.status(name)).get((check, about), "")


def readyz(place: Place) -> int:
    context = ssl.create_default_context(cafile=str(place.ca))
    try:
        with urllib.request.urlopen(place.url.replace("wss", "https") + "/readyz", context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


# ---------------------------------------------------------------- the store


def removed_files(store: Path) -> None:
    for path in store.iterdir():
        path.unlink()


def replaced_file(store: Path) -> None:
    copy = store.with_name("copy.db")
    shutil.copyfile(store / "trishula.db", copy)
    copy.replace(store / "trishula.db")


async def store_is_gone(mesh: Sandbox, name: str) -> bool:
    status = await mesh.status(name)
    return not status["ready"] and bad(status).get(("store", ""), "").startswith("the store is gone: restart the node")


async def arrived(client: trishula.Client, subject: str) -> bool:
    return any(letter["subject"] == subject for letter in (await client.inbox())["messages"])


@pytest.mark.parametrize("lose", [removed_files, shutil.rmtree, replaced_file])
def test_a_store_that_is_gone_confirms_nothing_more_and_asks_for_a_restart(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    async def story(mesh: Sandbox) -> None:
        mesh.start()
        await mesh.linked()
        place = mesh.places["agni"]
        async with mesh.client("agni") as agni, mesh.client("mac") as mac:
            lose(place.state / "store")
            with pytest.raises(SendError, match="the store is gone"):
                await agni.send("mac", subject="not stored", body="")
            receipt = await mac.send("agni", subject="waits at mac", body="")
            await until(lambda: store_is_gone(mesh, "agni"), "status says so")
            assert await asyncio.to_thread(readyz, place) == 503
            with pytest.raises(trishula.TimedOut):
                await receipt.delivered(timeout=2)
            await until(lambda: "ERROR the store is gone" in place.log.read_text(), "the journal says so")
        assert place.log.read_text().count("ERROR") == 1
        mesh.stop("agni")
        mesh.start("agni")
        await mesh.linked("agni")
        assert (await mesh.status("agni"))["ready"]
        async with mesh.client("agni") as agni:
            await until(lambda: arrived(agni, "waits at mac"), "what waited is there")
        assert "Traceback" not in place.log.read_text()

    with Sandbox(tmp_path, PAIR) as mesh:
        asyncio.run(story(mesh))


def test_what_a_removed_store_held_is_put_back_by_an_orderly_restart(tmp_path: Path) -> None:
    async def story(mesh: Sandbox) -> None:
        mesh.start("mac")
        await mesh.up("mac")
        async with mesh.client("mac") as mac:
            await mac.send("agni", subject="stored while agni is away", body="")
        shutil.rmtree(mesh.places["mac"].state / "store")
        await until(lambda: store_is_gone(mesh, "mac"), "mac has seen it")
        mesh.stop("mac")
        mesh.start()
        await mesh.linked()
        async with mesh.client("agni") as agni:
            await until(lambda: arrived(agni, "stored while agni is away"), "it arrives all the same")

    with Sandbox(tmp_path, PAIR) as mesh:
        asyncio.run(story(mesh))


def test_a_lock_that_is_gone_is_taken_again_so_that_no_second_node_gets_the_store(tmp_path: Path) -> None:
    async def story(mesh: Sandbox) -> None:
        mesh.start()
        await mesh.up()
        place = mesh.places["mac"]
        (place.state / "store" / "lock").unlink()
        await until(lambda: "it is taken again" in place.log.read_text(), "the lock is taken again")
        with pytest.raises(StoreError, match="another node is running"):
            Store(place.state / "store", "mac")
        assert (await mesh.status("mac"))["ready"]

    with Sandbox(tmp_path, ALONE) as mesh:
        asyncio.run(story(mesh))


# ---------------------------------------------------------------- mailboxes and sockets


@pytest.mark.parametrize("what", ["mac/receipts", "mac/outbox", "mac"])
def test_a_mailbox_folder_that_is_gone_is_said_everywhere_and_forgotten_when_it_is_back(
    tmp_path: Path, what: str
) -> None:
    async def story(mesh: Sandbox) -> None:
        mesh.start()
        await mesh.up()
        place = mesh.places["mac"]
        folder = place.state / "mailboxes" / what
        folder.rename(tmp_path / "away")
        assert str(folder) in await said(mesh, "mac", "mailbox", "mac")
        assert not await said(mesh, "mac", "mailbox", "dhyana")
        await until(lambda: f"ERROR the mailbox of mac: {folder}" in place.log.read_text(), "the journal says so")
        assert await asyncio.to_thread(readyz, place) == 503
        (tmp_path / "away").rename(folder)
        assert not await said(mesh, "mac", "mailbox", "mac")
        await until(lambda: "again: the mailbox of mac" in place.log.read_text(), "the journal says that it is well")
        assert await asyncio.to_thread(readyz, place) == 200

    with Sandbox(tmp_path / "mesh", ALONE) as mesh:
        asyncio.run(story(mesh))


def test_an_inbox_that_was_replaced_is_filled_anew_and_nothing_counts_as_read(tmp_path: Path) -> None:
    async def story(mesh: Sandbox) -> None:
        mesh.start()
        await mesh.up()
        inbox = mesh.places["mac"].mailbox("mac") / "inbox"
        async with mesh.client("dhyana") as dhyana:
            receipts = [await dhyana.send("mac", body=str(number)) for number in range(6)]
            await until(lambda: len([*inbox.iterdir()]) == 6, "all have come")
            inbox.rename(tmp_path / "away")
            assert "inbox: No such file" in await said(mesh, "mac", "mailbox", "mac")
            inbox.mkdir(mode=0o770)
            await until(lambda: len([*inbox.iterdir()]) == 6, "all are there again")
            with pytest.raises(trishula.TimedOut):
                await receipts[0].read(timeout=3)
        status = await mesh.status("mac")
        assert (status["agents"]["mac"]["unread"], bad(status)) == (6, {})

    with Sandbox(tmp_path / "mesh", ALONE) as mesh:
        asyncio.run(story(mesh))


def test_a_socket_that_is_gone_is_made_again_and_nobody_loses_a_connection(tmp_path: Path) -> None:
    async def story(mesh: Sandbox) -> None:
        mesh.start()
        await mesh.up()
        async with mesh.client("dhyana") as connected:
            await connected.status()
            mesh.places["mac"].socket("dhyana").unlink()
            await until(mesh.places["mac"].socket("dhyana").exists, "it is there again")
            async with mesh.client("dhyana") as dhyana:
                await (await dhyana.send("mac", body="through the new one")).delivered(timeout=10)
            await (await connected.send("mac", body="through the old one")).delivered(timeout=10)
        assert bad(await mesh.status("mac")) == {}

    with Sandbox(tmp_path, ALONE) as mesh:
        asyncio.run(story(mesh))


def test_a_group_that_is_missing_keeps_its_agent_out_and_nobody_else(tmp_path: Path) -> None:
    async def story(mesh: Sandbox) -> None:
        mesh.start()
        await mesh.up()
        found = await said(mesh, "mac", "socket", "dhyana")
        assert found == "the socket of dhyana: there is no group 'no-such-group', so its agent can't use it"
        log = mesh.places["mac"].log
        await until(lambda: f"ERROR {found}. Fix: create the group" in log.read_text(), "the journal says so")
        async with mesh.client("mac") as mac:
            await (await mac.send("dhyana", body="its mailbox is served")).delivered(timeout=10)
        assert log.read_text().count("there is no group") == 1

    settings = {"agents.dhyana": {"socket_group": "no-such-group"}}
    with Sandbox(tmp_path, ALONE, settings=settings) as mesh:
        asyncio.run(story(mesh))


# ---------------------------------------------------------------- peers


def wrong_token(mesh: Sandbox) -> None:
    (mesh.places["mac"].credentials / "dial.json").write_text(json.dumps({"agni": "x" * 43}))


def foreign_certificate(mesh: Sandbox) -> None:
    mesh.put_certificate("agni", *Authority("Somebody else's CA").issue("agni"))


def nothing(_: Sandbox) -> None: ...


@pytest.mark.parametrize(
    ("spoil", "url", "dialler", "listener"),
    [
        (wrong_token, "", "it does not accept our token (401)", "127.0.0.1: a token that is not good here"),
        (foreign_certificate, "", "its certificate is not good", "127.0.0.1: it left during the TLS handshake"),
        (nothing, "wss://no-such-host.invalid:1", "its name is not known here", "nobody was turned away"),
        (nothing, "wss://127.0.0.1:1", "connection refused", "nobody was turned away"),
    ],
)
def test_a_peer_that_is_down_says_why_on_both_sides_with_the_last_try_and_the_next(
    tmp_path: Path, spoil: Callable[[Sandbox], None], url: str, dialler: str, listener: str
) -> None:
    async def story(mesh: Sandbox) -> None:
        spoil(mesh)
        mesh.start()
        await mesh.up()

        async def both() -> bool:
            here, there = await said(mesh, "mac", "link", "agni"), await said(mesh, "agni", "link", "mac")
            return dialler in here and listener in there

        await until(both, "both say why")
        here, there = await said(mesh, "mac", "link", "agni"), await said(mesh, "agni", "link", "mac")
        assert re.search(r"^agni is not linked: .*; last try \d+ s ago, next in \d+ s$", here)
        assert there.startswith("mac is not linked: waits for it to dial; ")
        assert (await mesh.status("mac"))["ready"]
        assert not await said(mesh, "mac", "clock")

    with Sandbox(tmp_path, PAIR, via=lambda _dialler, _dialled, own: url or own) as mesh:
        asyncio.run(story(mesh))


def test_a_lone_node_and_one_without_links_blame_no_clock(tmp_path: Path) -> None:
    async def story(mesh: Sandbox) -> None:
        mesh.start("agni")
        await mesh.up("agni")
        status = await mesh.status("agni")
        assert (status["clock"]["trusted"], status["clock"]["state"]) == (False, "not compared")
        assert {check for check, _ in bad(status)} == {"link"}

    with Sandbox(tmp_path, PAIR) as mesh:
        asyncio.run(story(mesh))


def test_an_orderly_restart_of_each_node_alarms_nobody(tmp_path: Path) -> None:
    async def story(mesh: Sandbox) -> None:
        mesh.start()
        await mesh.linked()
        for name in mesh.places:
            mesh.stop(name)
            mesh.start(name)
            await mesh.linked(name)
        mesh.stop()
        for place in mesh.places.values():
            text = place.log.read_text()
            assert " closed: " in text
            assert [line for line in text.splitlines() if re.search(r"WARNING|ERROR|CRITICAL", line)] == []

    with Sandbox(tmp_path) as mesh:
        asyncio.run(story(mesh))
