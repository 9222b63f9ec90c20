"""The table of a link, row by row; who is taken for silent; and that nothing a peer says makes it raise."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trishula.protocol import frames
from trishula.protocol.clock import Instant
from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.link import (
    CLOSE_NORMAL,
    CLOSE_POLICY,
    CLOSE_SILENT,
    CLOSE_VERSION,
    Hangup,
    Heard,
    Link,
    LinkEvent,
    LinkState,
    Measured,
    Opened,
    Side,
    Suspected,
    Transmit,
)

hypothesis = settings(max_examples=200, deadline=None, derandomize=True)

MAC = frames.Introduction(node="mac", incarnation="1", software="trishula/2", max_message_bytes=1024, window_bytes=4096)
AGNI = frames.Introduction(
    node="agni", incarnation="2", software="trishula/2", max_message_bytes=2048, window_bytes=8192
)
SEALED = frames.SignedEnvelope.seal(Envelope("agni", "mac", Key("agni", "m1", "mac"), 1, b"{}\n"), "1", b"mac")
SIGNED = frames.SignedReceipt.seal(
    Receipt("mac", "agni", Key("mac", "m1", "agni"), 1, "ab" * 32, State.DELIVERED, "", 1), "1", b"mac"
)
HELLO = frames.Hello(versions=frames.VERSIONS, me=AGNI)
WELCOME = frames.Welcome(version=2, me=AGNI)
MAIL: list[frames.Frame] = [
    frames.Deliver(seq=1, envelopes=[SEALED]),
    frames.Ack(seq=1),
    frames.Receipts(receipts=[SIGNED]),
    frames.Defer(items=[frames.Deferred(sender="mac", to="agni", id="m1", reason="full")]),
]
PING = frames.Ping(sent=77)
PONG = frames.Pong(sent=77, read=78)
BYE = frames.Bye(reason="restarting")


@dataclass
class Rig:
    """One end of a link on `mac`, and the time."""

    link: Link
    mono: float = 1000.0
    wall: int = 5_000_000
    said: list[LinkEvent] = field(default_factory=list)

    @property
    def now(self) -> Instant:
        return Instant(self.mono, self.wall)

    def sleep(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += round(seconds * 1000)

    def hear(self, *heard: frames.Frame | bytes) -> list[LinkEvent]:
        """What comes of frames whose bytes have just arrived."""
        events = []
        for item in heard:
            self.link.bytes_arrived(self.now)
            events += self.link.receive(self.now, item if isinstance(item, bytes) else frames.encode(item))
        return events

    def tick(self) -> list[LinkEvent]:
        return self.link.tick(self.now)


def greeting(side: Side) -> Rig:
    rig = Rig(Link(side, MAC, "agni", Instant(1000.0, 5_000_000)))
    rig.said = rig.link.start()
    return rig


def opened(side: Side) -> Rig:
    rig = greeting(side)
    rig.said = rig.hear(WELCOME if side is Side.DIALLER else HELLO)
    assert rig.link.state is LinkState.OPEN
    return rig


def closed(side: Side) -> Rig:
    rig = opened(side)
    rig.said = rig.link.close("enough")
    return rig


sides = pytest.mark.parametrize("side", Side)
STATES = {LinkState.GREETING: greeting, LinkState.OPEN: opened, LinkState.CLOSED: closed}


def hangup(events: list[LinkEvent]) -> Hangup:
    assert len(events) == 1, events
    assert isinstance(events[0], Hangup)
    return events[0]


# ---------------------------------------------------------------- the table

MAY_SAY: dict[tuple[LinkState, Side], list[frames.Frame]] = {
    (LinkState.GREETING, Side.DIALLER): [WELCOME, BYE],
    (LinkState.GREETING, Side.LISTENER): [HELLO, BYE],
    (LinkState.OPEN, Side.DIALLER): [*MAIL, PING, PONG, BYE],
    (LinkState.OPEN, Side.LISTENER): [*MAIL, PING, PONG, BYE],
}
EVERYTHING = [HELLO, WELCOME, *MAIL, PING, PONG, BYE]


@sides
@pytest.mark.parametrize("state", [LinkState.GREETING, LinkState.OPEN])
@pytest.mark.parametrize("frame", EVERYTHING, ids=lambda frame: type(frame).__name__)
def test_a_frame_out_of_its_row_ends_the_link_and_one_in_its_row_does_not(
    state: LinkState, side: Side, frame: frames.Frame
) -> None:
    rig = STATES[state](side)
    events = rig.hear(frame)
    if frame not in MAY_SAY[state, side]:
        end = hangup(events)
        assert end == Hangup(CLOSE_POLICY, f"{type(frame).__name__.lower()} is out of turn: the link is {state.value}")
        assert rig.link.state is LinkState.CLOSED
    else:
        assert not any(isinstance(event, Hangup) and event.code != CLOSE_NORMAL for event in events)
        assert rig.link.state is (LinkState.CLOSED if frame is BYE else LinkState.OPEN)


def test_the_dialler_speaks_first_and_the_listener_waits() -> None:
    assert greeting(Side.DIALLER).said == [Transmit(frames.Hello(versions=frames.VERSIONS, me=MAC))]
    assert greeting(Side.LISTENER).said == []


def test_the_listener_answers_a_greeting_and_both_know_whom_they_have() -> None:
    assert opened(Side.LISTENER).said[:2] == [Transmit(frames.Welcome(version=2, me=MAC)), Opened(AGNI)]
    assert opened(Side.DIALLER).said[0] == Opened(AGNI)


@sides
def test_mail_is_for_the_engine(side: Side) -> None:
    assert opened(side).hear(*MAIL) == [Heard(frame) for frame in MAIL]


@sides
def test_a_ping_is_answered_with_both_times(side: Side) -> None:
    rig = opened(side)
    assert rig.hear(PING) == [Transmit(frames.Pong(sent=77, read=rig.wall))]


@sides
def test_when_the_peer_leaves_the_link_ends_with_its_reason(side: Side) -> None:
    assert hangup(opened(side).hear(BYE)) == Hangup(CLOSE_NORMAL, "the peer left: restarting")


@sides
def test_whoever_leaves_says_goodbye_once(side: Side) -> None:
    rig = closed(side)
    assert rig.said == [Transmit(frames.Bye(reason="enough")), Hangup(CLOSE_NORMAL, "enough")]
    assert rig.link.close("again") == []


@sides
def test_a_closed_link_says_nothing_whatever_it_hears_and_however_long(side: Side) -> None:
    rig = closed(side)
    assert rig.hear(*EVERYTHING, b"rubbish") == []
    rig.sleep(100)
    assert rig.tick() == []
    assert rig.link.deadline() is None


# ---------------------------------------------------------------- greetings


@pytest.mark.parametrize(("side", "frame"), [(Side.DIALLER, WELCOME), (Side.LISTENER, HELLO)])
def test_a_peer_that_calls_itself_otherwise_than_its_credential_is_sent_away(
    side: Side, frame: frames.Hello | frames.Welcome
) -> None:
    rig = greeting(side)
    impostor = msgspec.structs.replace(frame, me=msgspec.structs.replace(AGNI, node="rushabdev"))
    events = rig.hear(impostor)
    assert events == [Hangup(CLOSE_POLICY, "its credential is agni's, but it calls itself rushabdev")]


@pytest.mark.parametrize("versions", [(0, 0), (3, 9), (9, 3)])
def test_without_a_common_version_the_listener_says_what_both_speak(versions: tuple[int, int]) -> None:
    end = hangup(greeting(Side.LISTENER).hear(frames.Hello(versions=versions, me=AGNI)))
    assert end == Hangup(CLOSE_VERSION, f"no common version: it speaks {versions[0]}-{versions[1]}, we speak 1-2")


@pytest.mark.parametrize(("versions", "chosen"), [((0, 1), 1), ((1, 1), 1), ((1, 2), 2), ((2, 5), 2)])
def test_of_overlapping_versions_the_highest_common_one_is_chosen(versions: tuple[int, int], chosen: int) -> None:
    rig = greeting(Side.LISTENER)
    assert rig.hear(frames.Hello(versions=versions, me=AGNI))[0] == Transmit(frames.Welcome(version=chosen, me=MAC))
    assert rig.link.version == chosen


LATER: list[frames.Frame] = [frames.Topology(links=[]), frames.Posted()]


@sides
@pytest.mark.parametrize("frame", LATER, ids=lambda frame: type(frame).__name__)
@pytest.mark.parametrize("version", [1, 2])
def test_a_frame_of_a_later_version_is_neither_said_nor_heard_on_an_older_link(
    side: Side, frame: frames.Frame, version: int
) -> None:
    rig = greeting(side)
    older = frames.Welcome(version, AGNI) if side is Side.DIALLER else frames.Hello((version, version), AGNI)
    rig.hear(older)
    assert rig.link.speaks(type(frame)) is (version == 2)
    events = rig.hear(frame)
    if version == 1:
        assert hangup(events) == Hangup(CLOSE_POLICY, f"{type(frame).__name__.lower()} is no frame of version 1")
    else:
        assert events == [Heard(frame)]


@pytest.mark.parametrize("version", [0, 3])
def test_a_version_that_the_dialler_never_offered_ends_the_link(version: int) -> None:
    end = hangup(greeting(Side.DIALLER).hear(frames.Welcome(version=version, me=AGNI)))
    assert end.code == CLOSE_VERSION


@sides
def test_a_peer_that_connects_and_says_nothing_is_sent_away(side: Side) -> None:
    rig = greeting(side)
    due = rig.link.deadline()
    assert due is not None
    rig.sleep(due - rig.mono)
    assert hangup(rig.tick()).code in (CLOSE_SILENT, CLOSE_POLICY)


@sides
def test_a_peer_that_drips_bytes_and_never_greets_is_sent_away_after_five_seconds(side: Side) -> None:
    rig = greeting(side)
    for _ in range(4):
        rig.sleep(1)
        rig.link.bytes_arrived(rig.now)
        assert rig.tick() == []
    rig.sleep(1)
    assert hangup(rig.tick()) == Hangup(CLOSE_POLICY, "no greeting within 5 s")


# ---------------------------------------------------------------- life


@sides
def test_it_pings_at_once_and_then_every_second(side: Side) -> None:
    rig = opened(side)
    assert rig.said[-1] == Transmit(frames.Ping(sent=rig.wall))
    for _ in range(10):
        assert rig.link.deadline() == rig.mono + 1.0
        rig.sleep(0.5)
        rig.link.bytes_arrived(rig.now)
        assert rig.tick() == []
        rig.sleep(0.5)
        assert rig.tick() == [Transmit(frames.Ping(sent=rig.wall))]


@sides
def test_a_silent_peer_is_suspect_after_two_seconds_and_given_up_after_three(side: Side) -> None:
    rig = opened(side)
    rig.sleep(1.9)
    assert Suspected(True) not in rig.tick()
    rig.sleep(0.2)
    assert Suspected(True) in rig.tick()
    rig.sleep(0.5)
    assert Suspected(True) not in rig.tick()
    rig.sleep(0.5)
    assert hangup(rig.tick()) == Hangup(CLOSE_SILENT, "silent for 3 s")


@sides
def test_a_suspect_that_speaks_again_is_above_suspicion_at_its_first_byte(side: Side) -> None:
    rig = opened(side)
    rig.sleep(2.5)
    rig.tick()
    assert rig.link.bytes_arrived(rig.now) == [Suspected(False)]
    assert rig.link.bytes_arrived(rig.now) == []
    rig.sleep(2.5)
    assert Suspected(True) in rig.tick()


@sides
def test_its_deadlines_alone_find_a_silent_peer_within_three_and_a_half_seconds(side: Side) -> None:
    rig = opened(side)
    began = rig.mono
    while (due := rig.link.deadline()) is not None:
        rig.sleep(max(0.0, due - rig.mono))
        rig.tick()
    assert rig.mono - began <= 3.5


@sides
def test_a_slow_link_on_which_bytes_still_move_is_not_dead(side: Side) -> None:
    """Life is bytes, not frames: a large message over a thin line takes longer than any ping."""
    rig = opened(side)
    for _ in range(60):
        rig.sleep(1)
        rig.link.bytes_arrived(rig.now)
        assert not any(isinstance(event, Hangup | Suspected) for event in rig.tick())


@sides
def test_a_pong_tells_round_trip_and_the_offset_of_the_peers_clock(side: Side) -> None:
    rig = opened(side)
    sent = rig.wall
    rig.sleep(0.04)
    [event] = rig.hear(frames.Pong(sent=sent, read=sent + 20 + 1500))
    assert event == Measured(pytest.approx(1500), pytest.approx(40))
    assert rig.link.rtt_ms == pytest.approx(40)
    assert rig.link.offset_ms == pytest.approx(1500)


@sides
def test_a_pong_that_nobody_asked_for_measures_nothing(side: Side) -> None:
    rig = opened(side)
    rig.hear(frames.Pong(sent=1, read=2))
    assert (rig.link.rtt_ms, rig.link.offset_ms) == (None, None)


@sides
def test_a_peer_that_never_answers_pings_costs_no_memory(side: Side) -> None:
    rig = opened(side)
    for _ in range(1000):
        rig.sleep(1)
        rig.link.bytes_arrived(rig.now)
        rig.tick()
    assert len(rig.link._pings) <= 16


# ---------------------------------------------------------------- garbage


@sides
@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", 1007),
        (b"\x00\xff\xfe", 1007),
        (b"[" * 100_000, 1008),
        (b"GET / HTTP/1.1", 1007),
        (b'{"frame": "send", "ref": 1, "message": {}}', 1008),
        (b'{"frame": "deliver", "seq": 1, "envelopes": []}', 1008),
    ],
    ids=["nothing", "rubbish", "deep", "http", "an agent's frame", "an empty batch"],
)
def test_garbage_ends_the_link_with_its_code_and_a_reason(side: Side, said: bytes, code: int) -> None:
    end = hangup(opened(side).hear(said))
    assert end.code == code
    assert end.reason.startswith("not a frame")


anything = st.one_of(
    st.binary(max_size=60), st.sampled_from([frames.encode(frame) for frame in EVERYTHING]), st.floats(0, 4)
)


@sides
@given(steps=st.lists(anything, max_size=30))
@hypothesis
def test_no_sequence_of_bytes_and_pauses_raises_or_outlives_its_hangup(side: Side, steps: list[bytes | float]) -> None:
    rig = greeting(side)
    over = False
    for step in steps:
        if isinstance(step, float):
            rig.sleep(step)
            events = rig.tick()
        else:
            events = rig.hear(step)
        assert not (over and events)
        over = over or any(isinstance(event, Hangup) for event in events)
        assert over is (rig.link.state is LinkState.CLOSED)
        assert (rig.link.deadline() is None) is over
