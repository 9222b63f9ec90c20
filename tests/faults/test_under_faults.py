"""One thing breaks after the other, in the order of this file, while every agent writes to every other one."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from faults import samples
from faults.breaking import blocked, cut, cut_off, forget_connections, kill, paused, restart
from topology.nodes import SERVICE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from faults.breaking import Fault
    from faults.note import Note
    from faults.watched import End, WatchedStream
    from topology.nodes import Node

NODES = ["mac", "agni", "rushabdev"]
PAIRS = [*itertools.combinations(NODES, 2), ("mac", "agni"), ("mac", "rushabdev")]

LONG = pytest.mark.long
"""In `make test-all` only: `make test` tries each kind of fault once."""


def first(*trials: object) -> list[object]:
    """Trials of which `make test` makes the first."""
    return [
        trials[0],
        *(pytest.param(*(trial if isinstance(trial, tuple) else (trial,)), marks=LONG) for trial in trials[1:]),
    ]


PORT = 8765
BLOCKED_S = 60.0
NOTICED_S = 10.0
REROUTED_S = 10.0
LINKED_S = 15.0


def crosses(mesh: dict[str, Node], stream: WatchedStream, ends: Iterable[End], route: str, *, within: float) -> None:
    """Every sample is dropped as a file for each of these, and comes by this route and no other."""
    dropped = [item for here, there in ends for item in samples.drop_all(mesh[here], mesh[there])]
    wanted = {(item.id, item.to.name) for item in dropped}
    eventually(lambda: wanted <= stream.came().keys(), within=within)
    assert {stream.came()[key].partition(":")[0] for key in wanted} == {route}
    with contextlib.suppress(AssertionError):
        eventually(lambda: not samples.lacking(dropped), within=15)  # the files follow the news, a moment later
    assert samples.lacking(dropped) == []


def ends_of(*nodes: str) -> tuple[list[End], list[End]]:
    """The ends at these nodes of their links, and the ends at their peers."""
    inner = [(node, peer) for node in nodes for peer in NODES if peer != node]
    return inner, [(peer, node) for node, peer in inner]


def test_every_sample_that_is_dropped_as_a_file_crosses_by_link(mesh: dict[str, Node], stream: WatchedStream) -> None:
    crosses(mesh, stream, itertools.permutations(NODES, 2), "direct", within=20)


@pytest.mark.parametrize(("here", "there"), first(*itertools.combinations(NODES, 2)))
def test_every_sample_that_is_dropped_as_a_file_crosses_by_relay(
    mesh: dict[str, Node], stream: WatchedStream, here: str, there: str
) -> None:
    ends = [(here, there), (there, here)]
    with cut(mesh[here], mesh[there]) as fault:
        stream.wait_until("down", ends, fault.since, within=NOTICED_S)
        crosses(mesh, stream, ends, "relay", within=20)
    stream.wait_until("up", ends, fault.mended, within=LINKED_S)


@pytest.mark.parametrize(("here", "there"), first(*PAIRS))
def test_a_pair_that_is_cut_goes_round_about_and_is_linked_again_when_it_is_whole(
    mesh: dict[str, Node], stream: WatchedStream, note: Note, here: str, there: str
) -> None:
    ends = [(here, there), (there, here)]
    with cut(mesh[here], mesh[there]) as fault:
        noticed = stream.wait_until("down", ends, fault.since, within=NOTICED_S)
        detours = [stream.wait_for_detour(*end, fault.since, within=REROUTED_S) for end in ends]
        note.add("a pair cut", reroute=max(detours) - fault.since)
    linked = stream.wait_until("up", ends, fault.mended, within=LINKED_S)
    note.add("a pair cut", detection=noticed - fault.since, reconnect=linked - fault.mended)


@pytest.mark.parametrize("name", first(*NODES))
def test_a_node_that_is_cut_off_is_linked_again_when_it_is_whole(
    mesh: dict[str, Node], stream: WatchedStream, note: Note, name: str
) -> None:
    inner, outer = ends_of(name)
    with cut_off(mesh[name]) as fault:
        noticed = stream.wait_until("down", inner + outer, fault.since, within=NOTICED_S)
    linked = stream.wait_until("up", inner + outer, fault.mended, within=LINKED_S)
    note.add("a node cut off", detection=noticed - fault.since, reconnect=linked - fault.mended)


@LONG
def test_mail_that_a_laptop_gave_to_a_neighbour_goes_on_while_the_laptop_sleeps(
    mesh: dict[str, Node], stream: WatchedStream
) -> None:
    with contextlib.ExitStack() as asleep:
        with cut_off(mesh["agni"]) as fault:
            noticed = stream.wait_until("down", [("mac", "agni")], fault.since, within=NOTICED_S)
            eventually(lambda: stream.wrote("mac", "agni", since=noticed + 1), within=5)
            asleep.enter_context(paused(mesh["mac"]))
        stream.wait_for_detour("mac", "agni", fault.mended, within=LINKED_S)


@pytest.mark.parametrize("_trial", first(*range(3)))
def test_a_nat_that_forgets_its_connections_costs_the_laptop_new_ones(
    router: Node, stream: WatchedStream, note: Note, _trial: int
) -> None:
    inner, outer = ends_of("mac")
    fault = forget_connections(router)
    noticed = stream.wait_until("down", inner + outer, fault.since, within=NOTICED_S)
    linked = stream.wait_until("up", inner + outer, fault.since, within=LINKED_S)
    note.add("the NAT forgets", detection=noticed - fault.since, reconnect=linked - fault.since)


@pytest.mark.parametrize("name", first(*NODES))
def test_a_host_that_stands_still_is_linked_again_when_it_goes_on(
    mesh: dict[str, Node], stream: WatchedStream, note: Note, name: str
) -> None:
    inner, outer = ends_of(name)
    with paused(mesh[name]) as fault:
        noticed = stream.wait_until("down", outer, fault.since, within=NOTICED_S)
    linked = stream.wait_until("up", inner + outer, fault.mended, within=LINKED_S)
    note.add("a host paused", detection=noticed - fault.since, reconnect=linked - fault.mended)


@pytest.mark.parametrize(("what", "end"), [("a node restarted", restart), ("a node killed", kill)])
@pytest.mark.parametrize("name", first(*NODES))
def test_a_node_that_ends_is_started_and_linked_again(
    mesh: dict[str, Node], stream: WatchedStream, note: Note, name: str, what: str, end: Callable[[Node], Fault]
) -> None:
    inner, outer = ends_of(name)
    fault = end(mesh[name])
    noticed = stream.wait_until("down", outer, fault.since, within=NOTICED_S)
    linked = stream.wait_until("up", inner + outer, fault.since, within=LINKED_S)
    note.add(what, detection=noticed - fault.since, reconnect=linked - fault.since)


@LONG
def test_with_the_port_blocked_everywhere_mail_goes_by_rsync_and_by_link_again_when_it_is_open(
    mesh: dict[str, Node], stream: WatchedStream, note: Note
) -> None:
    ends = list(itertools.permutations(NODES, 2))
    with blocked(mesh.values(), PORT) as fault:
        noticed = stream.wait_until("down", ends, fault.since, within=NOTICED_S)
        posted = stream.wait_for_rsync(ends, fault.since, within=NOTICED_S)
        crosses(mesh, stream, ends, "rsync", within=BLOCKED_S)
        eventually(lambda: time.time() > fault.since + BLOCKED_S, within=2 * BLOCKED_S)
        by_rsync = stream.arrivals("rsync", fault.since)
    linked = stream.wait_until("up", ends, fault.mended, within=LINKED_S)
    eventually(lambda: stream.arrivals("direct", fault.mended), within=LINKED_S)
    first = min(came for _, came in stream.arrivals("direct", fault.mended))
    what = "the port blocked"
    note.add(what, detection=noticed - fault.since, rsync=posted - noticed, reconnect=linked - fault.mended)
    note.add(what, **{"by link": first - fault.mended})
    assert by_rsync
    for stored, came in by_rsync:
        note.add(what, delivery=came - stored)


def test_what_was_stored_is_in_each_inbox_once_and_byte_for_byte(whole_stream: WatchedStream, note: Note) -> None:
    whole_stream.finish(within=60)
    stored = whole_stream.stored()
    assert stored
    lost, too_many = whole_stream.lost_and_doubled(within=15)
    note.count = (
        f"{len(stored)} messages stored, {len(lost)} lost, {too_many.total()} doubled; they came by "
        + ", ".join(f"{route} ({count})" for route, count in whole_stream.routes().most_common())
    )
    assert not lost
    assert not too_many


def test_what_was_stored_is_in_its_senders_outbox_once_and_byte_for_byte(whole_stream: WatchedStream) -> None:
    sent = Counter((sent.id, sent.sender, sent.digest) for sent in whole_stream.stored())
    found = Counter((file.id, file.agent, file.digest) for file in whole_stream.files() if file.box == "outbox")
    assert not sent - found
    assert not found - sent


def test_no_node_fell_over_its_own_feet(mesh: dict[str, Node]) -> None:
    for node in mesh.values():
        assert "Traceback" not in node.host.check_output(f"journalctl --no-pager --output cat --unit {SERVICE}")
