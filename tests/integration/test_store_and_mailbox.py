"""The disk's side of a node: what is committed, what is written, and what a crash in between leaves."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import cast

import pytest

from trishula.cli.sandbox import until
from trishula.node import files, queries
from trishula.node.database import StoreError, connect, prepare
from trishula.node.files import make_mailboxes
from trishula.node.hub import Hub as NodeHub
from trishula.node.inboxes import Inboxes
from trishula.node.mailbox import Projector
from trishula.node.store import Store
from trishula.node.written import Written
from trishula.protocol.effects import Load
from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.errors import SendError
from trishula.protocol.message import complete
from trishula.protocol.records import Accept, Answer, Found, GiveUp, Originate, Originated, Read, Record, Result, Settle

FAR = 2**52


def accept(message_id: str, *, sender: str = "agni", to: str = "mac", body: str = "hello") -> Accept:
    raw = f'{{"id": "{message_id}", "to": "{to}", "body": "{body}"}}'.encode()
    message = complete(raw, sender=sender, new_id="-", timestamp="2026-02-10T00:00:00Z", max_bytes=10_000)
    envelope = Envelope("agni", "mac", Key(sender, message_id, to), FAR, message.payload)
    return Accept(envelope, message.digest, 1, "direct")


class Disk:
    """A store and its mailboxes, and what the store said."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "store", "mac")
        self.mailboxes = root / "mailboxes"
        self.done: dict[int, Sequence[Result]] = {}
        self.failed: dict[int, SendError] = {}
        make_mailboxes(self.mailboxes, ["mac", "dhyana"])
        self.projector = Projector(self.mailboxes, ["mac", "dhyana"], self.store)

    def inbox(self, agent: str = "mac") -> Path:
        return self.mailboxes / agent / "inbox"

    def names(self, agent: str = "mac", box: str = "inbox") -> set[str]:
        return {path.name for path in (self.mailboxes / agent / box).iterdir()}

    async def commit(self, *records: Record) -> Sequence[Result]:
        batch = len(self.done) + len(self.failed) + 1
        self.store.submit(batch, records)
        await until(lambda: batch in self.done or batch in self.failed, "the commit is done")
        return self.done[batch]

    def _committed(self, done: list[tuple[int, Sequence[Result]]]) -> None:
        self.done.update(done)
        self.projector.wake()
        self.projector.bounced()
        self.projector.handled(())

    def _failed(self, batches: list[int], error: SendError) -> None:
        self.failed.update(dict.fromkeys(batches, error))

    async def use(self, work: Callable[[Disk], Awaitable[None]], *, projecting: bool = True) -> None:
        async with self.store, asyncio.TaskGroup() as tasks:
            self.store.start(self._committed, self._failed)
            task = tasks.create_task(self.projector.run() if projecting else asyncio.sleep(0))
            await work(self)
            task.cancel()


def on_disk(root: Path, work: Callable[[Disk], Awaitable[None]], *, projecting: bool = True) -> None:
    asyncio.run(Disk(root).use(work, projecting=projecting))


# ---------------------------------------------------------------- store


def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    async def first(disk: Disk) -> None:
        (answer,) = await disk.commit(accept("one"))
        assert isinstance(answer, Answer)
        assert (answer.fresh, answer.entry.outcome) == (True, State.DELIVERED)

    async def second(disk: Disk) -> None:
        (answer,) = await disk.commit(accept("one"))
        assert isinstance(answer, Answer)
        assert (answer.fresh, answer.entry.outcome) == (False, State.DELIVERED)

    on_disk(tmp_path, first)
    on_disk(tmp_path, second)


def test_the_incarnation_outlives_a_restart_and_differs_between_stores(tmp_path: Path) -> None:
    async def nothing(_: Disk) -> None: ...

    incarnations = []
    for folder in ("a", "a", "b"):
        disk = Disk(tmp_path / folder)
        incarnations.append(disk.store.incarnation)
        asyncio.run(disk.use(nothing))
    assert incarnations[0] == incarnations[1] != incarnations[2]


