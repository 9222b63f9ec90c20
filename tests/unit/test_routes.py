"""Which way mail goes: direct, else over one relay, else to one that waits (rules 3 and 4)."""

from __future__ import annotations

from trishula.protocol import frames
from trishula.protocol.routes import LOOPBACK, Line, Route, Routes, route_name

WINDOW = 1000


def routes(*links: str, node: str = "mac", always_on: bool = False) -> Routes:
    """Of a laptop, linked to these."""
    table = Routes(node, WINDOW, {"agni": True, "pi": False, "rushabdev": True}, always_on=always_on)
    for number, peer in enumerate(links, 1):
        table.lines[number] = Line(number, peer, WINDOW)
    return table


def says(table: Routes, node: str, *links: str) -> None:
    table.neighbours[node] = frames.Topology(links=list(links))


def way(table: Routes, dest: str) -> tuple[int, str, bool] | None:
    found = table.route(dest)
    return None if found is None else (found.line.number, found.line.node, found.reaches)


def test_mail_to_oneself_stays() -> None:
    assert way(routes(), "mac") == (LOOPBACK, "mac", True)


def test_a_direct_link_is_the_way_whatever_others_reach() -> None:
    table = routes("agni", "rushabdev")
    says(table, "agni", "rushabdev", "mac")
    assert way(table, "rushabdev") == (2, "rushabdev", True)


def test_the_newest_link_that_is_above_suspicion_is_taken() -> None:
    table = routes("agni", "agni", "agni")
    table.lines[3].suspect = True
    assert way(table, "agni") == (2, "agni", True)


def test_without_a_direct_link_a_neighbour_that_is_linked_to_the_recipient_relays() -> None:
    table = routes("agni")
    says(table, "agni", "mac")
    assert way(table, "rushabdev") == (1, "agni", False)
    says(table, "agni", "mac", "rushabdev")
    assert way(table, "rushabdev") == (1, "agni", True)


def test_a_relay_that_is_always_on_is_preferred() -> None:
    table = routes("agni", "pi")
    for relay in ("agni", "pi"):
        says(table, relay, "rushabdev")
    assert way(table, "rushabdev") == (1, "agni", True)
    says(table, "agni")
    assert way(table, "rushabdev") == (2, "pi", True)


def test_a_silent_neighbour_relays_nothing() -> None:
    table = routes("agni")
    says(table, "agni", "rushabdev")
    table.lines[1].suspect = True
    assert way(table, "rushabdev") is None


def test_a_laptop_hands_its_mail_to_a_neighbour_that_is_always_on_and_waits() -> None:
    table = routes("pi", "agni")
    says(table, "pi", "mac")
    assert way(table, "rushabdev") is None
    says(table, "agni", "mac")
    assert way(table, "rushabdev") == (2, "agni", False)


def test_a_server_waits_with_its_mail_itself() -> None:
    assert way(routes("agni", always_on=True), "rushabdev") is None


def test_a_route_is_reported_by_its_relay() -> None:
    assert route_name("agni", "agni") == "direct"
    assert route_name("agni", "rushabdev") == "relay:rushabdev"
    assert Route(Line(1, "agni", WINDOW), "rushabdev", reaches=True).name == "relay:agni"


def test_a_post_is_the_way_when_it_is_open_and_no_link_reaches_the_recipient() -> None:
    table = routes("agni")
    says(table, "agni", "mac")
    table.posts["rushabdev"] = Line(-1, "rushabdev", WINDOW, files=True)
    assert way(table, "rushabdev") == (1, "agni", False)
    table.posts["rushabdev"].open = True
    found = table.route("rushabdev")
    assert found is not None
    assert (found.line.number, found.name, found.reaches) == (-1, "rsync", True)
    says(table, "agni", "rushabdev")
    assert way(table, "rushabdev") == (1, "agni", True)
