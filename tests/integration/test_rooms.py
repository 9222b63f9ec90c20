"""What lies in a room without being mail: it does not stay, and does not fill the disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from trishula.cli.sandbox import until
from trishula.node import rooms
from trishula.node.courier import Courier
from trishula.node.rooms import Room
from trishula.protocol import frames


class Ear:
    def __init__(self) -> None:
        self.heard_frames: list[frames.MeshFrame] = []

    def heard(self, number: int, frame: frames.MeshFrame) -> None:
        assert number == -1
        self.heard_frames.append(frame)

    def tell(self, node: str, frame: frames.Frame) -> None:
        raise AssertionError(f"there is nothing to tell {node}: {frame}")


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


def test_a_peer_whose_files_fill_its_room_is_fetched_from_no_more_and_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "ROOM_BYTES", 10)
    monkeypatch.setattr(rooms, "PULL_EVERY_IDLE_S", 0.05)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".huge").write_bytes(bytes(20))
    room = Room("agni", tmp_path, -1, Courier("agni", tmp_path, tmp_path / "ssh_config", pulls=True), Ear())
    asyncio.run(live(room, lambda: "fills its room: 20 bytes" in str(room.status()["problem"]), "it says so"))
