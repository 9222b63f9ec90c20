"""The parts of the library that need no node."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import pytest

import trishula
from trishula.client.endpoint import Remote, Socket, endpoint
from trishula.client.message import arrived, compose, fix
from trishula.client.receipt import Receipt
from trishula.protocol.agent_frames import Arrival, ArrivalMeta, Outcome
from trishula.protocol.envelope import State

# ---------------------------------------------------------------- where the node is


def test_the_socket_is_the_argument_else_the_environments_else_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRISHULA_SOCKET", raising=False)
    assert endpoint() == Socket("/run/trishula/node.sock")
    monkeypatch.setenv("TRISHULA_SOCKET", "/tmp/mine.sock")
    assert endpoint() == Socket("/tmp/mine.sock")
    assert endpoint("/tmp/other.sock") == Socket("/tmp/other.sock")


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"url": "wss://agni:8765"}, TypeError, "token"),
        ({"url": "wss://agni:8765", "token": "a", "token_file": "b"}, TypeError, "not both"),
        ({"url": "wss://agni:8765", "socket": "/a", "token": "a"}, TypeError, "not by both"),
        ({"url": "ws://agni:8765", "token": "a"}, ValueError, "TLS only"),
        ({"token": "a"}, TypeError, "go with url"),
        ({"ca": "a"}, TypeError, "go with url"),
    ],
)
def test_an_endpoint_that_can_not_be_meant_is_refused_at_once(
    arguments: dict[str, str], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        trishula.Client(**arguments)  # type: ignore[arg-type]


def test_a_token_is_in_no_representation() -> None:
    assert "s3cret" not in repr(Remote("wss://agni:8765", None, "s3cret", None))


def test_a_client_is_entered_once() -> None:
    async def story() -> None:
        client = trishula.Client("/no/socket")
        with pytest.raises(trishula.NodeUnreachable):
            await client.__aenter__()
        with pytest.raises(RuntimeError, match="once"):
            await client.__aenter__()

    asyncio.run(story())


QUESTIONS: list[Callable[[trishula.Client], Coroutine[None, None, object]]] = [
    lambda client: client.send("agni"),
    lambda client: client.send({"to": "agni"}),
    lambda client: client.send_with_fallback("agni", {}),
    lambda client: client.ping("agni"),
    lambda client: client.receive(),
    lambda client: client.done("a1"),
    lambda client: client.inbox(),
    lambda client: client.show("a1"),
    lambda client: client.trace("a1"),
    lambda client: client.find("a1"),
    lambda client: client.status(),
]


def test_a_client_that_is_not_entered_says_so_whatever_it_is_asked() -> None:
    async def story() -> None:
        client = trishula.Client("/no/socket")
        for ask in QUESTIONS:
            with pytest.raises(trishula.NotOpen, match=r"not entered: use it within `async with trishula\.Client"):
                await ask(client)
        for look in (lambda: client.agent, lambda: client.node, lambda: aiter(client)):
            with pytest.raises(RuntimeError, match="not entered"):
                look()
        assert not client.connected

    asyncio.run(story())


def test_so_does_a_hybrid_before_its_block_and_after_it(tmp_path: Path) -> None:
    async def story() -> None:
        hybrid = trishula.Hybrid(tmp_path, "/no/socket", agent="mac")

        async def asked(words: str) -> None:
            for ask in (
                hybrid.get_messages,
                partial(hybrid.done, trishula.Message(id="a1", **{"from": "mac"})),
                partial(hybrid.send_with_fallback, "agni", {}),
            ):
                with pytest.raises(trishula.NotOpen, match=words):
                    await ask()
            with pytest.raises(trishula.NotOpen, match=words):
                hybrid.get_pending()
            assert (hybrid.agent, hybrid.connected) == ("mac", False)

        await asked("not entered")
        async with hybrid:
            assert await hybrid.get_messages() == []
            with pytest.raises(RuntimeError, match="once"):
                await hybrid.__aenter__()
        await asked("closed")

    asyncio.run(story())


# ---------------------------------------------------------------- which agent's socket


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the sockets in a folder that this login may open."""
    mine = {"node", "mac", "dhyana"}
    for name in mine:
        (tmp_path / f"{name}.sock").touch()
    monkeypatch.setattr("trishula.client.endpoint.DEFAULT_SOCKET", str(tmp_path / "node.sock"))
    monkeypatch.delenv("TRISHULA_SOCKET", raising=False)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).stem in mine)
    return mine


@pytest.mark.parametrize(
    ("mine", "tried"),
    [
        ({"node", "mac", "dhyana"}, "no node answers at .*/node.sock "),
        ({"node"}, "no node answers at .*/node.sock "),
        ({"dhyana"}, "no node answers at .*/dhyana.sock "),
        ({"mac", "dhyana"}, "may not open .*/node.sock, and may speak for dhyana, mac: .*--agent dhyana, or TRISHULA_"),
        (set(), "no node answers at .*/node.sock "),
    ],
)
def test_who_may_not_open_the_default_socket_takes_the_only_one_that_it_may(
    sockets: set[str], mine: set[str], tried: str
) -> None:
    sockets.intersection_update(mine)

    async def story() -> None:
        with pytest.raises(trishula.NodeUnreachable, match=tried):
            await trishula.Client(patience=0).__aenter__()

    asyncio.run(story())


