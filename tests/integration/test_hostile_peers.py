"""What a node says to strangers, to a peer that lies, and to an agent that does: a clear line, and it serves on."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from trishula.cli.pki import Authority
from trishula.cli.sandbox import Place, Sandbox, until
from trishula.node.config import load
from trishula.node.wire import LARGEST_PEER_FRAME, now
from trishula.protocol import agent_frames, frames
from trishula.protocol.envelope import Envelope, Key, State
from trishula.protocol.message import complete
from trishula.protocol.signing import PairKey, envelope_mac

HOUR = 3_600_000


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """agni runs; mac and rushabdev don't, and we speak in mac's name, with its credentials."""
    with Sandbox(tmp_path_factory.mktemp("mesh")) as sandbox:
        sandbox.start("agni")
        asyncio.run(sandbox.up("agni"))
        yield sandbox


@pytest.fixture(autouse=True)
def agni_serves_on_and_logs_no_traceback(mesh: Sandbox) -> Iterator[None]:
    yield
    assert asyncio.run(mesh.status("agni"))["ready"]
    assert "Traceback" not in mesh.places["agni"].log.read_text()


def log_of(place: Place) -> str:
    return place.log.read_text()


async def log_says(place: Place, words: str) -> None:
    await until(lambda: words in log_of(place), f"the log says {words!r}")


def trust(place: Place) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=place.ca)


def token_for_agni(mesh: Sandbox, node: str = "mac") -> str:
    return json.loads((mesh.places[node].credentials / "dial.json").read_text())["agni"]


@asynccontextmanager
async def connection(mesh: Sandbox, token: str | None) -> AsyncIterator[ClientConnection]:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    agni = mesh.places["agni"]
    async with connect(agni.url, ssl=trust(agni), additional_headers=headers, proxy=None) as wire:
        yield wire


class Impostor:
    """Speaks for mac on a greeted link to agni."""

    def __init__(self, wire: ClientConnection, key: PairKey) -> None:
        self.wire = wire
        self.key = key
        self.seq = 0
        self.agreed = False
        """Whether it has said what its clock is, without which agni may not believe its own."""

    @classmethod
    @asynccontextmanager
    async def of(cls, mesh: Sandbox) -> AsyncIterator[Impostor]:
        key = load(mesh.places["mac"].config).credentials.keyring.signing("agni")
        async with connection(mesh, token_for_agni(mesh)) as wire:
            impostor = cls(wire, key)
            me = frames.Introduction("mac", "incarnation", "impostor/1", 1 << 20, 1 << 20)
            await impostor.say(frames.Hello(frames.VERSIONS, me))
            assert isinstance(await impostor.hear(), frames.Welcome)
            while not impostor.agreed:
                await impostor.listen()
            yield impostor

    async def say(self, frame: frames.Frame) -> None:
        await self.wire.send(frames.encode(frame), text=True)

    async def hear(self) -> frames.PeerFrame:
        """The next frame that is about mail."""
        while True:
            frame = await self.listen()
            if not isinstance(frame, frames.Ping | frames.Pong | frames.Topology | frames.Query):
                return frame

    async def listen(self) -> frames.PeerFrame:
        """The next frame; pings are answered."""
        frame = frames.decode_peer(await asyncio.wait_for(self.wire.recv(decode=False), 60))
        if isinstance(frame, frames.Ping):
            await self.say(frames.Pong(frame.sent, now().wall))
            self.agreed = True
        return frame

    def seal(self, envelope: Envelope, key: PairKey | None = None) -> frames.SignedEnvelope:
        key = key or self.key
        return frames.SignedEnvelope.seal(envelope, key.kid, envelope_mac(key, envelope))

    async def deliver(self, *envelopes: frames.SignedEnvelope) -> list[frames.PeerFrame]:
        """What agni answers, up to its acknowledgement."""
        self.seq += 1
        await self.say(frames.Deliver(self.seq, list(envelopes)))
        answers: list[frames.PeerFrame] = []
        while not isinstance(answer := await self.hear(), frames.Ack):
            answers.append(answer)
        assert answer.seq == self.seq
        return answers


def envelope(message_id: str, *, body: str = "hello", sender: str = "mac", to: str = "agni") -> Envelope:
    raw = json.dumps({"id": message_id, "to": to, "body": body}).encode()
    message = complete(raw, sender=sender, new_id="-", timestamp="2026-02-10T00:00:00Z", max_bytes=1 << 20)
    return Envelope("mac", "agni", Key(sender, message_id, to), now().wall + HOUR, message.payload)


def inbox_file(mesh: Sandbox, name: str) -> Path:
    return mesh.places["agni"].mailbox("agni") / "inbox" / name


def the_deferral(answers: list[frames.PeerFrame]) -> str:
    assert [type(answer) for answer in answers] == [frames.Defer]
    return answers[0].items[0].reason


def the_receipt(answers: list[frames.PeerFrame]) -> frames.SignedReceipt:
    assert [type(answer) for answer in answers] == [frames.Receipts]
    return answers[0].receipts[0]


# ---------------------------------------------------------------- at the door


@pytest.mark.parametrize(
    ("token", "words"),
    [(None, "no token"), ("wrong", "a token that is not good here"), ("", "a token that is not good here")],
)
def test_without_a_good_token_there_is_no_upgrade(mesh: Sandbox, token: str | None, words: str) -> None:
    async def knock() -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with connection(mesh, token):
                pass
        assert refused.value.response.status_code == 401
        await log_says(mesh.places["agni"], f"turned away 127.0.0.1: {words}")

    asyncio.run(knock())


def test_a_token_for_another_node_is_not_good_here(mesh: Sandbox) -> None:
    elsewhere = json.loads((mesh.places["mac"].credentials / "dial.json").read_text())["rushabdev"]

    async def knock() -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with connection(mesh, elsewhere):
                pass
        assert refused.value.response.status_code == 401

    asyncio.run(knock())


def test_a_node_can_not_take_the_name_of_another(mesh: Sandbox) -> None:
    async def lie() -> None:
        async with connection(mesh, token_for_agni(mesh)) as wire:
            me = frames.Introduction("rushabdev", "incarnation", "impostor/1", 1 << 20, 1 << 20)
            await wire.send(frames.encode(frames.Hello(frames.VERSIONS, me)), text=True)
            with pytest.raises(ConnectionClosed) as closed:
                await wire.recv()
            assert closed.value.rcvd.code == 1008
            assert "calls itself rushabdev" in closed.value.rcvd.reason

    asyncio.run(lie())


def test_plain_ws_is_closed_and_named_in_the_log(mesh: Sandbox) -> None:
    async def knock() -> None:
        url = mesh.places["agni"].url.replace("wss://", "ws://")
        with pytest.raises((OSError, EOFError, InvalidMessage)):
            async with connect(url, proxy=None):
                pass
        await log_says(mesh.places["agni"], "turned away 127.0.0.1: no TLS handshake (http request)")

    asyncio.run(knock())


def test_who_connects_and_says_nothing_is_shown_out(mesh: Sandbox) -> None:
    """Both before the TLS handshake and after it."""
    host, port = mesh.places["agni"].listening.getsockname()

    async def say_nothing() -> None:
        for context in (None, trust(mesh.places["agni"])):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                assert await asyncio.wait_for(reader.read(), 60) == b""
            finally:
                writer.close()
        await log_says(mesh.places["agni"], "no TLS handshake (")
        await log_says(mesh.places["agni"], "no request within 5 s")

    asyncio.run(say_nothing())


def test_binary_rubbish_before_the_upgrade_is_shown_out(mesh: Sandbox) -> None:
    host, port = mesh.places["agni"].listening.getsockname()

    async def babble() -> None:
        reader, writer = await asyncio.open_connection(host, port, ssl=trust(mesh.places["agni"]))
        writer.write(bytes(range(256)) * 8 + b"\r\n\r\n")
        await asyncio.wait_for(reader.read(), 60)
        writer.close()
        await log_says(mesh.places["agni"], "no WebSocket request")

    asyncio.run(babble())


def test_a_peer_with_a_certificate_of_a_foreign_ca_is_not_linked(tmp_path: Path) -> None:
    """mac dials agni, who shows a certificate that the mesh's CA didn't sign; the right one ends it."""

    async def dial(sandbox: Sandbox) -> None:
        await log_says(sandbox.places["mac"], "can't link to agni")
        assert "its certificate is not good" in log_of(sandbox.places["mac"])
        assert not (await sandbox.status("mac"))["peers"]["agni"]["linked"]

    with Sandbox(tmp_path, {"mac": ("mac",), "agni": ("agni",)}) as sandbox:
        tls = sandbox.places["agni"].root / "tls"
        right = {name: (tls / name).read_bytes() for name in ("node.crt", "node.key")}
        certificate, key = Authority("somebody else's CA").issue("agni")
        (tls / "node.crt").write_bytes(certificate)
        (tls / "node.key").write_bytes(key)
        sandbox.start()
        asyncio.run(sandbox.up())
        asyncio.run(dial(sandbox))
        sandbox.stop("agni")
        for name, content in right.items():
            (tls / name).write_bytes(content)
        sandbox.start("agni")
        asyncio.run(sandbox.linked())


# ---------------------------------------------------------------- a greeted peer that lies


def test_an_honest_envelope_is_delivered_and_its_replay_answered_again(mesh: Sandbox) -> None:
    async def replay() -> None:
        sealed_by = envelope("honest")
        async with Impostor.of(mesh) as mac:
            sealed = mac.seal(sealed_by)
            first = the_receipt(await mac.deliver(sealed))
            again = the_receipt(await mac.deliver(sealed))
        assert first.outcome is State.DELIVERED
        assert (again.outcome, again.digest, again.at) == (first.outcome, first.digest, first.at)
        await until(inbox_file(mesh, "honest.json").exists, "the file is there")
        assert inbox_file(mesh, "honest.json").read_bytes() == sealed_by.payload
        assert len(list(inbox_file(mesh, "").glob("honest*"))) == 1

    asyncio.run(replay())


def test_an_id_reused_with_another_content_is_refused_and_the_first_stays(mesh: Sandbox) -> None:
    async def reuse() -> None:
        async with Impostor.of(mesh) as mac:
            first = the_receipt(await mac.deliver(mac.seal(envelope("reused", body="one"))))
            second = the_receipt(await mac.deliver(mac.seal(envelope("reused", body="two"))))
        assert (first.outcome, second.outcome, second.reason) == (State.DELIVERED, State.REFUSED, "id_conflict")
        await until(inbox_file(mesh, "reused.json").exists, "the file is there")
        assert b'"one"' in inbox_file(mesh, "reused.json").read_bytes()

    asyncio.run(reuse())


def altered(name: str, mac: Impostor) -> frames.SignedEnvelope:
    """An envelope of mac's, correctly sealed, and then changed on the way."""
    original = envelope(f"altered-{name}")
    sealed = mac.seal(original)
    changes = {
        "payload": {"payload": msgspec.Raw(bytes(sealed.payload).replace(b"hello", b"jello"))},
        "id": {"id": "another"},
        "expiry": {"expires_at": sealed.expires_at + HOUR},
        "mac": {"mac": bytes(32)},
    }
    return msgspec.structs.replace(sealed, **changes[name])


