"""Single files of an outbox: what the node takes them for, and how they leave."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import stat
import time
import uuid
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path

import pytest

from integration.test_store_and_mailbox import FAR, Disk, on_disk
from trishula.cli.sandbox import until
from trishula.node import adoption, drops, mailbox, queries
from trishula.node import bounced as bounced_module
from trishula.node.bounced import Bounced
from trishula.node.bounces import bounce_file
from trishula.node.database import SqlRows, connect, prepare
from trishula.node.drops import Bad, Gone, History, Known, Mark, Ready, Unfinished
from trishula.node.mailbox import retire_file
from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.errors import MessageError, TrishulaError
from trishula.protocol.message import Message, id_of_file
from trishula.protocol.records import Originate, Prune, Settle

look = partial(drops.look, agent="mac", known=None, most=1000)


def dropped(folder: Path, name: str, text: str) -> Ready:
    (folder / name).write_text(text)
    seen = look(str(folder), name=name)
    assert isinstance(seen, Ready)
    return seen


def test_what_is_filled_in_is_a_function_of_the_file(tmp_path: Path) -> None:
    one = dropped(tmp_path, "a.json", '{"to": "agni"}')
    assert look(str(tmp_path), name="a.json") == one
    fields = json.loads(one.message.payload)
    assert {*fields} == {"to", "id", "from", "timestamp"}
    assert fields["from"] == "mac"
    assert fields["timestamp"].endswith("Z")
    mark = one.mark
    others = [
        drops.finish("mac", "b.json", mark, one.raw, most=1000),
        drops.finish("mac", "a.json", mark._replace(mtime_ns=mark.mtime_ns + 1), one.raw, most=1000),
        drops.finish("mac", "a.json", mark, one.raw + b" ", most=1000),
        drops.finish("dhyana", "a.json", mark, one.raw, most=1000),
    ]
    assert len({one.message.id, *(other.id for other in others)}) == 5
    moved = drops.finish("mac", "a.json", mark._replace(inode=1), one.raw, most=1000)
    assert moved == one.message


@pytest.mark.parametrize("seconds", [-(10**12), 10**14])
def test_a_file_may_have_any_time(seconds: int) -> None:
    message = drops.finish("mac", "a.json", Mark(1, seconds * 10**9, 13), b'{"to": "agni"}', most=1000)
    assert json.loads(message.payload)["timestamp"] in ("1970-01-01T00:00:00.000Z", "9999-12-31T00:00:00.000Z")


def test_the_id_of_a_file_is_a_uuid_of_the_fifth_version() -> None:
    space = uuid.UUID("7d5c1d0a-5a43-5c1f-9f0e-6f1f2b8a9c10")
    for number in range(50):
        what = f"mac\na.json\n{number}\n{hashlib.sha256(b'{}').hexdigest()}"
        assert id_of_file("mac", "a.json", number, b"{}") == str(uuid.uuid5(space, what))


def test_a_file_is_history_only_if_it_is_byte_for_byte_what_is_stored(tmp_path: Path) -> None:
    message = dropped(tmp_path, "m.json", '{"to": "agni", "id": "m"}').message
    known = Known(message.digest, len(message.payload))
    (tmp_path / "m.json").write_bytes(message.payload)
    assert isinstance(look(str(tmp_path), name="m.json", known=known), History)
    assert isinstance(look(str(tmp_path), name="m.json", known=known, most=5), History)
    (tmp_path / "m.json").write_bytes(message.payload.replace(b"agni", b"else"))
    assert isinstance(look(str(tmp_path), name="m.json", known=known), Ready)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b'{"to": "agni"', Unfinished),
        (b"", Unfinished),
        (b"[]", Unfinished),
        (b'{"to": "agni", "n": NaN}', Unfinished),
        (b'\xef\xbb\xbf{"to": "agni"}', Unfinished),
        (b'{"to": "agni"}\0', Unfinished),
        (b'{"to": "agni", "ttl": 60}', Bad),
        (b'{"to": "\xff"}', Unfinished),
        (b"[" * 900, Unfinished),
        (b"{}", Bad),
        (b'{"to": 7}', Bad),
        (b'{"to": "agni", "to": "mac"}', Bad),
        (b'{"to": "agni", "id": ".."}', Bad),
        (b'{"to": "agni", "from": "agni"}', Bad),
        (b" " * 1001, Bad),
        (b'{"to": "agni"}', Ready),
        (b'{"to": "nobody"}', Ready),
    ],
)
def test_what_may_still_become_a_message_is_told_from_what_will_not(tmp_path: Path, text: bytes, kind: type) -> None:
    (tmp_path / "a.json").write_bytes(text)
    assert type(look(str(tmp_path), name="a.json")) is kind


def test_what_can_not_be_read_may_be_readable_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("{}")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    seen = look(str(tmp_path), name="a.json")
    assert isinstance(seen, Unfinished)
    assert seen.error.fix == "chmod g+r a.json"
    assert isinstance(seen.patience, float)
    assert seen.patience < 10
    group = next(entry for entry in grp.getgrall() if entry.gr_gid != tmp_path.stat().st_gid)
    lstat = os.lstat

    def of_another_group(path: str) -> os.stat_result:
        status = [*lstat(path)]
        status[stat.ST_GID] = group.gr_gid
        return os.stat_result(status)

    monkeypatch.setattr(os, "lstat", of_another_group)
    seen = look(str(tmp_path), name="a.json")
    assert isinstance(seen, Unfinished)
    ours = grp.getgrgid(tmp_path.stat().st_gid).gr_name
    assert seen.error.fix == f"chgrp {ours} a.json && chmod g+r a.json"


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"to":"agni",', b'{"to": "agn', b'{"to": "agni", "n": 1.', b'{"to": "\xc3']
)
def test_the_beginning_of_a_message_is_waited_for_half_a_minute_and_more(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    seen = look(str(tmp_path), name="a.json")
    assert isinstance(seen, Unfinished)
    assert seen.patience > 20
    now = time.time()
    for changed_at, least, most in ((now + 1000, 35, 35), (now - 10, 20, 25), (now - 1000, 2, 2)):
        os.utime(tmp_path / "a.json", (changed_at, changed_at))
        seen = look(str(tmp_path), name="a.json")
        assert isinstance(seen, Unfinished)
        assert least <= seen.patience <= most


@pytest.mark.parametrize(
    "text", [b'{"to":"agni",,', b"[1", b'{"to": "\xe9"}', b"hello", '{"to": "x"}'.encode("utf-16")]
)
def test_what_no_more_bytes_could_mend_is_not_waited_for(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    seen = look(str(tmp_path), name="a.json")
    assert isinstance(seen, Unfinished)
    assert seen.patience < 5


def test_what_changes_while_it_is_read_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text('{"to": "agni"}')
    lstat = os.lstat

    def then_changed(path: str) -> os.stat_result:
        status = lstat(path)
        Path(path).write_text('{"to": "rushabdev"}')
        return status

    monkeypatch.setattr(os, "lstat", then_changed)
    assert look(str(tmp_path), name="a.json") == Gone("a.json", again=True)
    assert look(str(tmp_path), name="none.json") == Gone("none.json", again=False)


def change_in_place(path: Path) -> None:
    path.write_text("another")


def replace(path: Path) -> None:
    path.with_name("x").write_text('{"to": "agni"}')
    path.with_name("x").rename(path)


@pytest.mark.parametrize("change", [change_in_place, replace])
@pytest.mark.parametrize("when", ["before", "while it is taken"])
def test_a_file_is_removed_only_if_it_is_still_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], when: str
) -> None:
    ready = dropped(tmp_path, "a.json", '{"to": "agni"}')
    path = tmp_path / "a.json"
    if when == "before":
        change(path)
    else:
        rename = os.rename

        def late(source: str, target: str) -> None:
            monkeypatch.setattr(os, "rename", rename)
            change(path)
            rename(source, target)

        monkeypatch.setattr(os, "rename", late)
    assert not drops.remove(str(tmp_path), "a.json", ready.mark, ready.raw)
    assert path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    ready = Ready("a.json", drops.mark_of(path.lstat()), b"", ready.message)
    assert drops.remove(str(tmp_path), "a.json", ready.mark, ready.raw)
    assert list(tmp_path.iterdir()) == []
    assert drops.remove(str(tmp_path), "a.json", ready.mark, ready.raw), "it is gone already"


def test_a_writer_that_adds_the_end_of_the_line_late_has_written_one_message(tmp_path: Path) -> None:
    ready = dropped(tmp_path, "a.json", '{"to": "agni"}')
    with (tmp_path / "a.json").open("a") as file:
        file.write("\n")
    assert drops.remove(str(tmp_path), "a.json", ready.mark, ready.raw)
    assert list(tmp_path.iterdir()) == []


def test_two_files_of_one_name_are_both_kept_to_be_sent(tmp_path: Path) -> None:
    (tmp_path / f"{drops.TAKEN}a.json").write_text("1")
    (tmp_path / "a.json").write_text("2")
    drops.give_back(str(tmp_path), "a.json")
    assert {path.read_text() for path in tmp_path.glob("a*.json")} == {"1", "2"}


def test_bounced_files_of_one_name_have_a_reason_each(tmp_path: Path) -> None:
    for box in ("outbox", "bounced"):
        (tmp_path / box).mkdir()
    for text in ("1", "2"):
        path = tmp_path / "outbox" / "a.json"
        path.write_text(text)
        error = MessageError(f"no {text}", key="to", value=["x"], fix="mend it")
        assert drops.bounce(str(tmp_path), "mac", "a.json", drops.mark_of(path.lstat()), error, at=0)
    bounced = tmp_path / "bounced"
    names = {path.name for path in bounced.iterdir() if not path.name.endswith(".reason.json")}
    assert len(names) == 2
    for name in names:
        reason = json.loads((bounced / f"{name}.reason.json").read_text())
        assert reason["reason"] == f"no {(bounced / name).read_text()}"
        assert (reason["key"], reason["value"], reason["fix"]) == ("to", "['x']", "mend it")
    assert list((tmp_path / "outbox").iterdir()) == []


# ---------------------------------------------------------------- what has bounced


class Mailbox:
    """The folders of an agent, and the `Bounced` of a node that has just begun, if `anew` is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for box in ("outbox", "bounced"):
            (folder / box).mkdir()
        self.anew()

    def anew(self) -> None:
        self.bounced = Bounced(self.folder, "mac", 1000)

    def names(self, box: str = "bounced") -> set[str]:
        return {path.name for path in (self.folder / box).iterdir()}

    def bounce(self, name: str, text: str | bytes, at: int = 0) -> Path:
        path = self.folder / "outbox" / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        seen = look(str(path.parent), name=name)
        error = seen.error if isinstance(seen, Bad | Unfinished) else MessageError("there is no agent 'x'", fix="agni")
        assert drops.bounce(str(self.folder), "mac", name, drops.mark_of(path.lstat()), error, at=at)
        return self.folder / "bounced" / name

    def look(self) -> None:
        self.bounced.send_mended(at=7, thorough=True)