def test_where_waiting_does_not_help_nobody_waits(tmp_path: Path) -> None:
    async def story() -> None:
        with pytest.raises(trishula.NodeUnreachable) as unreachable:
            await asyncio.wait_for(trishula.Client(tmp_path / "none" / "mac.sock", patience=3600).__aenter__(), 60)
        assert unreachable.value.lasting

    asyncio.run(story())


# ---------------------------------------------------------------- messages


def test_a_new_message_looks_like_those_that_agents_write() -> None:
    message = compose("agni", {"subject": "s", "mood": "calm"}, sender="mac")
    assert list(message) == [
        "id", "from", "to", "type", "priority", "subject", "body", "timestamp", "reply_to", "mood"
    ]  # fmt: skip
    assert uuid.UUID(message["id"]).version == 4
    assert datetime.fromisoformat(message["timestamp"]).tzinfo == UTC
    assert (message["from"], message["to"], message["subject"], message["mood"]) == ("mac", "agni", "s", "calm")


def test_a_message_is_fixed_before_it_goes_out_so_that_a_retry_is_the_same_message() -> None:
    fixed = fix({"to": "agni", "body": "x"}, sender="mac", max_bytes=1000)
    again = fix(fixed.payload, sender="mac", max_bytes=1000)
    assert (again.id, again.digest, again.payload) == (fixed.id, fixed.digest, fixed.payload)


def test_bytes_keep_every_value_as_it_is_spelt() -> None:
    raw = b'{"to": "agni", "price": 1.10, "tiny": 1e-09, "big": 12345678901234567890, "list": [1.0,  2]}'
    payload = fix(raw, sender="mac", max_bytes=1000).payload
    for value in (b'"price": 1.10,', b'"tiny": 1e-09,', b'"big": 12345678901234567890,', b'"list": [1.0,  2],'):
        assert value in payload


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ({"to": "agni", "body": float("nan")}, "JSON"),
        ({"to": "agni", "body": datetime(2026, 1, 1, tzinfo=UTC)}, "JSON"),
        ({"to": "agni", "body": "\ud800"}, "UTF-8"),
        ({"body": "to nobody"}, "no recipient"),
        ({"to": "agni", "id": "../../etc/passwd"}, "id"),
        ({"to": "agni", "from": "rushabdev"}, "'rushabdev', but you are 'mac'"),
        ({"to": "agni", "body": "x" * 2000}, "limit is 1000"),
        (b"{", "not valid JSON"),
        (b'{"to": "agni", "to": "mac"}', "twice"),
    ],
    ids=str,
)
def test_what_is_no_message_is_refused_before_the_node_sees_it(message: dict[str, object] | bytes, word: str) -> None:
    with pytest.raises(trishula.MessageError, match=word):
        fix(message, sender="mac", max_bytes=1000)


def test_an_arrived_message_is_a_dictionary_with_what_the_node_knows_beside_it() -> None:
    raw = b'{"id": "x1", "from": "mac", "to": "agni", "n": 1.10, "big": 123456789012345678901234567890}'
    meta = ArrivalMeta("mac", "direct", "websocket", 1_700_000_000_123, "0" * 64)
    message = arrived(Arrival(cursor=7, meta=meta, message=msgspec.Raw(raw)))
    assert message == json.loads(raw)
    assert message["big"] == 123456789012345678901234567890
    assert (message.id, message.sender, message.raw) == ("x1", "mac", raw)
    assert (message.meta.from_node, message.meta.route, message.meta.method) == ("mac", "direct", "websocket")
    assert message.meta.received_at == datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC)
    assert message.meta.digest == "0" * 64


# ---------------------------------------------------------------- receipts


def outcome(to: str, state: State, reason: str = "") -> Outcome:
    return Outcome(sender="mac", id="x1", to=to, dest=f"node-of-{to}", state=state, reason=reason)


def receipt(*outcomes: Outcome) -> Receipt:
    made = Receipt("x1", "0" * 64)
    made.learn(outcomes)
    return made


def test_delivered_waits_for_every_recipient() -> None:
    async def story() -> None:
        mine = receipt(outcome("agni", State.STORED), outcome("rushabdev", State.STORED))
        waiting = asyncio.create_task(mine.delivered())
        mine.learn([outcome("agni", State.DELIVERED)])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        assert not mine.settled
        mine.learn([outcome("rushabdev", State.READ)])
        assert [each.state for each in await waiting] == [State.DELIVERED, State.READ]
        assert mine.settled

    asyncio.run(story())