@pytest.mark.parametrize("name", ["payload", "id", "expiry", "mac"])
def test_an_envelope_that_was_tampered_with_is_not_taken(mesh: Sandbox, name: str) -> None:
    async def tamper() -> None:
        async with Impostor.of(mesh) as mac:
            assert the_deferral(await mac.deliver(altered(name, mac))) == "its signature is wrong"
        await log_says(mesh.places["agni"], "its signature is wrong")
        assert not list(inbox_file(mesh, "").glob(f"a*-{name}.json"))

    asyncio.run(tamper())


def test_a_changed_recipient_is_not_served(mesh: Sandbox) -> None:
    async def redirect() -> None:
        async with Impostor.of(mesh) as mac:
            sealed = msgspec.structs.replace(mac.seal(envelope("redirected")), to="rushabdev")
            assert the_deferral(await mac.deliver(sealed)) == "its signature is wrong"
            sealed = msgspec.structs.replace(mac.seal(envelope("redirected")), dest="rushabdev")
            assert "does not live on rushabdev" in the_deferral(await mac.deliver(sealed))

    asyncio.run(redirect())


def test_the_key_of_another_pair_signs_nothing_here(mesh: Sandbox) -> None:
    async def sign() -> None:
        other = load(mesh.places["mac"].config).credentials.keyring.signing("rushabdev")
        async with Impostor.of(mesh) as mac:
            assert the_deferral(await mac.deliver(mac.seal(envelope("other-pair"), other))) == "its signature is wrong"
            unknown = PairKey("unheard-of", mac.key.secret)
            reason = the_deferral(await mac.deliver(mac.seal(envelope("unknown-kid"), unknown)))
            assert reason == "signed with the unknown key 'unheard-of'"

    asyncio.run(sign())