def test_a_second_node_on_the_same_store_is_kept_off(tmp_path: Path) -> None:
    async def second(_: Disk) -> None:
        with pytest.raises(StoreError, match="another node is running"):
            Disk(tmp_path)

    on_disk(tmp_path, second)


@pytest.mark.parametrize("what", ["the file", "the folder", "the mark"])
def test_a_store_that_is_put_back_from_a_copy_has_a_new_incarnation_and_one_that_goes_on_has_not(
    tmp_path: Path, what: str
) -> None:
    def life() -> tuple[str, bool]:
        store = Store(tmp_path / "store", "mac")
        os.close(store._lock)
        db = connect(store.path)
        adopted = db.execute("SELECT value FROM meta WHERE key = 'adopted'").fetchone()[0]
        db.execute("UPDATE meta SET value = '1' WHERE key = 'adopted'")
        db.close()
        return store.incarnation, adopted == "1"

    first, _ = life()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    assert life() == (first, True)
    if what == "the file":
        shutil.copyfile(tmp_path / "copy" / "trishula.db", tmp_path / "store" / "trishula.db")
    elif what == "the folder":
        shutil.copytree(tmp_path / "copy", tmp_path / "store", dirs_exist_ok=True)
    else:  # as if it had been lost
        (tmp_path / "store.life").unlink()
    second, adopted = life()
    assert (second != first, adopted) == (True, False)
    assert life() == (second, True)


def test_a_store_of_the_first_format_knows_which_file_is_whose_message(tmp_path: Path) -> None:
    path = tmp_path / "trishula.db"
    db = connect(path)
    db.executescript(resources.files("trishula.node").joinpath("schema/1.sql").read_text("utf-8"))
    db.executemany("INSERT INTO meta VALUES (?, ?)", [("node", "mac"), ("incarnation", "one")])
    for sender, name, payload in (("agni", "m1", b"1"), ("rush", "M1", b"2"), ("agni", "m2", None)):
        db.execute(
            "INSERT INTO ledger (sender, id, recipient, digest, origin, expires_at, outcome, reason, at, route,"
            " payload, projected) VALUES (?, ?, 'mac', 'd', ?, 9, ?, '', 1, 'direct', ?, 1)",
            (sender, name, sender, "delivered" if payload else "refused", payload),
        )
    db.execute("PRAGMA user_version = 1")
    prepare(path, "mac")
    assert [tuple(file) for file in queries.inbox_files(db, "mac")] == [("agni", "m1", "m1.json", False)]
    db.close()


