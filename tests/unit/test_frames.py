"""What may be said on a connection, by role; and that nothing else leaves the decoders than a `FrameError`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trishula.protocol import agent_frames, frames
from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.errors import FrameError
from trishula.protocol.names import PROBE

hypothesis = settings(max_examples=150, deadline=None, derandomize=True)

PAYLOAD = b'{\n  "id": "m1",\n  "from": "mac",\n  "x": 1.10\n}\n'
ENVELOPE = Envelope("mac", "agni", Key("mac", "m1", "agni"), 1_000, PAYLOAD, urgent=True)
RECEIPT = Receipt("mac", "agni", Key("mac", "m1", "agni"), 1_000, "ab" * 32, State.REFUSED, "id_conflict", 500)
SEALED = frames.SignedEnvelope.seal(ENVELOPE, "1", b"m" * 32)
SIGNED = frames.SignedReceipt.seal(RECEIPT, "1", b"m" * 32)
ME = frames.Introduction(node="mac", incarnation="i", software="trishula/2", max_message_bytes=1, window_bytes=2)
OUTCOME = agent_frames.Outcome(sender="mac", id="m1", to="agni", dest="agni", state=State.DELIVERED, latency_ms=1.5)
META = agent_frames.ArrivalMeta(from_node="mac", route="direct", method="websocket", received_at=5, digest="ab" * 32)

PEER: list[frames.Frame] = [
    frames.Hello(versions=(1, 1), me=ME),
    frames.Welcome(version=1, me=ME),
    frames.Deliver(seq=1, envelopes=[SEALED]),
    frames.Ack(seq=1),
    frames.Receipts(receipts=[SIGNED]),
    frames.Defer(items=[frames.Deferred(sender="mac", to="agni", id="m1", reason="the disk is full")]),
    frames.Query(items=[frames.Asked(sender="mac", to="agni", id="m1", digest="ab" * 32, state=State.UNCONFIRMED)]),
    frames.Topology(links=["agni"], storing=False, agents={"mac": frames.Presence(attached=True, unread=2, oldest=5)}),
    frames.Ping(sent=1),
    frames.Pong(sent=1, read=2),
    frames.Bye(reason="restarting"),
    frames.Posted(),
    frames.Query(items=[frames.Asked(sender="mac", to="agni", id="m1", digest="ab" * 32, state=State.DELIVERED)]),
    frames.Topology(links=["agni"], storing=True, agents={"mac": frames.Presence(attached=True, unread=3, oldest=1)}),
]
REQUESTS: list[frames.Frame] = [
    agent_frames.Send(ref=1, message=msgspec.Raw(b'{"to": "agni"}'), ttl_s=60),
    agent_frames.Outcomes(ref=1, id="m1", read=True),
    agent_frames.Attach(ref=1, after=7),
    agent_frames.Inbox(ref=1, after=7, limit=10),
    agent_frames.Show(ref=1, id="m1"),
    agent_frames.Done(ref=1, id="m1", sender="mac"),
    agent_frames.Trace(ref=1, id="m1"),
    agent_frames.Find(ref=1, beginning="m1", everywhere=True),
    agent_frames.Status(ref=1),
    agent_frames.Done(ref=1, id="m1", sender="mac"),
    agent_frames.Trace(ref=1, id="m1"),
    agent_frames.Probe(ref=1, node="agni", ttl_s=5),
]
REPLIES: list[frames.Frame] = [
    agent_frames.Greeting(version=1, node="mac", agent="dhyana", software="trishula/2", max_message_bytes=1),
    agent_frames.Stored(ref=1, id="m1", digest="ab" * 32, outcomes=[OUTCOME]),
    OUTCOME,
    agent_frames.Arrival(cursor=1, meta=META, message=msgspec.Raw(b'{"to":"agni"}')),
    agent_frames.Data(ref=1, data={"any": [1, None]}),
    agent_frames.Failed(ref=1, code="invalid", message="no", key="to"),
]

Decode = Callable[[bytes], frames.Frame]
ROLES: dict[str, tuple[Decode, object, list[frames.Frame]]] = {
    "peer": (frames.decode_peer, frames.PeerFrame, PEER),
    "agent": (agent_frames.decode_request, agent_frames.AgentRequest, REQUESTS),
    "node": (agent_frames.decode_reply, agent_frames.AgentReply, REPLIES),
}
roles = pytest.mark.parametrize("role", ROLES)


def named(frame: frames.Frame) -> str:
    return type(frame).__name__


# ---------------------------------------------------------------- by role


@roles
def test_there_is_an_example_here_of_every_frame_of_the_role(role: str) -> None:
    _, table, examples = ROLES[role]
    assert {type(example) for example in examples} == set(get_args(table))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("frame", PEER + REQUESTS + REPLIES, ids=named)
def test_a_role_may_say_what_is_in_its_table_and_nothing_else(role: str, frame: frames.Frame) -> None:
    decode, _, examples = ROLES[role]
    if frame in examples:
        assert decode(frames.encode(frame)) == frame
    else:
        with pytest.raises(FrameError) as refused:
            decode(frames.encode(frame))
        assert refused.value.close_code == 1008


def test_unknown_keys_are_ignored_at_every_depth() -> None:
    said = json.loads(frames.encode(PEER[2]))
    said["since_version"] = {"2": [None]}
    said["envelopes"][0]["hops"] = 3
    frame = frames.decode_peer(json.dumps(said).encode())
    assert isinstance(frame, frames.Deliver)
    assert (frame.seq, frame.envelopes[0].id, frame.envelopes[0].mac) == (1, "m1", b"m" * 32)


def test_a_frame_says_in_json_what_it_is() -> None:
    assert json.loads(frames.encode(frames.Ack(seq=3))) == {"frame": "ack", "seq": 3}
    assert set(json.loads(frames.encode(PEER[2]))["envelopes"][0]) == {
        *("origin", "dest", "from", "to", "id", "expires_at", "kid", "mac", "payload", "urgent")
    }


# ---------------------------------------------------------------- verbatim


def test_an_envelope_travels_verbatim() -> None:
    sealed = frames.decode_peer(frames.encode(frames.Deliver(seq=1, envelopes=[SEALED]))).envelopes[0]
    assert sealed.open() == ENVELOPE
    assert (sealed.kid, sealed.mac) == ("1", b"m" * 32)


def test_a_receipt_travels_unchanged() -> None:
    signed = frames.decode_peer(frames.encode(frames.Receipts(receipts=[SIGNED]))).receipts[0]
    assert signed.open() == RECEIPT
    assert (signed.kid, signed.mac) == ("1", b"m" * 32)


def test_the_probe_is_named_like_an_agent_on_the_wire() -> None:
    probe = replace(ENVELOPE, key=Key(PROBE, "m1", PROBE))
    frame = frames.Deliver(seq=1, envelopes=[frames.SignedEnvelope.seal(probe, "1", b"")])
    assert frames.decode_peer(frames.encode(frame)).envelopes[0].open() == probe


def test_a_payload_with_broken_text_is_handed_on_as_it_came_so_that_its_signature_is_judged() -> None:
    said = frames.encode(frames.Deliver(seq=1, envelopes=[SEALED])).replace(b"1.10", b'"\xff"')
    assert frames.decode_peer(said).envelopes[0].open().payload == PAYLOAD.replace(b"1.10", b'"\xff"')


# ---------------------------------------------------------------- refused

BAD_NAMES = ["", "mac\n", "\nmac", "MAC", "-mac", "a/b", "..", "m" * 64, "mäc", "mac\u0000", 1, None]
BAD_IDS = ["", "m1\n", "../../etc/passwd", ".hidden", "a/b", "x" * 129, "x" * 300, "naïve", 1, None]
BAD_MILLIS = [-1, 2**53 + 1, 2**64, 1.5, "1", True, None]
BAD_GREETING_FIELDS = [
    *(("node", value) for value in BAD_NAMES),
    *(("incarnation", value) for value in ["x" * 501, 1, None]),
    *(("max_message_bytes", value) for value in BAD_MILLIS),
    *(("window_bytes", value) for value in BAD_MILLIS),
]
BAD_ENVELOPE_FIELDS = [
    *(("origin", value) for value in [*BAD_NAMES, PROBE]),
    *(("dest", value) for value in [*BAD_NAMES, PROBE]),
    *(("from", value) for value in BAD_NAMES),
    *(("to", value) for value in [*BAD_NAMES, ".pings", "-ping"]),
    *(("id", value) for value in BAD_IDS),
    *(("expires_at", value) for value in BAD_MILLIS),
    *(("kid", value) for value in ["", "1\n", "k" * 33, "a/b", 1]),
    *(("mac", value) for value in ["not base64!", 1, None]),
    *(("urgent", value) for value in ["yes", 1, None]),
]


@pytest.mark.parametrize(("key", "value"), BAD_ENVELOPE_FIELDS)
def test_a_wrong_field_of_an_envelope_closes_the_link(key: str, value: object) -> None:
    said = json.loads(frames.encode(PEER[2]))
    said["envelopes"][0][key] = value
    with pytest.raises(FrameError, match=rf"envelopes\[0\]\.{key}") as refused:
        frames.decode_peer(json.dumps(said).encode())
    assert refused.value.close_code == 1008


@pytest.mark.parametrize(("key", "value"), BAD_GREETING_FIELDS)
def test_a_wrong_field_of_a_greeting_closes_the_link(key: str, value: object) -> None:
    said = json.loads(frames.encode(PEER[0]))
    said["me"][key] = value
    with pytest.raises(FrameError, match=rf"me\.{key}"):
        frames.decode_peer(json.dumps(said).encode())


@pytest.mark.parametrize("versions", [[], [1], [1, 2, 3], [-1, 1], ["1", "1"], 1, None])
def test_versions_are_two_numbers(versions: object) -> None:
    said = json.loads(frames.encode(PEER[0])) | {"versions": versions}
    with pytest.raises(FrameError, match="versions"):
        frames.decode_peer(json.dumps(said).encode())


@pytest.mark.parametrize("key", ["origin", "dest", "from", "to", "id", "expires_at", "kid", "mac", "payload"])
def test_a_missing_field_of_an_envelope_closes_the_link(key: str) -> None:
    said = json.loads(frames.encode(PEER[2]))
    del said["envelopes"][0][key]
    with pytest.raises(FrameError, match=f"`{key}`"):
        frames.decode_peer(json.dumps(said).encode())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("digest", value) for value in ["", "ab" * 31, "AB" * 32, "ab" * 32 + "\n", None]),
        *(("outcome", value) for value in ["", "lost", "Delivered", 1, None]),
        *(("reason", value) for value in ["x" * 501, 1, None]),
        *(("at", value) for value in BAD_MILLIS),
    ],
)
def test_a_wrong_field_of_a_receipt_closes_the_link(key: str, value: object) -> None:
    said = json.loads(frames.encode(PEER[4]))
    said["receipts"][0][key] = value
    with pytest.raises(FrameError, match=rf"receipts\[0\]\.{key}"):
        frames.decode_peer(json.dumps(said).encode())


@pytest.mark.parametrize(
    ("frame", "key"), [(PEER[2], "envelopes"), (PEER[4], "receipts"), (PEER[5], "items")], ids=["d", "r", "f"]
)
@pytest.mark.parametrize("count", [0, frames.BATCH_COUNT + 1])
def test_a_batch_has_at_least_one_item_and_not_too_many(frame: frames.Frame, key: str, count: int) -> None:
    said = json.loads(frames.encode(frame))
    said[key] *= count
    with pytest.raises(FrameError, match=key):
        frames.decode_peer(json.dumps(said).encode())


BROKEN: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 1007),
    "binary rubbish": (bytes(range(256)), 1007),
    "broken UTF-8": (b'{"frame": "bye", "reason": "\xff"}', 1007),
    "a lone surrogate": (b'{"frame": "bye", "reason": "\\ud800."}', 1007),
    "cut short": (b'{"frame": "ping", "sent"', 1007),
    "two frames in one": (b'{"frame": "ping", "sent": 1}{"frame": "ping", "sent": 1}', 1007),
    "very deep": (b'{"frame": "ping", "x": ' + b"[" * 100_000, 1007),
    "a deep payload": (
        b'{"frame": "deliver", "seq": 1, "envelopes": [{"payload": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        1007,
    ),
    "no object": (b"[]", 1008),
    "a number": (b"17", 1008),
    "no tag": (b'{"sent": 1}', 1008),
    "an unknown tag": (b'{"frame": "exec", "sent": 1}', 1008),
    "a tag that is no text": (b'{"frame": 5}', 1008),
    "a missing field": (b'{"frame": "ping"}', 1008),
}


@roles
@pytest.mark.parametrize(("said", "code"), BROKEN.values(), ids=BROKEN.keys())
def test_rubbish_closes_the_connection_with_its_code(role: str, said: bytes, code: int) -> None:
    decode, _, _ = ROLES[role]
    with pytest.raises(FrameError) as refused:
        decode(said)
    if role == "peer":
        assert refused.value.close_code == code


# ---------------------------------------------------------------- for all frames


@roles
@given(data=st.data())
@hypothesis
def test_any_bytes_are_a_frame_or_a_frame_error(role: str, data: st.DataObject) -> None:
    only_frame_errors(role, data.draw(st.binary(max_size=100)))


@roles
@given(data=st.data())
@hypothesis
def test_any_damage_to_a_frame_is_a_frame_or_a_frame_error(role: str, data: st.DataObject) -> None:
    said = bytearray(frames.encode(data.draw(st.sampled_from(ROLES[role][2]))))
    for _ in range(data.draw(st.integers(1, 4))):
        said[data.draw(st.integers(0, len(said) - 1))] = data.draw(st.integers(0, 255))
    only_frame_errors(role, bytes(said))


def only_frame_errors(role: str, said: bytes) -> None:
    decode, table, _ = ROLES[role]
    try:
        frame = decode(said)
    except FrameError as error:
        assert error.close_code in (1007, 1008)  # noqa: PT017  (either outcome is right)
    else:
        assert isinstance(frame, get_args(table))
        assert decode(frames.encode(frame)) == frame
