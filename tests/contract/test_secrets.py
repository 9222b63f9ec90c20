"""Keys and tokens: equal on both sides, different everywhere else, and nobody's but their own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from itertools import pairwise, permutations
from secrets import token_bytes
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

NODES = ("agni", "mac", "rushabdev")
MESH = {"mesh_secret": base64.b64encode(bytes(range(32))).decode(), "generations": {}}


def peers(node: str) -> list[dict[str, Any]]:
    """The lower name dials."""
    return [{"name": name, "dial": node < name} for name in NODES if name != node]


def agents(node: str) -> list[dict[str, Any]]:
    return [{"name": node}, {"name": f"{node}-2"}]


def everything(secrets: ModuleType, mesh: dict[str, Any], node: str) -> dict[str, Any]:
    return {
        "keys": secrets.keys(mesh, node, peers(node)),
        "dial": secrets.dial(mesh, node, peers(node)),
        "accept": secrets.accept(mesh, node, peers(node), agents(node)),
        "agents": {agent["name"]: secrets.agent_token(mesh, node, agent["name"]) for agent in agents(node)},
    }


def test_a_pair_key_is_what_the_label_says(secrets: ModuleType) -> None:
    label = b"".join(
        len(part).to_bytes(4, "big") + part for part in (b"trishula/1 pair key", b"agni", b"mac", b"1", b"1")
    )
    key = hmac.digest(bytes(range(32)), label, "sha256")
    assert secrets.keys(MESH, "mac", [{"name": "agni"}]) == {
        "agni": [{"kid": "1.1", "key": base64.b64encode(key).decode()}]
    }


def test_both_nodes_of_a_pair_hold_the_same_key(secrets: ModuleType) -> None:
    for one, other in permutations(NODES, 2):
        assert secrets.keys(MESH, one, peers(one))[other] == secrets.keys(MESH, other, peers(other))[one]


def test_no_two_pairs_share_a_key(secrets: ModuleType) -> None:
    keys = {pair[0]["key"] for node in NODES for pair in secrets.keys(MESH, node, peers(node)).values()}
    assert len(keys) == 3


def test_what_the_dialling_side_shows_is_what_the_other_accepts(secrets: ModuleType) -> None:
    for dialler, acceptor in permutations(NODES, 2):
        shown = secrets.dial(MESH, dialler, peers(dialler)).get(acceptor)
        accepted = [
            row["sha256"] for row in secrets.accept(MESH, acceptor, peers(acceptor), []) if row["node"] == dialler
        ]
        assert accepted == ([hashlib.sha256(shown.encode()).hexdigest()] if shown else [])
        assert (shown is None) == (dialler > acceptor)


def test_a_token_is_good_at_one_node_and_for_one_name(secrets: ModuleType) -> None:
    tokens = [
        token
        for node in NODES
        for known in [everything(secrets, MESH, node)]
        for token in [*known["dial"].values(), *known["agents"].values()]
    ]
    assert len(tokens) == len(set(tokens)) == 9


def test_an_agents_token_is_accepted_by_its_own_node_only(secrets: ModuleType) -> None:
    digest = hashlib.sha256(secrets.agent_token(MESH, "mac", "mac").encode()).hexdigest()
    accepting = [node for node in NODES if digest in json.dumps(secrets.accept(MESH, node, peers(node), agents(node)))]
    assert accepting == ["mac"]


def test_an_agent_called_as_a_node_has_another_token(secrets: ModuleType) -> None:
    assert secrets.agent_token(MESH, "agni", "mac") != secrets.dial(MESH, "agni", peers("agni"))["mac"]


def test_names_that_run_together_make_different_keys(secrets: ModuleType) -> None:
    one = secrets.agent_token(MESH, "ab", "c")
    other = secrets.agent_token(MESH, "a", "bc")
    assert one != other


def test_tokens_and_keys_have_the_form_of_the_contract(secrets: ModuleType) -> None:
    known = everything(secrets, MESH, "agni")
    for token in [*known["dial"].values(), *known["agents"].values()]:
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    for [pair] in known["keys"].values():
        assert len(base64.b64decode(pair["key"], validate=True)) == 32
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,32}", pair["kid"])
    for row in known["accept"]:
        assert re.fullmatch(r"[0-9a-f]{64}", row["sha256"])
        assert set(row) in ({"node", "sha256"}, {"agent", "sha256"})


def test_a_raised_generation_changes_that_nodes_secrets_and_no_others(secrets: ModuleType) -> None:
    raised = MESH | {"generations": {"mac": [2]}}
    before, after = (everything(secrets, mesh, "agni") for mesh in (MESH, raised))
    assert before["keys"]["mac"] != after["keys"]["mac"]
    assert after["keys"]["mac"][0]["kid"] == "1.2"
    assert before["dial"]["mac"] != after["dial"]["mac"]
    assert before["keys"]["rushabdev"] == after["keys"]["rushabdev"]
    assert before["dial"]["rushabdev"] == after["dial"]["rushabdev"]
    assert before["agents"] == after["agents"]


def test_nothing_that_a_node_is_given_holds_the_mesh_secret_or_anothers_keys(secrets: ModuleType) -> None:
    mac = json.dumps(everything(secrets, MESH, "mac"))
    third = secrets.keys(MESH, "agni", [{"name": "rushabdev"}])["rushabdev"][0]["key"]
    assert MESH["mesh_secret"] not in mac
    assert third not in mac


def test_keys_of_another_mesh_secret_are_found_out(secrets: ModuleType) -> None:
    other = {"mesh_secret": base64.b64encode(bytes(32)).decode()}
    ours, theirs = (secrets.keys(mesh, "mac", peers("mac")) for mesh in (MESH, other))
    assert secrets.conflicts(ours, theirs) == ["agni", "rushabdev"]
    assert secrets.conflicts(ours, ours) == []


def test_keys_of_another_generation_are_no_conflict(secrets: ModuleType) -> None:
    raised = MESH | {"generations": {"mac": [2]}}
    ours, theirs = (secrets.keys(mesh, "mac", peers("mac")) for mesh in (raised, MESH))
    assert secrets.conflicts(ours, theirs) == []


# ── Two generations at a time ───────────────────────────────────────────────────────────────────────────────────────

STEPS = ({}, {"mac": [1, 2]}, {"mac": [2, 1]}, {"mac": [2]})


def test_whatever_a_host_sends_between_two_steps_is_good_at_one_that_has_taken_the_next(secrets: ModuleType) -> None:
    for before, after in pairwise(STEPS):
        for here, there in ((before, after), (after, before)):
            sends, takes = (MESH | {"generations": generations} for generations in (here, there))
            for dialler, acceptor in permutations(NODES, 2):
                signing = secrets.keys(sends, dialler, peers(dialler))[acceptor][0]
                assert signing in secrets.keys(takes, acceptor, peers(acceptor))[dialler]
                shown = secrets.dial(sends, dialler, peers(dialler)).get(acceptor)
                if shown is not None:
                    row = {"node": dialler, "sha256": hashlib.sha256(shown.encode()).hexdigest()}
                    assert row in secrets.accept(takes, acceptor, peers(acceptor), [])


def test_an_agents_old_token_is_good_until_the_last_step(secrets: ModuleType) -> None:
    old = hashlib.sha256(secrets.agent_token(MESH, "mac", "mac").encode()).hexdigest()
    good = [old in json.dumps(secrets.accept(MESH | {"generations": step}, "mac", [], agents("mac"))) for step in STEPS]
    assert good == [True, True, True, False]


def test_two_nodes_that_are_rotated_at_once_know_all_that_the_other_may_sign_with(secrets: ModuleType) -> None:
    mesh = MESH | {"generations": {"agni": [1, 2], "mac": [2, 1]}}
    kids = [key["kid"] for key in secrets.keys(mesh, "agni", [{"name": "mac"}])["mac"]]
    assert kids == ["1.2", "1.1", "2.2", "2.1"]
    assert len({key["key"] for key in secrets.keys(mesh, "agni", [{"name": "mac"}])["mac"]}) == 4


def test_a_revoked_nodes_keys_and_tokens_are_good_nowhere(secrets: ModuleType, rotation: ModuleType) -> None:
    revoked = MESH | rotation.revoke({"generations": {"mac": [1, 2]}}, ["mac"], "2026-01-01T00:00:00Z")
    stolen = [everything(secrets, MESH | {"generations": {"mac": step}}, "mac") for step in ([1], [2])]
    for node in ("agni", "rushabdev"):
        held = json.dumps(everything(secrets, revoked, node))
        for loot in stolen:
            assert all(key["key"] not in held for key in loot["keys"][node])
            token = loot["dial"].get(node)
            assert token is None or hashlib.sha256(token.encode()).hexdigest() not in held


def test_hosts_that_are_ahead_of_the_file_are_found_out(secrets: ModuleType) -> None:
    later = secrets.keys(MESH | {"generations": {"mac": [2, 3]}}, "mac", peers("mac"))
    for now in ({}, {"mac": [2]}, {"mac": [1, 2], "agni": [4]}):
        ours = secrets.keys(MESH | {"generations": now}, "mac", peers("mac"))
        assert secrets.ahead(ours, later) == ["agni", "rushabdev"]
        assert secrets.ahead(later, ours) == (["agni"] if "agni" in now else [])
    assert secrets.ahead(later, later) == []
    assert secrets.ahead(later, later | {"gone": later["agni"]}) == []


@pytest.mark.parametrize(
    "mesh",
    [
        {},
        {"mesh_secret": None},
        {"mesh_secret": "not base64!"},
        {"mesh_secret": base64.b64encode(bytes(31)).decode()},
        MESH | {"generations": {"mac": [0]}},
        MESH | {"generations": {"mac": []}},
        MESH | {"generations": {"mac": 2}},
        MESH | {"generations": {"mac": ["two"]}},
    ],
)
def test_a_broken_mesh_file_is_refused_without_telling_what_it_holds(secrets: ModuleType, mesh: dict[str, Any]) -> None:
    with pytest.raises(secrets.MeshSecretError) as refusal:
        secrets.keys(mesh, "mac", peers("mac"))
    if mesh.get("mesh_secret"):
        assert mesh["mesh_secret"] not in str(refusal.value)


def test_a_secret_that_somebody_wrote_is_told_from_one_that_was_drawn(secrets: ModuleType) -> None:
    def drawn(secret: bytes) -> bool:
        return secrets.drawn({"mesh_secret": base64.b64encode(secret).decode()})

    assert not drawn(b"0123456789" * 3 + b"01")
    assert not drawn(bytes(range(32)))
    assert not drawn(b"\xff" * 32)
    assert all(drawn(token_bytes(32)) for _ in range(1000))


# ── What a host has of it ───────────────────────────────────────────────────────────────────────────────────────────


RIGHT, OTHER = (f"{hashlib.sha256(content).hexdigest()}  /c/keys.json" for content in (b"k", b"o"))


@pytest.mark.parametrize(
    ("said", "differs"),
    [
        (["700 root root /c", "600 root root /c/keys.json", RIGHT], []),
        (["700 root root /c", "600 root root /c/keys.json", OTHER], ["/c/keys.json"]),
        (["755 root root /c", "640 root root /c/keys.json", RIGHT], ["/c", "/c/keys.json"]),
        ([], ["/c", "/c/keys.json"]),
    ],
)
def test_what_a_host_has_otherwise_is_found(secrets: ModuleType, said: list[str], differs: list[str]) -> None:
    paths = [
        {"path": "/c", "mode": "700", "group": "root"},
        {"path": "/c/keys.json", "mode": "600", "group": "root", "content": "k"},
    ]
    assert [path["path"] for path in secrets.differing(paths, "root", said)] == differs


@pytest.mark.parametrize(("generations", "is_before"), [({}, True), ({"mac": [2]}, False), ({"mac": [3, 2]}, False)])
def test_keys_from_before_a_node_was_revoked_are_told_from_those_after(
    secrets: ModuleType,
    generations: dict[str, list[int]],
    is_before: bool,  # noqa: FBT001
) -> None:
    held = secrets.keys(MESH | {"generations": {"agni": [7], "rushabdev": [9]} | generations}, "mac", peers("mac"))
    assert secrets.before(held, "mac", 2) is is_before


def test_a_host_without_keys_is_as_from_before(secrets: ModuleType) -> None:
    assert secrets.before({}, "mac", 2)