def test_the_store_of_another_node_or_a_newer_release_is_refused(tmp_path: Path) -> None:
    async def nothing(_: Disk) -> None: ...

    on_disk(tmp_path, nothing)
    with pytest.raises(StoreError, match="store of 'mac', not of 'agni'"):
        Store(tmp_path / "store", "agni")
    db = connect(tmp_path / "store" / "trishula.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="format 99"):
        Store(tmp_path / "store", "mac")


def test_a_full_store_refuses_by_name_keeps_what_it_has_and_recovers_by_itself(tmp_path: Path) -> None:
    async def fill(disk: Disk) -> None:
        await disk.commit(accept("before"))
        pages = await disk.store.write(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await disk.store.read(lambda _: None)
        disk.store._writer_db.execute(f"PRAGMA max_page_count = {pages}")
        disk.store.submit(77, tuple(accept(f"too-much-{number}", body="x" * 8000) for number in range(50)))
        await until(lambda: 77 in disk.failed, "the commit fails")
        assert disk.failed[77].code == "store_full"
        assert "make room" in str(disk.failed[77])
        assert "SQLITE_FULL" in disk.store.problem
        disk.store._writer_db.execute("PRAGMA max_page_count = 1000000")
        (again,) = await disk.commit(accept("before"))
        assert isinstance(again, Answer)
        assert not again.fresh
        await disk.commit(accept("after"))
        assert disk.store.problem == ""

    on_disk(tmp_path, fill)


def test_a_damaged_store_ends_the_node_instead_of_serving_on(tmp_path: Path) -> None:
    async def damage(disk: Disk) -> None:
        await disk.store.write(lambda db: db.execute("DROP TABLE ledger"))
        disk.store.submit(1, (accept("one"),))
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await asyncio.wait_for(asyncio.shield(disk.store.broken), 60)

    on_disk(tmp_path, damage, projecting=False)


def test_a_message_and_its_envelopes_are_pending_until_their_receipts(tmp_path: Path) -> None:
    async def send(disk: Disk) -> None:
        message = complete(b'{"to": "all"}', sender="mac", new_id="m", timestamp="t", max_bytes=1000)
        envelopes = tuple(
            Envelope("mac", node, Key("mac", "m", node), FAR, message.payload) for node in ("agni", "rush")
        )
        (stored,) = await disk.commit(Originate(message, envelopes, 1))
        assert isinstance(stored, Originated)
        assert [row.key.to for row in stored.progress] == ["agni", "rush"]
        pending = await disk.store.read(
            lambda db: queries.pending(
                db, "mac", Load("agni", held=False, urgent=False, after=0, limit=10, size=10_000)
            )
        )
        assert pending == ([(stored.progress[0].seq, envelopes[0], None)], True)
        assert await disk.store.read(queries.backlogs) == {"agni": 1, "rush": 1}
        receipt = Receipt("mac", "agni", Key("mac", "m", "agni"), FAR, message.digest, State.DELIVERED, "", 5)
        await disk.commit(Settle(receipt, "direct", 6, 1.5))
        assert await disk.store.read(queries.backlogs) == {"rush": 1}

    on_disk(tmp_path, send)


def test_a_backlog_of_large_messages_comes_into_memory_a_little_at_a_time(tmp_path: Path) -> None:
    async def send(disk: Disk) -> None:
        for number in range(5):
            raw = f'{{"to": "agni", "id": "m{number}", "body": "{"x" * 4000}"}}'.encode()
            message = complete(raw, sender="mac", new_id="-", timestamp="t", max_bytes=10_000)
            envelope = Envelope("mac", "agni", Key("mac", message.id, "agni"), FAR, message.payload)
            await disk.commit(Originate(message, (envelope,), 1))
        load = Load("agni", held=False, urgent=False, after=0, limit=512, size=6000)
        rows, complete_ = await disk.store.read(lambda db: queries.pending(db, "mac", load))
        assert ([envelope.key.id for _, envelope, _ in rows], complete_) == (["m0", "m1"], False)

    on_disk(tmp_path, send)


# ---------------------------------------------------------------- mailbox


def test_a_message_becomes_a_file_with_exactly_its_bytes(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        record = accept("one")
        await disk.commit(record)
        file = disk.inbox() / "one.json"
        await until(file.exists, "the file is there")
        assert file.read_bytes() == record.envelope.payload
        assert disk.names() == {"one.json"}

    on_disk(tmp_path, receive)


def test_the_same_id_of_two_senders_or_in_another_case_gives_two_files(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        await disk.commit(accept("one"))
        await disk.commit(accept("one", sender="dhyana"))
        await disk.commit(accept("ONE", sender="dhyana"))
        expected = {"one.json", "one~dhyana.json", "ONE~dhyana.json"}
        await until(lambda: disk.names() == expected, "three files are there")

    on_disk(tmp_path, receive)


def test_a_file_of_the_agents_own_making_is_not_overwritten(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        (disk.inbox() / "one.json").write_text("mine")
        (disk.inbox() / "two.json").symlink_to("/etc/passwd")
        await disk.commit(accept("one"), accept("two"))
        await until(lambda: len(disk.names()) == 4, "both files are there")
        assert disk.names() == {"one.json", "one~agni.json", "two.json", "two~agni.json"}
        assert (disk.inbox() / "one.json").read_text() == "mine"

    on_disk(tmp_path, receive)


@pytest.mark.parametrize("moved_to", ["inbox/one.json", "archive/one.json", "archive/renamed.json"])
def test_a_file_that_a_crash_left_unmarked_is_not_written_twice(tmp_path: Path, moved_to: str) -> None:
    """The node died after the file was written and before that was noted; the agent may have moved the file."""
    record = accept("one")

    async def die_before_the_mark(disk: Disk) -> None:
        await disk.commit(record)

    async def come_back(disk: Disk) -> None:
        await disk.commit(accept("two"))
        await until((disk.inbox() / "two.json").exists, "the next file is there")

        async def all_marked() -> bool:  # a moment later than the file
            return not await disk.store.read(lambda db: queries.files_due(db, limit=10))

        await until(all_marked, "both are marked")

    on_disk(tmp_path, die_before_the_mark, projecting=False)
    (tmp_path / "mailboxes" / "mac" / moved_to).write_bytes(record.envelope.payload)
    on_disk(tmp_path, come_back)
    files = {str(path.relative_to(tmp_path / "mailboxes" / "mac")) for path in tmp_path.rglob("*.json")}
    assert files == {moved_to, "inbox/two.json"}


def test_a_mailbox_that_can_not_be_written_holds_up_no_other_and_is_caught_up(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        disk.inbox("dhyana").rename(disk.inbox("dhyana").with_name("away"))
        await disk.commit(accept("one", to="dhyana"), accept("two"))
        await until((disk.inbox() / "two.json").exists, "the other mailbox is served")
        await until(lambda: "dhyana" in disk.projector.problems, "the trouble is known")
        disk.inbox("dhyana").mkdir()
        await until((disk.inbox("dhyana") / "one.json").exists, "the mail is there after all")
        await until(lambda: not disk.projector.problems, "the trouble is over")

    on_disk(tmp_path, receive)


def test_what_a_crash_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    async def nothing(_: Disk) -> None: ...

    on_disk(tmp_path, nothing)
    stale = tmp_path / "mailboxes" / "mac" / "inbox" / ".trishula-5"
    stale.write_text("{")
    on_disk(tmp_path, nothing)
    assert not stale.exists()


def test_an_inbox_that_had_to_be_made_says_nothing_of_what_was_read_though_its_mode_can_not_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, _mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))  # as the unit's RestrictSUIDSGID= does

    monkeypatch.setattr(Path, "chmod", refuse)
    make_mailboxes(tmp_path, ["mac", "dhyana"])
    shutil.rmtree(tmp_path / "mac" / "inbox")
    assert make_mailboxes(tmp_path, ["mac", "dhyana"]) == {"mac"}
    assert make_mailboxes(tmp_path, ["mac", "dhyana"]) == set()


def test_an_inbox_that_can_not_be_made_or_listed_says_nothing_of_what_was_read(tmp_path: Path) -> None:
    make_mailboxes(tmp_path, ["mac", "dhyana"])
    shutil.rmtree(tmp_path / "mac" / "inbox")
    (tmp_path / "mac" / "inbox").write_text("a file stands in its place")
    assert make_mailboxes(tmp_path, ["mac", "dhyana"]) == {"mac"}


def test_a_folder_that_is_made_has_the_group_and_the_mode_of_those_beside_it(tmp_path: Path) -> None:
    make_mailboxes(tmp_path, ["mac"])
    shutil.rmtree(tmp_path / "mac" / "inbox")
    make_mailboxes(tmp_path, ["mac"])
    assert stat.S_IMODE((tmp_path / "mac" / "inbox").stat().st_mode) == 0o2770


def test_rubbish_that_an_agent_makes_in_its_inbox_keeps_nobody_down(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        await disk.commit(accept("one"), accept("two", to="dhyana"))
        await until((disk.inbox() / "one.json").exists, "mail arrives")
        await until((disk.inbox("dhyana") / "two.json").exists, "and the other's too")

    (tmp_path / "mailboxes" / "mac" / "inbox" / ".trishula-x").mkdir(parents=True)
    on_disk(tmp_path, receive)


def test_what_the_agent_moves_while_we_look_is_still_found(tmp_path: Path) -> None:
    """The node died before the mark; while it looks for the file again, the agent archives it."""
    record = accept("one")
    (inbox := tmp_path / "mac" / "inbox").mkdir(parents=True)
    (archive := tmp_path / "mac" / "archive").mkdir()
    (inbox / "one.json").write_bytes(record.envelope.payload)
    written = Written(tmp_path, ["mac"])
    (inbox / "one.json").rename(archive / "one.json")
    due = queries.FileDue("ledger", 1, "mac", "inbox", "agni", "one", record.envelope.payload, taken=False)
    assert written.find(due) == ("archive", "one.json")
    (archive / "one.json").unlink()
    assert Written(tmp_path, ["mac"]).find(due) is None


# ---------------------------------------------------------------- what is read


def read(message_id: str, agent: str = "mac") -> Read:
    return Read(agent, message_id, None, 7)


def test_what_is_read_goes_to_the_archive_under_its_name(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        record = accept("one")
        await disk.commit(record, accept("two"))
        await until(lambda: len(disk.names()) == 2, "both files are there")
        await disk.commit(read("one"))
        await until(lambda: disk.names() == {"two.json"}, "it has left the inbox")
        assert (disk.mailboxes / "mac" / "archive" / "one.json").read_bytes() == record.envelope.payload

    on_disk(tmp_path, receive)


def test_what_is_read_before_its_file_was_written_never_comes_into_the_inbox(tmp_path: Path) -> None:
    async def before(disk: Disk) -> None:
        await disk.commit(accept("one"))
        await disk.commit(read("one"))

    async def after(disk: Disk) -> None:
        await until(lambda: disk.names(box="archive") == {"one.json"}, "it is in the archive")
        assert disk.names() == set()

    on_disk(tmp_path, before, projecting=False)
    on_disk(tmp_path, after)


def test_what_a_crash_left_in_the_inbox_is_moved_at_the_next_start(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        await disk.commit(accept("one"))
        await until(lambda: disk.names() == {"one.json"}, "it is there")

        async def marked() -> bool:
            return len(await disk.store.read(lambda db: queries.inbox_files(db, "mac"))) == 1

        await until(marked, "and known to be")

    async def die_before_the_move(disk: Disk) -> None:
        await disk.commit(read("one"))

    async def come_back(disk: Disk) -> None:
        await until(lambda: disk.names(box="archive") == {"one.json"}, "it is in the archive")
        assert disk.names() == set()

    on_disk(tmp_path, receive)
    on_disk(tmp_path, die_before_the_move, projecting=False)
    on_disk(tmp_path, come_back)


def test_the_archive_is_never_overwritten(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        record = accept("one")
        (disk.mailboxes / "mac" / "archive" / "one.json").write_text("mine")
        await disk.commit(record)
        await until(lambda: disk.names() == {"one.json"}, "it is there")
        await disk.commit(read("one"))
        await until(lambda: disk.names() == set(), "it has left the inbox")
        kept = {path.read_bytes() for path in (disk.mailboxes / "mac" / "archive").iterdir()}
        assert kept == {b"mine", record.envelope.payload}

    on_disk(tmp_path, receive)


def test_a_file_that_the_agent_has_moved_already_is_no_problem(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        await disk.commit(accept("one"), accept("two"))
        await until(lambda: len(disk.names()) == 2, "both are there")
        (disk.inbox() / "one.json").rename(disk.mailboxes / "mac" / "done.json")
        await disk.commit(read("one"), read("two"))
        await until(lambda: disk.names(box="archive") == {"two.json"}, "the other is in the archive")
        assert disk.projector.problems == {}

        async def all_handled() -> bool:
            return not await disk.store.read(lambda db: queries.handled_due(db, limit=10))

        await until(all_handled, "nothing is left to be done")

    on_disk(tmp_path, receive)


def test_the_store_knows_under_which_name_each_file_was_written(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        (disk.inbox() / "one.json").write_text("mine")
        await disk.commit(accept("one"), accept("two"))

        async def known() -> bool:
            files = await disk.store.read(lambda db: queries.inbox_files(db, "mac"))
            return {(file.id, file.file) for file in files} == {("one", "one~agni.json"), ("two", "two.json")}

        await until(known, "both names are known")

    on_disk(tmp_path, receive)


def test_a_file_that_was_archived_before_it_was_marked_has_been_handled(tmp_path: Path) -> None:
    """The node died after the file was written; while it was away the agent handled the message."""
    record = accept("one")

    async def die_before_the_mark(disk: Disk) -> None:
        await disk.commit(record)

    async def come_back(disk: Disk) -> None:
        async def known() -> bool:
            files = await disk.store.read(lambda db: queries.inbox_files(db, "mac"))
            return [(file.id, file.archived) for file in files] == [("one", True)]

        await until(known, "it is known to be in the archive")
        assert disk.names() == set()

    on_disk(tmp_path, die_before_the_mark, projecting=False)
    (tmp_path / "mailboxes" / "mac" / "archive" / "one.json").write_bytes(record.envelope.payload)
    on_disk(tmp_path, come_back)


def test_done_is_said_as_often_as_one_likes(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        await disk.commit(accept("one"))
        first, again, unknown = await disk.commit(read("one"), read("one"), read("two"))
        assert isinstance(first, Found)
        assert isinstance(again, Found)
        assert ([e.key.id for e in first.fresh], again.fresh) == (["one"], ())
        assert again.entries[0].read_at == 7
        assert unknown == Found(())

    on_disk(tmp_path, receive)


class Hub:
    """Hears what the inboxes say is done."""

    def __init__(self) -> None:
        self.done_: list[tuple[str, str, str | None]] = []

    def done(self, asker: None, agent: str, message_id: str, sender: str | None = None) -> None:
        assert asker is None
        self.done_.append((agent, message_id, sender))


def test_only_what_was_written_and_is_gone_is_done_and_a_folder_that_can_not_be_listed_says_nothing(
    tmp_path: Path,
) -> None:
    async def receive(disk: Disk) -> None:
        hub = Hub()
        inboxes = Inboxes(disk.mailboxes, ["mac"], disk.store, disk.projector, cast(NodeHub, hub))
        await disk.commit(accept("one"), accept("two"))

        async def marked() -> bool:
            return len(await disk.store.read(lambda db: queries.inbox_files(db, "mac"))) == 2

        await until(marked, "both files are there")
        await disk.store.write(lambda db: db.execute("UPDATE ledger SET projected = 0, file = '' WHERE id = 'two'"))
        (disk.inbox() / "two.json").unlink()  # as if it were still to be written
        await inboxes._look("mac", 0)
        assert hub.done_ == []
        disk.inbox().rename(disk.inbox().with_name("away"))
        await inboxes._look("mac", 0)
        assert hub.done_ == []
        disk.inbox().with_name("away").rename(disk.inbox())
        (disk.inbox() / "one.json").rename(disk.inbox() / "one.txt")
        await inboxes._look("mac", 0)
        assert hub.done_ == [("mac", "one", "agni")]

    on_disk(tmp_path, receive)


def test_what_is_gone_and_could_not_be_noted_on_a_full_disk_is_said_again(tmp_path: Path) -> None:
    async def receive(disk: Disk) -> None:
        hub = Hub()
        inboxes = Inboxes(disk.mailboxes, ["mac"], disk.store, disk.projector, cast(NodeHub, hub))
        await disk.commit(accept("one"))

        async def marked() -> bool:
            return len(await disk.store.read(lambda db: queries.inbox_files(db, "mac"))) == 1

        await until(marked, "the file is there")
        (disk.inbox() / "one.json").unlink()
        disk.projector.marked.clear()
        watching = asyncio.create_task(inboxes.run())
        # The folder has not changed for longer than one look may doubt, and the hub stores nothing of what it is told.
        await until(lambda: len(hub.done_) >= 5, "it is said again and again")
        watching.cancel()

    on_disk(tmp_path, receive)


@pytest.mark.parametrize("at_once", [True, False], ids=["in one step", "where no file system can"])
def test_a_file_is_never_moved_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr(sys, "platform", "darwin")
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    with pytest.raises(FileExistsError):
        files.move(str(one), str(other))
    assert (one.read_text(), other.read_text()) == ("1", "2")
    other.unlink()
    files.move(str(one), str(other))
    assert (one.exists(), other.read_text()) == (False, "1")
    with pytest.raises(FileNotFoundError):
        files.move(str(one), str(tmp_path / "third"))


# ---------------------------------------------------------------- what bounces


def test_a_message_that_nobody_confirms_is_said_in_a_file_and_so_is_that_it_came_after_all(tmp_path: Path) -> None:
    async def send(disk: Disk) -> None:
        raw = '{"to": "all", "subject": "Gr\u00fc\u00dfe"}'.encode()
        message = complete(raw, sender="mac", new_id="m", timestamp="t", max_bytes=1000)
        envelopes = tuple(
            Envelope("mac", node, Key("mac", "m", node), expires_at, message.payload)
            for node, expires_at in (("agni", 10), ("rush", FAR))
        )
        await disk.commit(Originate(message, envelopes, 1))
        await disk.commit(GiveUp(before=1000, nodes=(), at=1500, limit=10))
        file = disk.mailboxes / "mac" / "bounced" / "m~agni.json"
        await until(file.exists, "the sender is told")
        told = json.loads(file.read_text())
        assert file.read_text().endswith("}\n")
        assert len(file.read_text().splitlines()) == len(told) + 2
        assert "may have got it all the same" in told.pop("text")
        assert told == {
            "id": "m",
            "from": "mac",
            "to": "agni",
            "state": "unconfirmed",
            "reason": "expired",
            "at": "1970-01-01T00:00:01.500Z",
            "subject": "Gr\u00fc\u00dfe",
        }
        receipt = Receipt("mac", "agni", Key("mac", "m", "agni"), 10, message.digest, State.DELIVERED, "", 5)
        await disk.commit(Settle(receipt, "direct", 2000, None))
        await until(lambda: json.loads(file.read_text())["state"] == "delivered", "and then the good news")

        async def nothing_due() -> bool:
            return not await disk.store.read(lambda db: queries.bounces_due(db, limit=10))

        await until(nothing_due, "once")
        assert disk.names(box="bounced") == {"m~agni.json"}

    on_disk(tmp_path, send)


def test_news_that_come_while_the_file_is_written_are_told_too(tmp_path: Path) -> None:
    async def send(disk: Disk) -> None:
        message = complete(b'{"to": "agni"}', sender="mac", new_id="m", timestamp="t", max_bytes=1000)
        key = Key("mac", "m", "agni")
        await disk.commit(Originate(message, (Envelope("mac", "agni", key, 10, message.payload),), 1))
        await disk.commit(GiveUp(before=1000, nodes=(), at=1500, limit=10))
        (old,) = await disk.store.read(lambda db: queries.bounces_due(db, limit=10))
        receipt = Receipt("mac", "agni", key, 10, message.digest, State.REFUSED, "too_large: x", 5)
        await disk.commit(Settle(receipt, "direct", 2000, None))
        await disk.store.write(lambda db: queries.mark_told(db, [old]))
        (new,) = await disk.store.read(lambda db: queries.bounces_due(db, limit=10))
        assert (old.state, new.state, new.reason) == ("unconfirmed", "refused", "too_large: x")

    on_disk(tmp_path, send, projecting=False)
