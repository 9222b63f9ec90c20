"""The store's rows in SQLite and the simulation's in memory are the same rows: what proves the one proves the other."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulation.store import Disk
from trishula.node import queries
from trishula.node.database import SqlRows, connect, prepare
from trishula.protocol import records
from trishula.protocol.effects import Load
from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.ledger import apply
from trishula.protocol.message import Message, complete, digest_of
from trishula.protocol.names import PROBE

NODE = "mac"
NODES = ("mac", "agni", "rushabdev")
AGENTS = {"mac": "mac", "dhyana": "mac", "agni": "agni", "rushabdev": "rushabdev", PROBE: "agni"}

ids = st.sampled_from(["m1", "m2", "m3"])
bodies = st.sampled_from(["one", "two"])
times = st.integers(1, 50)
here = st.sampled_from(["mac", "dhyana"])
away = st.sampled_from(["agni", "rushabdev"])
answers = st.sampled_from([State.DELIVERED, State.READ, State.REFUSED])


def message(sender: str, message_id: str, body: str) -> Message:
    raw = f'{{"to": "all", "body": "{body}"}}'.encode()
    return complete(raw, sender=sender, new_id=message_id, timestamp="t", max_bytes=1000)


@st.composite
def originate(draw: st.DrawFn) -> records.Record:
    letter = message(draw(here), draw(ids), draw(bodies))
    expires, urgent = draw(times), draw(st.booleans())
    envelopes = tuple(
        Envelope(NODE, AGENTS[to], Key(letter.sender, letter.id, to), expires, letter.payload, urgent)
        for to in draw(st.lists(st.sampled_from(["agni", "rushabdev", "mac"]), min_size=1, unique=True))
    )
    return records.Originate(letter, envelopes, draw(times), draw(st.sampled_from(["", "", "quota"])))


@st.composite
def incoming(draw: st.DrawFn, dest: str) -> Envelope:
    letter = message(draw(away), draw(ids), draw(bodies))
    to = draw(here) if dest == NODE else "rushabdev"
    key = Key(letter.sender, letter.id, to)
    return Envelope(AGENTS[letter.sender], dest, key, draw(times), letter.payload, draw(st.booleans()))


@st.composite
def accept(draw: st.DrawFn) -> records.Record:
    envelope = draw(incoming(NODE))
    refusal, unless = draw(st.sampled_from([("", "")] * 4 + [("rejected", ""), ("", "full"), ("", "expired")]))
    return records.Accept(envelope, digest_of(envelope.payload), draw(times), "direct", refusal, unless)


@st.composite
def hold(draw: st.DrawFn) -> records.Record:
    envelope = draw(incoming("rushabdev"))
    return records.Hold(envelope, records.Seal("1", b"mac"), digest_of(envelope.payload), draw(times))


@st.composite
def settle(draw: st.DrawFn) -> records.Record:
    letter = message(draw(here), draw(ids), draw(bodies))
    to = draw(away)
    key = Key(letter.sender, letter.id, to)
    receipt = Receipt(NODE, AGENTS[to], key, draw(times), letter.digest, draw(answers), "", draw(times))
    return records.Settle(receipt, "direct", draw(times), draw(st.sampled_from([None, 2.5])))


@st.composite
def adopt(draw: st.DrawFn) -> records.Record:
    envelope = draw(incoming(NODE))
    read = draw(st.booleans())
    digest, at = digest_of(envelope.payload), draw(times)
    payload, file = (None, "") if read else (envelope.payload, "f.json")
    route = draw(st.sampled_from(["", records.UNSIGNED]))
    return records.Adopt(envelope.key, digest, envelope.origin, 40, at, read, payload, file, route)


keys = st.builds(Key, here, ids, away)
digests = st.builds(lambda *fields: message(*fields).digest, away, ids, bodies)
record = st.one_of(
    originate(),
    originate(),
    accept(),
    accept(),
    settle(),
    settle(),
    hold(),
    adopt(),
    st.just(records.Begin()),
    st.builds(records.GiveUp, times, st.sampled_from([(), ("mac", "agni")]), times, st.integers(1, 3)),
    st.builds(records.Entrust, st.tuples(keys, keys), away),
    st.builds(records.Reclaim, st.sampled_from([(), ("agni",)]), st.sampled_from([None, "agni", "rushabdev"])),
    st.builds(records.Drop, st.tuples(st.tuples(st.builds(Key, away, ids, st.just("rushabdev")), digests))),
    st.builds(records.Read, here, ids, st.sampled_from([None, "agni"]), times),
    st.builds(records.Recall, st.tuples(st.tuples(st.builds(Key, away, ids, here), digests))),
    st.builds(records.Survey, away, st.integers(1, 3), times),
    st.builds(records.Prune, times, st.just(1000)),
)
loads = st.builds(
    Load,
    dest=st.sampled_from(NODES),
    held=st.booleans(),
    urgent=st.booleans(),
    after=st.integers(0, 3),
    limit=st.integers(1, 4),
    size=st.sampled_from([1, 100, 1000]),
)


def projected(db: sqlite3.Connection, disk: Disk) -> None:
    """All files are written, and have left the outbox again: only then may what they hold be forgotten."""
    disk.unfiled.clear()
    db.execute("UPDATE messages SET projected = 1")
    queries.forget_ended(db, queries.ended_due(db, limit=1000))
    db.execute("UPDATE ledger SET projected = 1 WHERE projected = 0")
    db.execute("UPDATE outgoing SET notice = 0")


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(story=st.lists(st.one_of(record, loads), min_size=1, max_size=25))
def test_whatever_is_committed_sqlite_and_memory_say_the_same(story: list[records.Record | Load]) -> None:
    disk = Disk()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trishula.db"
        prepare(path, NODE)
        db = connect(path)
        db.execute("PRAGMA synchronous = OFF")
        for item in story:
            projected(db, disk)
            if isinstance(item, Load):
                assert queries.pending(db, NODE, item) == disk.pending(item)
            else:
                assert apply(SqlRows(db), item) == apply(disk, item)
        db.close()