def test_a_node_can_not_speak_for_the_agent_of_a_third(mesh: Sandbox) -> None:
    async def speak() -> None:
        async with Impostor.of(mesh) as mac:
            forged = envelope("forged", sender="rushabdev")
            assert the_deferral(await mac.deliver(mac.seal(forged))) == "rushabdev does not live on mac"
        await log_says(mesh.places["agni"], "rushabdev does not live on mac")
        assert not inbox_file(mesh, "forged.json").exists()

    asyncio.run(speak())


def test_mail_that_comes_back_to_its_origin_is_dropped(mesh: Sandbox) -> None:
    async def reflect() -> None:
        async with Impostor.of(mesh) as mac:
            own = replace(envelope("reflected"), origin="agni", dest="mac", key=Key("agni", "reflected", "mac"))
            assert await mac.deliver(mac.seal(own)) == []
        await log_says(mesh.places["agni"], "it is our own mail, reflected")

    asyncio.run(reflect())


def test_what_has_expired_is_acknowledged_in_silence(mesh: Sandbox) -> None:
    async def come_late() -> None:
        async with Impostor.of(mesh) as mac:
            late = replace(envelope("late"), expires_at=now().wall - HOUR)
            assert await mac.deliver(mac.seal(late)) == []
        assert not inbox_file(mesh, "late.json").exists()

    asyncio.run(come_late())


