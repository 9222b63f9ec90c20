"""One trouble at a time, where it hurts most."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from random import Random

import pytest

from simulation.adversary import Adversary
from simulation.mesh import Mesh
from simulation.world import World
from trishula.protocol.envelope import Key, State
from trishula.protocol.link import SILENT_AFTER
from trishula.protocol.post import ANSWERED_WITHIN

FOUND_WITHIN = 3.5
BACK_WITHIN = 5.0


def mesh_of(nodes: int, seed: int = 1, posts: Collection[frozenset[str]] = ()) -> Mesh:
    """A mesh with all its links up."""
    mesh = Mesh(World(seed), nodes, posts=posts)
    mesh.boot()
    mesh.world.run(1.0)
    assert all_linked(mesh)
    return mesh


def all_linked(mesh: Mesh) -> bool:
    return all(
        host.process is not None and sorted(host.process.linked()) == sorted(host.wiring.peers)
        for host in mesh.hosts.values()
    )


def linked(mesh: Mesh, one: str, other: str) -> bool:
    """Whether `one` believes that it is."""
    process = mesh.hosts[one].process
    return process is not None and other in process.linked()


def seconds_until_linked(mesh: Mesh) -> float:
    began = mesh.world.now
    mesh.world.run(began + 60, stop=lambda: all_linked(mesh))
    return mesh.world.now - began


def test_in_quiet_times_every_message_crosses_at_once_and_in_order() -> None:
    mesh = mesh_of(3)
    for number in range(100):
        mesh.world.at(1.0 + number / 10, lambda: [agent.write("all") for agent in mesh.agents.values()])
    mesh.world.run(12.0)
    mesh.settle()
    rows = [row for host in mesh.hosts.values() for row in host.disk.sent.values()]
    assert len(rows) == 100 * 6 * 5
    assert max(row.latency_ms or 0 for row in rows) < 100
    for host in mesh.hosts.values():
        for agent in mesh.agents.values():
            numbers = [
                int(key.id.split("-")[1]) for key in host.disk.inbox if (key.sender, key.to) == (agent.name, "a0")
            ]
            assert all(one < other for one, other in pairwise(numbers))


def test_a_quiet_link_stays_up() -> None:
    mesh = mesh_of(2)
    mesh.world.run(600.0)
    assert not [line for line in mesh.world.story if "is down" in line]


STEPS = [
    *(("a", step) for step in ("Commit", "durable", "Stored", "Transmit", "Progressed")),
    *(("b", step) for step in ("Commit", "durable", "Arrived", "Transmit")),
]


@pytest.mark.parametrize(("victim", "step"), STEPS, ids=lambda word: {"a": "origin", "b": "recipient"}.get(word, word))
def test_a_node_that_dies_at_any_step_loses_and_doubles_nothing(victim: str, step: str) -> None:
    for times in range(1, 8):
        mesh = mesh_of(2, seed=times)
        mesh.hosts[victim].fuse = (step, times)
        for to in ("b0", ["b0", "b1"], "all", "b0"):
            mesh.agents["a0"].write(to)
        mesh.world.run(2.0)
        assert mesh.hosts[victim].fuse is None or times > 2
        mesh.heal()
        mesh.settle()


def test_a_peer_that_comes_back_is_linked_within_five_seconds() -> None:
    worst = 0.0
    for seed in range(20):
        mesh = mesh_of(2, seed)
        mesh.hosts["b"].crash(power=seed % 2 == 0)
        mesh.world.run(mesh.world.now + 1 + 2 * seed)
        mesh.hosts["b"].boot()
        worst = max(worst, seconds_until_linked(mesh))
    assert worst < BACK_WITHIN


@pytest.mark.parametrize("trouble", ["freeze", "power", "cut", "partition"])
def test_a_link_that_went_silent_is_found_within_three_and_a_half_seconds(trouble: str) -> None:
    mesh = mesh_of(2)
    victim = mesh.hosts["b"]
    match trouble:
        case "freeze":
            assert victim.process is not None
            victim.process.freeze()
        case "power":
            victim.crash(power=True)
        case "cut":
            for end in mesh.network.connections():
                end.cut(tell=False)
        case "partition":
            mesh.network.block("a", "b")
            mesh.network.block("b", "a")
    letter = mesh.agents["a0"].write("b0")
    began = mesh.world.now
    mesh.world.run(began + SILENT_AFTER - 1.1)
    assert linked(mesh, "a", "b")
    mesh.world.run(began + 60, stop=lambda: any("a " in line and "is down" in line for line in mesh.world.story))
    assert mesh.world.now - began < FOUND_WITHIN
    assert letter.done
    mesh.heal()
    mesh.settle()


def test_where_only_one_direction_is_blocked_both_sides_find_out() -> None:
    mesh = mesh_of(2)
    mesh.network.block("a", "b")
    mesh.agents["a0"].write("b0")
    mesh.agents["b0"].write("a0")
    mesh.world.run(mesh.world.now + 2 * FOUND_WITHIN)
    assert not linked(mesh, "a", "b")
    assert not linked(mesh, "b", "a")
    mesh.heal()
    assert seconds_until_linked(mesh) < BACK_WITHIN
    mesh.settle()


def test_what_is_read_while_a_link_is_silent_is_told_though_the_link_never_goes_down() -> None:
    mesh = mesh_of(2)
    mesh.agents["b0"].reads_after = SILENT_AFTER - 0.3
    mesh.agents["a0"].write("b0")
    mesh.world.run(mesh.world.now + 0.2)
    mesh.network.block("a", "b")
    mesh.world.run(mesh.world.now + SILENT_AFTER - 0.3)
    mesh.network.unblock("a", "b")
    mesh.settle()
    assert mesh.hosts["a"].disk.sent[Key("a0", "a0-1", "b0")].state is State.READ
    assert not [line for line in mesh.world.story if "is down" in line]


AB = frozenset("ab")


def in_the_dark(seed: int = 1) -> Mesh:
    """Two nodes without a link, who have posts to each other."""
    mesh = mesh_of(2, seed, posts=[AB])
    for way in (("a", "b"), ("b", "a")):
        mesh.network.block(*way)
    for end in mesh.network.connections():
        end.cut(tell=True)
    mesh.world.run(mesh.world.now + 0.1)
    return mesh


def state_of_first_letter(mesh: Mesh) -> State:
    return mesh.hosts["a"].disk.sent[Key("a0", "a0-1", "b0")].state


@pytest.mark.parametrize("seed", range(10))
def test_without_a_link_mail_goes_by_post_and_is_answered_by_post(seed: int) -> None:
    mesh = in_the_dark(seed)
    mesh.agents["b0"].reads_after = 0.5
    mesh.agents["a0"].write("b0")
    mesh.world.run(mesh.world.now + 5.0)
    assert state_of_first_letter(mesh) is State.READ
    [entry] = mesh.hosts["b"].disk.entries(Key("a0", "a0-1", "b0"))
    assert entry.route == "rsync"
    mesh.heal()
    mesh.settle()


def test_a_node_that_was_down_reads_what_lies_for_it_and_who_starts_anew_reads_it_again() -> None:
    mesh = in_the_dark()
    mesh.hosts["b"].crash(power=True)
    mesh.agents["a0"].write("b0")
    mesh.world.run(mesh.world.now + 10.0)
    assert mesh.rsync.carried == (0 if mesh.rsync.runs(AB) == "b" else 1)
    for _ in range(3):
        mesh.hosts["b"].boot()
        mesh.world.run(mesh.world.now + 5.0)
        mesh.hosts["b"].crash(power=False)
    assert state_of_first_letter(mesh) is State.DELIVERED
    assert mesh.witness.counts["Ack"] >= 3
    mesh.heal()
    mesh.settle()


def test_while_rsync_fails_too_mail_waits_for_either() -> None:
    mesh = in_the_dark()
    mesh.rsync.broken[AB] = 1
    mesh.agents["a0"].write("b0")
    mesh.world.run(mesh.world.now + 300.0)
    assert state_of_first_letter(mesh) is State.STORED
    mesh.rsync.broken[AB] = 0
    mesh.world.run(mesh.world.now + 10.0)
    assert state_of_first_letter(mesh) is State.DELIVERED


def test_what_a_full_disk_kept_out_of_the_post_is_posted_again() -> None:
    mesh = in_the_dark()
    mesh.rsync.spoilt[AB] = 1
    mesh.agents["a0"].write("b0")
    mesh.world.run(mesh.world.now + 10.0)
    mesh.rsync.spoilt[AB] = 0
    mesh.world.run(mesh.world.now + ANSWERED_WITHIN - 15.0)
    assert state_of_first_letter(mesh) is State.STORED
    mesh.world.run(mesh.world.now + 10.0)
    assert state_of_first_letter(mesh) is State.DELIVERED


def test_a_full_disk_at_the_origin_refuses_clearly_and_takes_again_when_there_is_room() -> None:
    mesh = mesh_of(2)
    mesh.hosts["a"].full = True
    letter = mesh.agents["a0"].write("b0")
    mesh.world.run(mesh.world.now + 10)
    assert not letter.done
    assert mesh.witness.counts["rejected: store_full"] >= 2
    mesh.hosts["a"].full = False
    mesh.settle()
    assert letter.done


def test_a_full_disk_at_the_recipient_delays_and_refuses_nothing() -> None:
    mesh = mesh_of(2)
    mesh.hosts["b"].full = True
    mesh.agents["a0"].write("b0")
    mesh.world.run(mesh.world.now + 300)
    key = Key("a0", "a0-1", "b0")
    assert mesh.hosts["a"].disk.sent[key].state is State.STORED
    assert mesh.witness.counts["Defer"] >= 5
    mesh.hosts["b"].full = False
    mesh.world.run(mesh.world.now + 61)
    assert mesh.hosts["a"].disk.sent[key].state is State.DELIVERED


def test_a_peer_whose_disk_is_slow_delays_nobody_else() -> None:
    mesh = mesh_of(3)
    mesh.hosts["b"].sync_takes = 1000.0
    for _ in range(50):
        mesh.agents["a0"].write(["b0", "c0"], size=3000)
    mesh.world.run(mesh.world.now + 1.0)
    assert len(mesh.hosts["c"].disk.inbox) == 50
    assert not mesh.hosts["b"].disk.inbox


@pytest.mark.parametrize("seed", range(20))
def test_of_two_links_one_remains_and_nothing_is_lost_or_doubled(seed: int) -> None:
    mesh = mesh_of(2, seed)
    for number in range(40):
        mesh.world.at(1.0 + number / 100, lambda: mesh.agents["a0"].write("b0"))
        mesh.world.at(1.0 + number / 100, lambda: mesh.agents["b0"].write("a0"))
    for host in mesh.hosts.values():
        assert host.process is not None
        host.process.dial(*host.wiring.peers)
    mesh.world.run(1.4)
    mesh.settle()


@pytest.mark.parametrize("nodes", [2, 3])
def test_an_adversary_on_every_frame_costs_time_and_nothing_else(nodes: int) -> None:
    mesh = mesh_of(nodes)
    mesh.witness.hostile = True
    mesh.witness.evil = "b"
    mesh.network.meddler = Adversary(mesh, "b", Random(1), 1)
    for number in range(60):
        mesh.world.at(1.0 + number / 4, lambda: [agent.write("all") for agent in mesh.agents.values()])
    mesh.world.run(20.0)
    mesh.heal()
    mesh.settle()