@pytest.fixture
def box(tmp_path: Path) -> Mailbox:
    return Mailbox(tmp_path)


@pytest.mark.parametrize("restarted", [False, True], ids=["at once", "after a restart"])
@pytest.mark.parametrize("how", ["in place", "replaced", "written to the end"])
def test_what_is_mended_in_bounced_is_in_the_outbox_again_and_its_reason_goes(
    box: Mailbox, how: str, *, restarted: bool
) -> None:
    path = box.bounce("a.json", '{"to": "agni",')
    box.look()
    assert box.names() == {"a.json", "a.json.reason.json"}
    if how == "replaced":
        path.with_name("b").write_text('{"to": "agni"}')
        path.with_name("b").rename(path)
    elif how == "in place":
        path.write_text('{"to": "agni"}')
    else:
        with path.open("a") as file:
            file.write('"body": "x"}')
    if restarted:
        box.anew()
    box.look()
    assert (box.names(), box.names("outbox")) == (set(), {"a.json"})


def test_what_has_not_changed_is_not_read_again_though_it_would_be_valid_now(
    box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.bounce("unknown.json", '{"to": "x"}')
    box.bounce("bad.json", "{}")
    monkeypatch.setattr(drops, "look", lambda *_, **__: pytest.fail("it was read"))
    for _ in range(3):
        box.look()
        box.anew()
    assert box.names("outbox") == set()


def test_what_changes_and_is_still_invalid_stays_with_a_new_reason_that_is_written_once(box: Mailbox) -> None:
    path = box.bounce("a.json", "{}")
    path.write_text('{"to": 7}')
    box.look()
    reason = path.with_name("a.json.reason.json")
    assert "not 7" in json.loads(reason.read_text())["reason"]
    inode = reason.stat().st_ino
    box.look()
    box.anew()
    box.look()
    assert reason.stat().st_ino == inode
    assert box.names("outbox") == set()


def test_a_file_that_could_not_be_read_is_sent_when_it_can(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    path = box.folder / "outbox" / "a.json"
    path.write_text('{"to": "agni"}')
    error = MessageError("it can't be read", code="unreadable", fix="chmod g+r a.json")
    drops.bounce(str(box.folder), "mac", "a.json", drops.mark_of(path.lstat()), error, at=0)
    monkeypatch.setattr(os, "access", lambda *_: False)
    box.look()
    assert "a.json" in box.names()
    monkeypatch.undo()
    (box.folder / "bounced" / "a.json").chmod(0o660)
    box.look()
    assert (box.names(), box.names("outbox")) == (set(), {"a.json"})


def test_a_notice_and_what_has_no_reason_beside_it_are_never_sent(box: Mailbox) -> None:
    notice = queries.Bounce(1, "mac", "m1", "agni", "agni", State.REFUSED, "full", 5, b'{"subject": "s"}')
    corrected = queries.Bounce(1, "mac", "m2", "agni", "agni", State.DELIVERED, "", 5, b'{"subject": "s"}')
    for bounce in (notice, corrected):
        (box.folder / "bounced" / bounce.name).write_bytes(bounce_file(bounce))
    (box.folder / "bounced" / "mine.json").write_text('{"to": "agni"}')
    box.look()
    assert box.names() == {"m1~agni.json", "m2~agni.json", "mine.json"}
    assert [(item["file"], item["state"], item["reason"]) for item in box.bounced.items()] == [
        ("m1~agni.json", "refused", "full")
    ]
    with pytest.raises(TrishulaError, match="no such bounced file"):
        box.bounced.retry("m1~agni.json")


def test_an_older_nodes_reason_tells_by_its_own_age_what_was_mended(box: Mailbox) -> None:
    for name in ("old.json", "mended.json"):
        reason = box.bounce(name, '{"to": "agni"}').with_name(f"{name}.reason.json")
        told = json.loads(reason.read_text())
        del told["size"], told["mtime_ns"]
        reason.write_text(json.dumps(told))
        os.utime(reason, (100, 100))
        os.utime(box.folder / "bounced" / name, (99, 99) if name == "old.json" else (101, 101))
    box.look()
    assert box.names("outbox") == {"mended.json"}


def test_a_mended_file_replaces_no_other_in_the_outbox(box: Mailbox) -> None:
    box.bounce("a.json", "{}").write_text('{"to": "agni", "body": 1}')
    (box.folder / "outbox" / "a.json").write_text('{"to": "agni", "body": 2}')
    box.look()
    bodies = {json.loads(path.read_text())["body"] for path in (box.folder / "outbox").iterdir()}
    assert (bodies, box.names()) == ({1, 2}, set())


def test_the_reason_goes_when_its_file_is_sent_and_stays_while_another_lies_there(box: Mailbox) -> None:
    path = box.bounce("a.json", "{}")
    box.bounced.left("a.json")
    assert box.names() == {"a.json", "a.json.reason.json"}
    path.rename(box.folder / "outbox" / "a.json")
    box.bounced.left("a.json")
    assert box.names() == set()


def test_a_reason_whose_file_was_taken_away_goes_after_a_while_and_not_at_once(
    box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.bounce("a.json", "{}").unlink()
    box.look()
    assert box.names() == {"a.json.reason.json"}, "an editor may put the next one there"
    monkeypatch.setattr(bounced_module, "_ORPHANED_S", -1.0)
    box.look()
    assert box.names() == set()


def test_a_drop_that_is_called_like_a_reason_is_not_lost(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounced_module, "_ORPHANED_S", -1.0)
    box.bounce("a.json.reason.json", '{"mine": 1}')
    box.bounce("a.json", "{}")
    box.look()
    box.bounced.left("a.json")
    texts = {path.read_text() for path in (box.folder / "bounced").iterdir() if "was not sent" not in path.read_text()}
    assert texts == {'{"mine": 1}', "{}"}
    assert {item["reason"] for item in box.bounced.items()} == {'the message has no recipient: "to" is missing'}


def test_the_summary_counts_what_was_not_sent_from_the_oldest_on(box: Mailbox) -> None:
    assert box.bounced.summary() == {"count": 0, "oldest": None, "reason": ""}
    for number, text in enumerate(["{}", '{"to": 7}', "[]"]):
        path = box.bounce(f"{number}.json", text)
        os.utime(path.with_name(f"{number}.json.reason.json"), (10 - number, 10 - number))
    assert box.bounced.summary() == {"count": 3, "oldest": 8000, "reason": "a message is a JSON object, not a list"}
    assert [item["file"] for item in box.bounced.items()] == ["2.json", "1.json", "0.json"]


def test_a_file_is_tried_again_on_request_if_it_is_a_message(box: Mailbox) -> None:
    box.bounce("a.json", '{"to": "x"}')
    box.bounce("b.json", "{}")
    assert box.bounced.retry("a.json") == "a.json"
    assert box.names("outbox") == {"a.json"}
    with pytest.raises(MessageError, match="no recipient"):
        box.bounced.retry("b.json")
    for name in ("../outbox/a.json", "b.json.reason.json", "none.json", ""):
        with pytest.raises(TrishulaError, match="no such bounced file"):
            box.bounced.retry(name)


def test_a_folder_that_is_a_link_is_nobodys_to_send_from(box: Mailbox, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Mailbox(tmp_path / "other")
    other.bounce("a.json", "{}").write_text('{"to": "agni"}')
    (box.folder / "bounced").rmdir()
    (box.folder / "bounced").symlink_to(other.folder / "bounced")
    box.look()
    assert (box.names("outbox"), box.bounced.items()) == (set(), [])


# ---------------------------------------------------------------- what has ended


def message(message_id: str = "m") -> Message:
    raw = b'{"to": "agni"}'
    return drops.finish("mac", "x", Mark(1, 1, 1), raw[:-1] + f', "id": "{message_id}"}}'.encode(), most=1000)


def originate(letter: Message, expires_at: int) -> Originate:
    return Originate(letter, (Envelope("mac", "agni", Key("mac", letter.id, "agni"), expires_at, letter.payload),), 1)


def settle(letter: Message) -> Settle:
    receipt = Receipt("mac", "agni", Key("mac", letter.id, "agni"), 10, letter.digest, State.READ, "", 5)
    return Settle(receipt, "direct", 6, 1.5)


async def numbers(disk: Disk) -> int:
    return await disk.store.read(lambda db: db.execute("SELECT count(*) FROM messages").fetchone()[0])


def test_the_row_of_a_message_goes_only_after_its_file_has_left_the_outbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "_ENDED_EVERY", 0.05)
    old, new = message("old"), message("new")

    async def send(disk: Disk) -> None:
        await disk.commit(originate(old, 10), originate(new, FAR), settle(old), settle(new))
        await until(lambda: disk.names(box="outbox") == {"old.json", "new.json"}, "both are written")
        await disk.commit(Prune(before=1000, limit=100))
        assert await numbers(disk) == 2
        (again,) = await disk.commit(originate(old, FAR))
        assert not getattr(again, "fresh"), "it is still known, so its file is not sent again"  # noqa: B009
        disk.projector.retires = True
        await until(lambda: disk.names(box="outbox") == {"sent", "new.json"}, "one moves", seconds=30)

        async def forgotten() -> bool:
            return await numbers(disk) == 1

        await until(forgotten, "and is forgotten")
        kept = disk.mailboxes / "mac" / "outbox" / "sent" / "1970-01" / "old.json"
        assert kept.read_bytes() == old.payload

    on_disk(tmp_path, send)


def test_a_crash_between_the_move_and_the_mark_leaves_one_file(tmp_path: Path) -> None:
    letter = message()
    due = queries.EndedFile(1, "mac", "m", letter.digest, 1, letter.payload)
    (tmp_path / "m.json").write_bytes(letter.payload)
    retire_file(tmp_path, due)
    retire_file(tmp_path, due)
    (tmp_path / "m.json").write_bytes(letter.payload)  # written again in between
    retire_file(tmp_path, due)
    (tmp_path / "m.json").write_bytes(b"the agent's own")
    retire_file(tmp_path, due)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")} == {"m.json", "sent/1970-01/m.json"}


def test_another_file_of_that_name_in_the_folder_of_the_month_is_kept(tmp_path: Path) -> None:
    letter = message()
    folder = tmp_path / "sent" / "1970-01"
    folder.mkdir(parents=True)
    (folder / "m.json").write_text("other")
    (tmp_path / "m.json").write_bytes(letter.payload)
    retire_file(tmp_path, queries.EndedFile(1, "mac", "m", letter.digest, 1, letter.payload))
    assert {path.read_bytes() for path in folder.iterdir()} == {b"other", letter.payload}


def test_a_copy_that_was_dropped_is_not_taken_for_the_file_that_is_due(tmp_path: Path) -> None:
    """The node died after the commit; what lies there is what the agent dropped, and will be removed."""
    letter = message()

    async def die_before_the_file(disk: Disk) -> None:
        await disk.commit(originate(letter, FAR))

    async def come_back(disk: Disk) -> None:
        await until((disk.mailboxes / "mac" / "outbox" / "m.json").exists, "it is written under its own name")

    on_disk(tmp_path, die_before_the_file, projecting=False)
    (tmp_path / "mailboxes" / "mac" / "outbox" / "copy.json").write_bytes(letter.payload)
    on_disk(tmp_path, come_back)


def test_a_draft_that_is_called_like_its_message_makes_room_for_it(tmp_path: Path) -> None:
    draft = json.dumps({"id": "m", "from": "mac", "to": "agni", "timestamp": "t"})

    async def send(disk: Disk) -> None:
        outbox = disk.mailboxes / "mac" / "outbox"
        ready = dropped(outbox, "m.json", draft)
        (outbox / "n.json").write_text("not the draft of n")
        await disk.commit(originate(ready.message, FAR), originate(message("n"), FAR))
        await until(lambda: disk.names(box="outbox") == {"m.json", "n.json", "n~mac.json"}, "both are there")
        assert (outbox / "m.json").read_bytes() == ready.message.payload

    on_disk(tmp_path, send)


def test_a_draft_that_is_taken_out_while_we_look_makes_room_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(folder: str, _agent: str, name: str, _payload: bytes) -> bool:
        (Path(folder) / name).unlink()
        return False

    monkeypatch.setattr(drops, "is_draft", too_late)
    (tmp_path / "m.json").write_text('{"id": "m", "to": "agni"}')
    letter = message()
    due = queries.FileDue("messages", 1, "mac", "outbox", "mac", "m", letter.payload, taken=False)
    assert mailbox.write_file(tmp_path, due) == "m.json"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [letter.payload]


# ---------------------------------------------------------------- a store that is new


def test_what_the_store_knows_stays_and_all_else_is_moved_aside_whatever_its_name(tmp_path: Path) -> None:
    prepare(tmp_path / "trishula.db", "mac")
    db = connect(tmp_path / "trishula.db")
    known, outbox = message("known"), tmp_path / "outbox"
    SqlRows(db).add_message(known, 1)
    target = outbox / "aside" / "today"
    target.mkdir(parents=True)
    (target / "a.json").write_text("from a first attempt")
    (outbox / "known.json").write_bytes(known.payload)
    (outbox / "known~mac.json").write_text("not it")
    (outbox / "a.json").write_text("{}")
    (outbox / "note.txt").write_text("mine")
    assert adoption.set_aside(db, "mac", outbox, target) == 2
    assert {path.name for path in outbox.iterdir()} == {"aside", "known.json", "note.txt"}
    assert {path.name for path in target.iterdir()} == {"a.json", "a~1.json", "known~mac.json"}
    assert adoption.set_aside(db, "mac", outbox, target) == 0
    db.close()


def test_a_store_of_the_format_before_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "trishula.db"
    db = connect(path)
    for step in (1, 2):
        db.executescript(resources.files("trishula.node").joinpath(f"schema/{step}.sql").read_text("utf-8"))
    db.execute("PRAGMA user_version = 2")
    db.executemany("INSERT INTO meta VALUES (?, ?)", [("node", "mac"), ("incarnation", "i"), ("adopted", "1")])
    for number, message_id in enumerate(("ended", "open")):
        db.execute("INSERT INTO messages VALUES (?, 'mac', ?, 'd', x'70', 1, 1)", (number, message_id))
    db.execute(
        "INSERT INTO outgoing (sender, id, recipient, dest, digest, urgent, expires_at, stored_at, state, reason,"
        " route) VALUES ('mac', 'open', 'agni', 'agni', 'd', 0, 5, 1, 'read', '', 'direct')"
    )
    db.close()
    assert prepare(path, "mac") == "i"
    db = connect(path)
    assert [file.id for file in queries.ended_due(db, limit=5)] == ["ended"]
    assert queries.receipts_due(db, limit=5) == []
    db.close()
