"""A running node and whatever its doors let through: requests that are none, and frames that only look right."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import unix_connect
from websockets.exceptions import ConnectionClosed

from integration.test_hostile_peers import Impostor, token_for_agni, trust
from trishula.cli.sandbox import PATIENCE_S, Sandbox, until
from trishula.protocol import agent_frames, frames
from trishula.protocol.signing import receipt_mac
from unit.fuzz import valid

hypothesis = settings(max_examples=40, deadline=None, derandomize=True)

SPOKEN = [kind for kind in get_args(frames.PeerFrame) if kind not in (frames.Hello, frames.Welcome, frames.Bye)]
"""What leaves a greeted link open."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """agni runs, and has met no bug in the end."""
    with Sandbox(tmp_path_factory.mktemp("mesh")) as sandbox:
        sandbox.start("agni")
        asyncio.run(sandbox.up("agni"))
        yield sandbox
        assert sandbox.alive("agni")
        log = sandbox.places["agni"].log.read_text()
        assert "Traceback" not in log, log
        assert "bug" not in log, log


def is_well(mesh: Sandbox) -> bool:
    return bool(asyncio.run(mesh.status("agni"))["ready"])


# ---------------------------------------------------------------- at the door

REQUEST = (
    "GET / HTTP/1.1\r\nHost: agni\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
)


def mangled(chance: random.Random, request: bytes) -> bytes:
    lines = request.split(b"\r\n")
    line = chance.randrange(len(lines) - 2)
    match chance.randrange(5):
        case 0:
            lines[line] = b""
        case 1:
            lines.insert(line, lines[line])
        case 2:
            lines[line] = lines[line][: chance.randrange(1 + len(lines[line]))] + bytes([chance.randrange(256)]) * 3
        case 3:
            lines[line] += b"x" * chance.choice([1, 10_000])
        case 4:
            lines[line] = chance.randbytes(40)
    return b"\r\n".join(lines)


async def knock(mesh: Sandbox, request: bytes, *, tls: bool = True) -> bytes:
    """How the answer begins, if there is one: a node on a busy machine may end a handshake before it is over."""
    host, port = mesh.places["agni"].listening.getsockname()
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=trust(mesh.places["agni"]) if tls else None)
    except ConnectionError:
        return b""
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(100), PATIENCE_S)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


def test_who_talks_on_after_his_request_does_not_end_the_node(mesh: Sandbox) -> None:
    """It once did, without a token: the library raises for it, and the loop hears of that when memory is cleared up."""

    async def story() -> None:
        for _ in range(5):
            await asyncio.gather(*(knock(mesh, b"GET / HTTP/1.1\r\nHost: agni\r\n\r\nmore\r\n\r\n") for _ in range(20)))

    asyncio.run(story())
    assert "no WebSocket request (it talked on, or left)" in mesh.places["agni"].log.read_text()
    assert is_well(mesh)


async def is_let_in(mesh: Sandbox, request: bytes) -> bool:
    return b"101 Switching" in await knock(mesh, request)


def test_an_upgrade_request_that_was_changed_anywhere_is_answered_or_shown_out(mesh: Sandbox, seed: int) -> None:
    chance = random.Random(seed)
    good = REQUEST.format(token=token_for_agni(mesh)).encode()

    async def story() -> None:
        await until(lambda: is_let_in(mesh, good), "the request as it should be is let in")
        for _ in range(10):
            for answer in await asyncio.gather(*(knock(mesh, mangled(chance, good)) for _ in range(20))):
                assert not answer or answer.startswith(b"HTTP/1.1 ")

    asyncio.run(story())
    assert is_well(mesh)


def test_any_bytes_in_the_place_of_a_tls_handshake_are_shown_out(mesh: Sandbox, seed: int) -> None:
    chance = random.Random(seed)

    def handshake() -> bytes:
        """The head of a record, so that what follows is looked at (RFC 8446, section 5.1)."""
        body = bytes([chance.choice([1, 2, 11, 20])]) + chance.randbytes(chance.randrange(300))
        record = bytes([chance.choice([20, 21, 22, 23]), 3, chance.randrange(5)]) + len(body).to_bytes(2, "big") + body
        return chance.choice([record, record[: chance.randrange(len(record))], chance.randbytes(50)])

    async def story() -> None:
        await asyncio.gather(*(knock(mesh, handshake(), tls=False) for _ in range(30)))

    asyncio.run(story())
    assert is_well(mesh)


# ---------------------------------------------------------------- inside


def made_plausible(mac: Impostor, frame: frames.Frame) -> frames.Frame:
    """The envelopes and receipts in it are between mac and agni, and rightly signed: only the rest is arbitrary."""
    if isinstance(frame, frames.Deliver):
        mac.seq += 1
        envelopes = [
            msgspec.structs.replace(each, origin="mac", dest="agni", sender="mac", to="agni")
            for each in frame.envelopes
        ]
        return frames.Deliver(mac.seq, [mac.seal(each.open()) for each in envelopes])
    if isinstance(frame, frames.Receipts):
        receipts = [
            msgspec.structs.replace(each, origin="agni", dest="mac", sender="agni", to="mac").open()
            for each in frame.receipts
        ]
        return frames.Receipts(
            [frames.SignedReceipt.seal(each, mac.key.kid, receipt_mac(mac.key, each)) for each in receipts]
        )
    return frame


@given(said=st.lists(st.tuples(st.one_of([valid(kind) for kind in SPOKEN]), st.booleans()), min_size=1, max_size=12))
@hypothesis
def test_a_peer_may_say_whatever_its_frames_allow_and_the_node_lives(
    mesh: Sandbox, said: list[tuple[dict[str, Any], bool]]
) -> None:
    async def story() -> None:
        async with Impostor.of(mesh) as mac:
            with contextlib.suppress(ConnectionClosed):
                for each, plausible in said:
                    frame = frames.decode_peer(json.dumps(each).encode())
                    await mac.say(made_plausible(mac, frame) if plausible else frame)
                await mac.say(frames.Bye(reason="that is all"))
                while True:
                    await mac.wire.recv()

    asyncio.run(story())
    assert is_well(mesh)


@given(said=st.lists(valid(agent_frames.AgentRequest), min_size=1, max_size=12))
@hypothesis
def test_an_agent_may_say_whatever_its_frames_allow_and_is_answered(mesh: Sandbox, said: list[dict[str, Any]]) -> None:
    async def story() -> None:
        async with unix_connect(mesh.places["agni"].socket("agni"), "ws://localhost/") as wire:
            for each in said:
                await wire.send(json.dumps(each), text=True)
            await wire.send(frames.encode(agent_frames.Status(ref=2**53)), text=True)
            while True:
                answer = agent_frames.decode_reply(await asyncio.wait_for(wire.recv(decode=False), 20))
                if isinstance(answer, agent_frames.Data) and answer.ref == 2**53:
                    break

    asyncio.run(story())
    assert is_well(mesh)