def test_a_refusal_is_told_when_all_have_answered_and_names_node_agent_and_reason() -> None:
    async def story() -> None:
        mine = receipt(outcome("agni", State.REFUSED, "too_large: 9 bytes"), outcome("rushabdev", State.STORED))
        waiting = asyncio.create_task(mine.delivered())
        await asyncio.sleep(0)
        assert not waiting.done()
        mine.learn([outcome("rushabdev", State.DELIVERED)])
        with pytest.raises(trishula.Refused, match="node-of-agni refused it for agni: too_large: 9 bytes") as refused:
            await waiting
        assert [each.to for each in refused.value.outcomes] == ["agni"]

    asyncio.run(story())


def test_who_has_not_confirmed_in_time_is_named_and_the_message_goes_on() -> None:
    async def story() -> None:
        mine = receipt(outcome("agni", State.DELIVERED), outcome("rushabdev", State.STORED))
        with pytest.raises(TimeoutError) as late:
            await mine.delivered(timeout=0)
        assert isinstance(late.value, trishula.TimedOut)
        assert "x1 is stored" in str(late.value)
        assert "rushabdev on node-of-rushabdev" in str(late.value)
        assert "agni" not in str(late.value)
        mine.learn([outcome("rushabdev", State.DELIVERED)])
        assert len(await mine.delivered(timeout=0.5)) == 2

    asyncio.run(story())


def test_what_expired_without_a_word_is_unconfirmed_and_a_later_word_corrects_that() -> None:
    async def story() -> None:
        mine = receipt(outcome("agni", State.UNCONFIRMED, "expired"), outcome("rushabdev", State.DELIVERED))
        with pytest.raises(trishula.Unconfirmed, match=r"without a word from node-of-agni for agni.*may have arrived"):
            await mine.delivered(timeout=5)
        assert not mine.settled
        mine.learn([outcome("agni", State.DELIVERED)])
        assert len(await mine.delivered(timeout=5)) == 2
        assert mine.settled

    asyncio.run(story())


def test_a_refusal_is_told_before_what_is_unconfirmed() -> None:
    async def story() -> None:
        mine = receipt(outcome("agni", State.UNCONFIRMED), outcome("rushabdev", State.REFUSED, "too_large"))
        with pytest.raises(trishula.Refused):
            await mine.delivered(timeout=5)

    asyncio.run(story())


def test_who_waits_for_read_asks_once_and_is_not_content_with_delivered() -> None:
    async def story() -> None:
        asked: list[str] = []

        async def ask_on(mine: Receipt) -> None:
            asked.append(mine.id)

        mine = Receipt("x1", "0" * 64, ask_on)
        mine.learn([outcome("agni", State.DELIVERED)])
        assert mine.settled
        for _ in range(2):
            with pytest.raises(trishula.TimedOut, match=r"x1 is stored, and not yet read after .* by agni"):
                await mine.read(timeout=0)
        assert asked == ["x1"]
        assert not mine.settled
        mine.learn([outcome("agni", State.READ)])
        assert [each.state for each in await mine.read(timeout=5)] == [State.READ]

    asyncio.run(story())


def test_old_news_does_not_undo_newer() -> None:
    async def story() -> None:
        mine = receipt(outcome("agni", State.DELIVERED))
        mine.learn([outcome("agni", State.STORED)])
        assert mine.outcomes[0].state is State.DELIVERED

    asyncio.run(story())


def test_a_receipt_of_which_the_node_knows_nothing_any_more_says_so() -> None:
    async def story() -> None:
        mine = receipt(outcome("agni", State.STORED))
        mine.answered(trishula.RequestError("mac has sent no message x1", code="not_found"))
        with pytest.raises(trishula.RequestError, match="no message x1"):
            await mine.delivered(timeout=5)

    asyncio.run(story())


# ---------------------------------------------------------------- what is caught here


@pytest.mark.parametrize(
    ("ask", "word"),
    [
        (lambda client: client.show("../../etc/passwd"), "no message id"),
        (lambda client: client.show(""), "no message id"),
        (lambda client: client.trace("a/b"), "no message id"),
        (lambda client: client.done("a/b"), "no message id"),
        (lambda client: client.ping("No Node"), "no node's name"),
        (lambda client: client.send("agni", ttl_s=0), "ttl_s"),
        (lambda client: client.send({"to": "agni"}, subject="x"), "subject"),
        (lambda client: client.inbox(limit=0), "limit"),
        (lambda client: client.inbox(limit=1001), "limit"),
        (lambda client: client.inbox(after=-1), "after"),
    ],
)
def test_what_no_node_would_understand_is_not_asked(
    ask: Callable[[trishula.Client], Coroutine[None, None, object]], word: str
) -> None:
    with pytest.raises((trishula.RequestError, TypeError, ValueError), match=word):
        asyncio.run(ask(trishula.Client("/no/socket")))