BAD_PAYLOADS = {
    "a key that is there twice": b'{"id": "ID", "from": "mac", "to": "agni", "x": 1, "x": 2}',
    "deep nesting": b'{"id": "ID", "from": "mac", "to": "agni", "x": ' + b"[" * 200 + b"]" * 200 + b"}",
    "a number out of range": b'{"id": "ID", "from": "mac", "to": "agni", "x": 1e400}',
    "another id than the envelope's": b'{"id": "other", "from": "mac", "to": "agni"}',
    "another sender than the envelope's": b'{"id": "ID", "from": "dhyana", "to": "agni"}',
    "a subject that is no text": b'{"id": "ID", "from": "mac", "to": "agni", "subject": 5}',
    "text that is not UTF-8": b'{"id": "ID", "from": "mac", "to": "agni", "x": "\xff"}',
    "a list": b"[1, 2]",
}


@pytest.mark.parametrize("what", BAD_PAYLOADS)
def test_a_payload_that_no_honest_node_sends_is_refused_for_ever(mesh: Sandbox, what: str) -> None:
    async def send() -> None:
        message_id = f"bad-{list(BAD_PAYLOADS).index(what)}"
        payload = BAD_PAYLOADS[what].replace(b"ID", message_id.encode()) + b"\n"
        bad = Envelope("mac", "agni", Key("mac", message_id, "agni"), now().wall + HOUR, payload)
        async with Impostor.of(mesh) as mac:
            receipt = the_receipt(await mac.deliver(mac.seal(bad)))
        assert receipt.outcome is State.REFUSED
        assert receipt.reason.startswith("rejected")
        await log_says(mesh.places["agni"], f"refused {message_id} from mac: rejected")
        assert not inbox_file(mesh, f"{message_id}.json").exists()

    asyncio.run(send())


