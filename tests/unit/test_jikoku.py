"""The log of sends: it loses no line unsaid, and holds up nobody."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trishula.node.jikoku import Jikoku
from trishula.protocol.envelope import Key, State
from trishula.protocol.names import PROBE
from trishula.protocol.records import Progress


def row(number: int = 1, sender: str = "mac", state: State = State.STORED, route: str = "") -> Progress:
    settled = None if state is State.STORED else 2000
    latency = 12.3456 if state is State.DELIVERED else None
    return Progress(
        number, Key(sender, f"m{number}", "agni"), "agni", "d", 9000, 1000, state, "", route, settled, latency
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_send_is_a_line_and_its_receipt_another(tmp_path: Path) -> None:
    path = tmp_path / "JIKOKU_LOG.jsonl"
    log = Jikoku(path)
    log.start()
    log.stored(row(), "my session", "direct", 1.23456)
    log.settled(row(state=State.DELIVERED, route="relay:agni"))
    log.settled(row(2, state=State.UNCONFIRMED))
    log.stored(row(3), "", "", 1.0)
    log.stored(row(4, sender=PROBE), "", "direct", 1.0)
    log.stop()
    sent, delivered, given_up, waiting = lines(path)
    assert sent == {
        "timestamp": "1970-01-01T00:00:01.000Z",
        "span_type": "TRISHULA_SEND",
        "event": "trishula_send",
        "session_id": "my session",
        "agent": "mac",
        "to": "agni",
        "message_id": "m1",
        "method": "websocket",
        "route": "direct",
        "latency_ms": 1.235,
        "status": "stored",
    }
    assert (delivered["event"], delivered["delivered_ms"], delivered["route"], delivered["method"]) == (
        "trishula_receipt",
        12.346,
        "relay:agni",
        "websocket",
    )
    assert (given_up["status"], given_up["delivered_ms"], given_up["method"]) == ("unconfirmed", None, None)
    assert (waiting["method"], waiting["route"]) == ("file_fallback", None)
    assert waiting["session_id"] == delivered["session_id"] != ""
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_it_is_rotated_by_size_and_no_line_is_lost_nor_more_files_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Jikoku(path, most_bytes=1000, keep=3)
    log.start()
    for number in range(60):
        log.stored(row(number), "", "direct", 1.0)
        wait(log._queue.empty)
    log.stop()
    names = {file.name for file in tmp_path.iterdir()}
    assert names <= {"log", "log.1", "log.2", "log.3"}
    assert {"log.1", "log.2", "log.3"} <= names
    kept = [
        int(line["message_id"][1:]) for file in ("log.3", "log.2", "log.1", "log") for line in lines(tmp_path / file)
    ]
    assert kept == list(range(kept[0], 60))


def test_a_file_that_is_taken_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Jikoku(path)
    log.start()
    log.stored(row(1), "", "direct", 1.0)
    wait(lambda: len(lines(path)) == 1)
    path.unlink()
    log.stored(row(2), "", "direct", 1.0)
    log.stop()
    assert [line["message_id"] for line in lines(path)] == ["m2"]


def test_what_a_full_disk_swallows_is_counted_and_said_and_later_lines_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    log = Jikoku(path)
    write = os.write

    def half(descriptor: int, block: bytes) -> int:
        if os.fstat(descriptor).st_size % 7:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(block[:10]))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        log._write([b'{"message_id": "m1"}\n', b'{"message_id": "m2"}\n'])
    assert log.dropped == 2
    assert path.read_bytes() == b""
    log._write([b'{"message_id": "m3"}\n'])
    lost, third = lines(path)
    assert (lost["event"], lost["count"]) == ("trishula_lines_lost", 2)
    assert third == {"message_id": "m3"}


def test_a_flood_is_not_waited_for(tmp_path: Path) -> None:
    log = Jikoku(tmp_path / "log", most_queued=10)  # and nobody writes yet
    begun = time.monotonic()
    for number in range(1000):
        log.stored(row(number), "", "direct", 1.0)
    assert time.monotonic() - begun < 5
    assert log.dropped == 990
    log.start()
    log.stop()
    lost, *kept = lines(tmp_path / "log")
    assert (lost["count"], len(kept)) == (990, 10)


def test_neither_a_pipe_nor_a_link_nor_a_missing_folder_stops_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("pipe", "link", "missing/log"):
        log = Jikoku(tmp_path / name)
        log._write([b"{}\n"])
        assert log.dropped == 1
    assert not (tmp_path / "target").exists()
