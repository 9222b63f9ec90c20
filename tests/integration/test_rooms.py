"""What lies in a room without being mail: it does not stay, and does not fill the disk."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trishula.cli.sandbox import until
from trishula.node import rooms
from trishula.node.courier import Courier
from trishula.node.rooms import Room
from trishula.protocol import frames
from trishula.protocol.envelope import Envelope, Key

FAR = 4_000_000_000_000


class Ear:
    def __init__(self) -> None:
        self.heard_frames: list[frames.MeshFrame] = []

    def heard(self, number: int, frame: frames.MeshFrame) -> None:
        assert number == -1
        self.heard_frames.append(frame)

    def tell(self, node: str, frame: frames.Frame) -> None:
        assert (node, frame) == ("agni", frames.Posted())


class Slow(Room):
    """Its disk is slow: a test says when it may write."""

    def __init__(self, folder: Path) -> None:
        super().__init__("agni", folder, -1, None, Ear())
        self.writing, self.may_write = threading.Event(), threading.Event()

    def _put(self, items: Any) -> None:
        self.writing.set()
        assert self.may_write.wait(60)
        super()._put(items)


async def live(room: Room, holds: object, what: str) -> None:
    """Until something holds."""
    task = asyncio.create_task(room.run())
    try:
        await until(holds, what)  # type: ignore[arg-type]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_what_a_killed_rsync_left_goes_and_so_does_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "_READ_S", 0.0)
    monkeypatch.setattr(rooms, "_HEARD_S", 0.0)
    monkeypatch.setattr(rooms, "_LOOK_EVERY_IDLE_S", 0.05)
    incoming = tmp_path / "in"
    incoming.mkdir()
    (incoming / ".1-0000000001.json.Xy12Ab").write_bytes(b"{half")
    (incoming / "1-0000000001.json").write_bytes(frames.encode(frames.Ack(seq=7)))
    ear = Ear()
    room = Room("agni", tmp_path, -1, None, ear)
    asyncio.run(live(room, lambda: not list(incoming.iterdir()), "all is gone"))
    assert ear.heard_frames == [frames.Ack(seq=7)]
    assert list((tmp_path / "rejected").iterdir()) == []


def test_what_was_read_is_not_read_again_after_a_restart_and_goes_when_it_came_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "_HEARD_S", 0.0)
    monkeypatch.setattr(rooms, "_LOOK_EVERY_IDLE_S", 0.05)
    incoming = tmp_path / "in"
    incoming.mkdir()
    file = incoming / "1-0000000001.json"
    file.write_bytes(frames.encode(frames.Ack(seq=7)))
    ear = Ear()
    asyncio.run(live(Room("agni", tmp_path, -1, None, ear), lambda: bool(ear.heard_frames), "it is read"))
    assert file.exists()
    (incoming / "1-0000000002.json").write_bytes(frames.encode(frames.Ack(seq=8)))
    asyncio.run(live(Room("agni", tmp_path, -1, None, ear), lambda: len(ear.heard_frames) > 1, "the new one is read"))
    assert ear.heard_frames == [frames.Ack(seq=7), frames.Ack(seq=8)]
    later = SimpleNamespace(monotonic=time.monotonic, time_ns=lambda: time.time_ns() + 300 * 10**9)
    monkeypatch.setattr(rooms, "time", later)
    asyncio.run(live(Room("agni", tmp_path, -1, None, ear), lambda: not file.exists(), "it is gone"))
    assert len(ear.heard_frames) == 2


@pytest.mark.parametrize("word", [None, b"{half", b'{"1-0000000001.json": "?"}'])
def test_what_a_node_left_no_good_word_of_is_read_once_more(tmp_path: Path, word: bytes | None) -> None:
    incoming = tmp_path / "in"
    incoming.mkdir()
    (incoming / "1-0000000001.json").write_bytes(frames.encode(frames.Ack(seq=7)))
    ear = Ear()
    asyncio.run(live(Room("agni", tmp_path, -1, None, ear), lambda: bool(ear.heard_frames), "it is read"))
    left = tmp_path / "read.json"
    assert left.read_bytes() == b"{}"  # it had no time to store it
    if word is None:
        left.unlink()
    else:
        left.write_bytes(word)
    asyncio.run(live(Room("agni", tmp_path, -1, None, ear), lambda: len(ear.heard_frames) > 1, "it is read again"))
    assert ear.heard_frames == [frames.Ack(seq=7)] * 2


def test_a_peer_whose_files_fill_its_room_is_fetched_from_no_more_and_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "ROOM_BYTES", 10)
    monkeypatch.setattr(rooms, "PULL_EVERY_IDLE_S", 0.05)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".huge").write_bytes(bytes(20))
    room = Room("agni", tmp_path, -1, Courier("agni", tmp_path, tmp_path / "ssh_config", pulls=True), Ear())
    asyncio.run(live(room, lambda: "fills its room: 20 bytes" in str(room.status()["problem"]), "it says so"))


def test_mail_that_goes_another_way_while_it_is_written_does_not_stay(tmp_path: Path) -> None:
    letter = Envelope("mac", "agni", Key("mac", "m", "agni"), FAR, b'{"id": "m"}\n', urgent=False)
    frame = frames.Deliver(seq=1, envelopes=[frames.SignedEnvelope.seal(letter, "1", bytes(32))])

    async def story() -> None:
        room = Slow(tmp_path)
        task = asyncio.create_task(room.run())
        room.post(is_open=True)
        room.transmit(frame)
        await until(room.writing.is_set, "it is being written")
        room.post(is_open=False)
        room.may_write.set()
        room.transmit(frames.Ack(seq=1))  # the next thing that is written
        await until(
            lambda: [*(tmp_path / "out").glob("*2.json")] == [*(tmp_path / "out").iterdir()] != [], "it is gone"
        )
        assert room.status()["waiting"] == 0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())


def test_rsync_carries_nothing_that_is_just_being_written(tmp_path: Path) -> None:
    for name in ("out", "there"):
        (tmp_path / name).mkdir()
    for name in (".trishula-1.json", "1.json"):
        (tmp_path / "out" / name).write_text("{}")
    courier = Courier("agni", tmp_path, tmp_path / "ssh_config", pulls=False)
    assert asyncio.run(courier._run(f"{tmp_path}/out/", f"{tmp_path}/there/", dry=False)) == ""
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["1.json"]


@pytest.mark.parametrize(("code", "fails"), [(24, False), (23, True)])
def test_that_mail_was_answered_while_rsync_ran_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, *, fails: bool
) -> None:
    (tmp_path / "rsync").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "rsync").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bool(asyncio.run(Courier("agni", tmp_path, tmp_path / "ssh_config", pulls=False).push())) == fails