@pytest.mark.parametrize("bad_id", ["../../etc/passwd", ".hidden", "a/b", "x" * 300, "a\n", ""])
def test_a_peer_that_sends_an_id_that_is_none_loses_its_link(mesh: Sandbox, bad_id: str) -> None:
    async def send() -> None:
        async with Impostor.of(mesh) as mac:
            sealed = msgspec.structs.replace(mac.seal(envelope("good")), id=bad_id)
            with pytest.raises(ConnectionClosed) as closed:
                await mac.deliver(sealed)
        assert closed.value.rcvd.code == 1008
        await log_says(mesh.places["agni"], "link from mac down: not a frame of this role")

    asyncio.run(send())


RUBBISH = {
    "no JSON": (b"\x00\xff\x00", 1007),
    "JSON that is no frame": (b"[1, 2, 3]", 1008),
    "a frame of no table": (b'{"frame": "shutdown"}', 1008),
    "an agent's frame": (b'{"frame": "send", "ref": 1, "message": {"to": "agni"}}', 1008),
    "a greeting out of turn": (b'{"frame": "welcome", "version": 1, "me": {}}', 1008),
    "deep nesting": (b'{"frame": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 1007),
    "NaN": (b'{"frame": "ping", "sent": NaN}', 1007),
    "a frame over the limit": (b" " * (LARGEST_PEER_FRAME + 1), 1009),
}


@pytest.mark.parametrize("what", RUBBISH)
def test_a_peer_that_talks_rubbish_loses_its_link_with_a_code(mesh: Sandbox, what: str) -> None:
    data, code = RUBBISH[what]

    async def talk() -> None:
        async with Impostor.of(mesh) as mac:
            await mac.wire.send(data, text=False)
            with pytest.raises(ConnectionClosed) as closed:
                await mac.hear()
        if code == 1009:  # what is still being sent may have the connection reset, and then the close frame is lost
            await log_says(mesh.places["agni"], "link from mac down: closed for what it sent: 1009 frame with")
        else:
            assert closed.value.rcvd.code == code

    asyncio.run(talk())


def test_a_peer_that_never_greets_loses_its_link(mesh: Sandbox) -> None:
    async def say_nothing() -> None:
        async with connection(mesh, token_for_agni(mesh)) as wire:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(wire.recv(), 60)
        await log_says(mesh.places["agni"], "link from mac down: silent for 3 s")

    asyncio.run(say_nothing())


# ---------------------------------------------------------------- an agent that lies


@asynccontextmanager
async def agent(mesh: Sandbox) -> AsyncIterator[ClientConnection]:
    async with unix_connect(mesh.places["agni"].socket("agni"), "ws://localhost/") as wire:
        assert isinstance(agent_frames.decode_reply(await wire.recv(decode=False)), agent_frames.Greeting)
        yield wire


@pytest.mark.parametrize(
    "frame",
    [
        frames.Hello(frames.VERSIONS, frames.Introduction("mac", "i", "s", 1, 1)),
        frames.Ack(1),
        frames.Ping(1),
        frames.Bye("x"),
    ],
)
def test_an_agent_that_speaks_as_a_node_is_shown_out(mesh: Sandbox, frame: frames.Frame) -> None:
    async def speak() -> None:
        async with agent(mesh) as wire:
            await wire.send(frames.encode(frame), text=True)
            with pytest.raises(ConnectionClosed) as closed:
                await wire.recv()
        assert closed.value.rcvd.code == 1008
        await log_says(mesh.places["agni"], "closed the connection of agent agni: not a frame of this role")

    asyncio.run(speak())


def test_an_agents_token_opens_no_link(mesh: Sandbox) -> None:
    """The credential decides the role: what follows it can't change that."""

    async def try_to_link() -> None:
        async with connection(mesh, mesh.places["agni"].token_file("agni").read_text()) as wire:
            assert isinstance(agent_frames.decode_reply(await wire.recv(decode=False)), agent_frames.Greeting)
            me = frames.Introduction("mac", "i", "s", 1, 1)
            await wire.send(frames.encode(frames.Hello(frames.VERSIONS, me)), text=True)
            with pytest.raises(ConnectionClosed) as closed:
                await wire.recv()
            assert closed.value.rcvd.code == 1008

    asyncio.run(try_to_link())


BAD_MESSAGES = {
    "../../etc/passwd": (b'{"id": "../../etc/passwd", "to": "mac"}', "id"),
    "hidden": (b'{"id": ".hidden", "to": "mac"}', "id"),
    "a slash": (b'{"id": "a/b", "to": "mac"}', "id"),
    "300 characters": (b'{"id": "' + b"x" * 300 + b'", "to": "mac"}', "id"),
    "somebody else's name": (b'{"from": "mac", "to": "mac"}', "from"),
    "a key twice": (b'{"to": "mac", "x": {"y": 1, "y": 1}}', "y"),
    "no recipient": (b'{"body": 1}', "to"),
    "an unknown recipient": (b'{"to": "nobody"}', "to"),
    "the probe's name": (b'{"to": ".ping"}', "to"),
}


@pytest.mark.parametrize("what", BAD_MESSAGES)
def test_a_message_that_is_none_fails_by_the_name_of_its_key_and_the_connection_goes_on(
    mesh: Sandbox, what: str
) -> None:
    raw, key = BAD_MESSAGES[what]

    async def send() -> None:
        async with agent(mesh) as wire:
            await wire.send(frames.encode(agent_frames.Send(7, msgspec.Raw(raw))), text=True)
            failed = agent_frames.decode_reply(await wire.recv(decode=False))
            assert isinstance(failed, agent_frames.Failed)
            assert (failed.ref, failed.key) == (7, key)
            await wire.send(frames.encode(agent_frames.Status(8)), text=True)
            assert isinstance(agent_frames.decode_reply(await wire.recv(decode=False)), agent_frames.Data)

    asyncio.run(send())


def test_an_agent_that_opens_connections_without_end_is_stopped_and_the_others_are_served(tmp_path: Path) -> None:
    async def crowd(sandbox: Sandbox) -> None:
        wires = []
        try:
            for _ in range(10):
                _, writer = await asyncio.open_unix_connection(sandbox.places["agni"].socket("agni"))
                wires.append(writer)
            await log_says(sandbox.places["agni"], "turned away agni.sock: too many connections from there")
            assert (await sandbox.status("agni"))["ready"]  # by node.sock, which counts for itself
        finally:
            for writer in wires:
                writer.close()

    with Sandbox(tmp_path, {"agni": ("agni",)}, limits={"connections_per_address": 5}) as sandbox:
        sandbox.start()
        asyncio.run(sandbox.up())
        asyncio.run(crowd(sandbox))


def test_an_agent_that_asks_and_does_not_listen_is_not_read_from_any_more(mesh: Sandbox) -> None:
    async def ask() -> None:
        async with agent(mesh) as wire:
            raw = json.dumps({"id": "large-answer", "to": "agni", "body": "x" * 500_000}).encode()
            await wire.send(frames.encode(agent_frames.Send(1, msgspec.Raw(raw))), text=True)
            before = resident(mesh.pid("agni"))
            for ref in range(400):
                await wire.send(frames.encode(agent_frames.Show(ref, "large-answer")), text=True)
            async with agent(mesh) as other:  # answered after the node has had its chance to read all of them
                await other.send(frames.encode(agent_frames.Status(1)), text=True)
                await other.recv()
            assert resident(mesh.pid("agni")) - before < 150 * 1024 * 1024
            wire.transport.abort()

    asyncio.run(ask())


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_flood_of_bad_envelopes_is_no_flood_in_the_journal(mesh: Sandbox) -> None:
    async def flood() -> None:
        async with Impostor.of(mesh) as mac:
            bad = [msgspec.structs.replace(mac.seal(envelope(f"flood-{n}")), mac=bytes(32)) for n in range(200)]
            before = log_of(mesh.places["agni"]).count("\n")
            await mac.deliver(*bad)
            assert log_of(mesh.places["agni"]).count("\n") - before <= 60

    asyncio.run(flood())
