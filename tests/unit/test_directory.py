from __future__ import annotations

import pytest

from trishula.protocol.directory import Directory
from trishula.protocol.errors import SendError
from trishula.protocol.names import PROBE

DIRECTORY = Directory(
    {"mac": "mac", "dhyana": "mac", "agni": "agni", "rushabdev": "rushabdev"},
    {"builders": ["rushabdev", "mac", "agni"], "solo": ["mac"], "empty": []},
)


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        (["agni"], ("agni",)),
        (["mac"], ("mac",)),
        (["rushabdev", "agni"], ("rushabdev", "agni")),
        (["agni", "agni"], ("agni",)),
        (["all"], ("dhyana", "agni", "rushabdev")),
        (["ALL"], ("dhyana", "agni", "rushabdev")),
        (["@builders"], ("rushabdev", "agni")),
        (["agni", "@builders", "all"], ("agni", "rushabdev", "dhyana")),
        (["@builders", "mac"], ("rushabdev", "agni", "mac")),
    ],
    ids=[
        "one",
        "oneself by name",
        "a list keeps its order",
        "each once",
        "all but the sender",
        "ALL is all",
        "a group but the sender",
        "all kinds, each once",
        "the sender where it is named",
    ],
)
def test_names_become_agents(to: list[str], expected: tuple[str, ...]) -> None:
    assert DIRECTORY.expand(to, sender="mac") == expected


@pytest.mark.parametrize("name", ["nobody", "", "@nobody", "@", "Agni", "agni\n", "../agni", PROBE])
def test_an_unknown_recipient_is_refused_naming_it_and_who_is_known(name: str) -> None:
    with pytest.raises(SendError, match="known are ") as refused:
        DIRECTORY.expand(["agni", name], sender="mac")
    assert (refused.value.code, refused.value.key, refused.value.value) == ("unknown_recipient", "to", name)


@pytest.mark.parametrize("group", ["@solo", "@empty"])
def test_a_group_without_others_is_refused(group: str) -> None:
    with pytest.raises(SendError, match="nobody but the sender") as refused:
        DIRECTORY.expand([group], sender="mac")
    assert refused.value.value == group


def test_an_agent_has_one_home() -> None:
    assert DIRECTORY.home("dhyana") == "mac"
    assert DIRECTORY.home("nobody") is None
    assert DIRECTORY.lives("dhyana", "mac")
    assert not DIRECTORY.lives("dhyana", "agni")
    assert not DIRECTORY.lives("nobody", "mac")


def test_the_probe_lives_on_every_node_and_is_not_one_of_all() -> None:
    assert DIRECTORY.lives(PROBE, "mac")
    assert DIRECTORY.lives(PROBE, "rushabdev")
    assert PROBE not in DIRECTORY.expand(["all"], sender="mac")
