"""A disk that runs full under a node: new work is refused clearly, what it has is kept, and room is found again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import trishula
from integration.correspondence import Correspondence
from trishula.cli.sandbox import Sandbox, until
from trishula.protocol.envelope import State
from trishula.protocol.errors import SendError

SIZE = "16m"


@contextmanager
def small_disk(mesh: Sandbox, name: str) -> Iterator[Path]:
    """The state of a node on a disk of its own. The nodes are stopped before it goes away."""
    folder = mesh.places[name].state
    missing = as_root("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700,uid={os.getuid()}", "trishula-test", folder)
    if missing:
        missing = f"NO FULL DISK WAS TRIED: a small tmpfs needs root and CAP_SYS_ADMIN ({missing})"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    try:
        yield folder
    finally:
        mesh.stop()
        assert not as_root("umount", folder)


def as_root(*command: str | Path) -> str:
    """Run it, by sudo where that asks for no password. Returns what went wrong, or nothing."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    try:
        done = subprocess.run([*sudo, *command], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


def fill(folder: Path) -> Path:
    """To the last byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(folder).free == 0
    return ballast


async def is_ready(mesh: Sandbox, name: str) -> bool:
    return bool((await mesh.status(name))["ready"])


def test_a_full_disk_refuses_new_work_keeps_what_it_has_and_recovers(tmp_path: Path, seed: int) -> None:
    async def story(mesh: Sandbox, folder: Path) -> None:
        mesh.start()
        await mesh.linked()
        async with Correspondence(mesh, seed) as mail:
            await until(lambda: len(mail.stored) > 50, "mail is under way")
            ballast = fill(folder)
            await until(lambda: mail.refused_to_store, "a send is refused")
            # It dies of it, too, and has to start from what it holds.
            mesh.kill("agni")
            mesh.start("agni")
            await mesh.up("agni")
            before = len(mail.refused_to_store)
            await until(lambda: len(mail.refused_to_store) > before, "a send is refused after the start, too")
            assert not await is_ready(mesh, "agni")
            elsewhere = await mail.send("mac", ["rushabdev"], "elsewhere")
            assert elsewhere.receipt is not None
            await elsewhere.receipt.delivered(timeout=60)
            ballast.unlink()
            await until(lambda: is_ready(mesh, "agni"), "agni has found the room by itself")
            after = await mail.send("agni", ["mac"], "after")
            assert after.receipt is not None
            await mail.ended()
            assert await mail.mistakes() == []
            assert set(mail.outcomes) == {State.DELIVERED}
            for sent, refusal in mail.refused_to_store:
                assert isinstance(refusal, SendError)
                assert (sent.sender, refusal.code) == ("agni", "store_full")
                assert refusal.key == str(folder / "store" / "trishula.db")
                assert "full" in refusal.message
                assert "make room" in str(refusal.fix)

    with Sandbox(tmp_path) as mesh:
        with small_disk(mesh, "agni") as folder:
            asyncio.run(story(mesh, folder))
        assert not any("Traceback" in place.log.read_text() for place in mesh.places.values())


async def send_for_ever(client: trishula.Client) -> None:
    """One message may still find room in what the store has allocated; not all."""
    while True:
        await client.send("dhyana", body="x" * 100_000)


def test_a_node_without_mail_finds_the_room_by_itself(tmp_path: Path) -> None:
    async def story(mesh: Sandbox, folder: Path) -> None:
        mesh.start()
        await mesh.up()
        ballast = fill(folder)
        async with mesh.client("agni") as agni:
            with pytest.raises(SendError, match="full"):
                await send_for_ever(agni)
        assert not await is_ready(mesh, "agni")
        ballast.unlink()
        await until(lambda: is_ready(mesh, "agni"), "agni is ready again")

    with Sandbox(tmp_path, {"agni": ["agni", "dhyana"]}) as mesh, small_disk(mesh, "agni") as folder:
        asyncio.run(story(mesh, folder))


def test_a_node_is_not_ready_until_a_write_worked_again_and_says_so_once_each_way(tmp_path: Path) -> None:
    """What is small may still be written on a full disk: that it can does not mean that mail can."""

    async def story(mesh: Sandbox, folder: Path) -> None:
        mesh.start()
        await mesh.up()
        before = await mesh.status("agni")
        assert 0 < before["disks"]["store"]["free"] < before["disks"]["store"]["size"] <= 16 * 2**20
        assert [one["state"] for one in before["findings"] if one["check"] == "disk"] == ["ok"]
        ballast = fill(folder)
        async with mesh.client("agni") as agni:
            with pytest.raises(SendError, match="full"):
                await send_for_ever(agni)
            for _ in range(30):
                full = await mesh.status("agni")
                assert not full["ready"]
                with contextlib.suppress(SendError):
                    await agni.send("dhyana", body="small")
        assert full["disks"]["store"]["free"] < 2**20
        assert {"disk", "store"} <= {one["check"] for one in full["findings"] if one["state"] == "failed"}
        log = mesh.places["agni"].log
        await until(lambda: "ERROR the store can't be written" in log.read_text(), "the journal says so")
        ballast.unlink()
        await until(lambda: is_ready(mesh, "agni"), "agni is ready again")
        await until(lambda: "again: the store can be written" in log.read_text(), "the journal says so")
        said = log.read_text().splitlines()
        assert len([line for line in said if "ERROR the store can't be written" in line]) == 1
        assert len([line for line in said if "again: the store can be written" in line]) == 1

    with Sandbox(tmp_path, {"agni": ["agni", "dhyana"]}) as mesh, small_disk(mesh, "agni") as folder:
        asyncio.run(story(mesh, folder))


def test_a_full_disk_is_no_flood_in_the_journal(tmp_path: Path) -> None:
    async def story(mesh: Sandbox, folder: Path) -> None:
        mesh.start()
        await mesh.up()
        ballast = fill(folder)
        async with mesh.client("agni") as agni:
            for _ in range(100):
                with pytest.raises(SendError):
                    await send_for_ever(agni)
        ballast.unlink()
        assert mesh.places["agni"].log.read_text().count("\n") <= 60

    with Sandbox(tmp_path, {"agni": ["agni", "dhyana"]}) as mesh, small_disk(mesh, "agni") as folder:
        asyncio.run(story(mesh, folder))
