"""A rotation as a list of generations: which step follows which, and what a run that was broken off comes to."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.contract.conftest import ROOT, load, run_role

if TYPE_CHECKING:
    from types import ModuleType

    from tests.contract.conftest import Site

NODES = ["agni", "mac", "rushabdev"]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def every(generations: list[int]) -> dict[str, list[int]]:
    return {node: list(generations) for node in NODES}


NEW: dict[str, Any] = {"generations": every([1])}


def at(days: float) -> str:
    return (NOON + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


# ── The steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rotation_takes_three_steps(rotation: ModuleType) -> None:
    accepting = rotation.accept(NEW, NODES, at(0), 1)
    assert accepting["generations"] == every([1, 2])
    sending = rotation.send(accepting)
    assert sending["generations"] == every([2, 1])
    assert rotation.retire(sending)["generations"] == every([2])


def test_one_nodes_rotation_leaves_the_others_as_they_are(rotation: ModuleType) -> None:
    assert rotation.accept(NEW, ["mac"], at(0), 1)["generations"] == NEW["generations"] | {"mac": [1, 2]}


def test_nothing_is_retired_before_the_new_ones_are_sent(rotation: ModuleType) -> None:
    accepting = rotation.accept(NEW, NODES, at(0), 1)
    assert rotation.retire(accepting) == accepting


@pytest.mark.parametrize("broken_off_after", [1, 2, 3])
def test_an_interrupted_run_is_finished_by_the_next_one(rotation: ModuleType, broken_off_after: int) -> None:
    steps = [lambda state: rotation.accept(state, NODES, at(0), 0), rotation.send, rotation.retire]
    state = NEW
    for step in steps[:broken_off_after]:
        state = step(state)
    for step in [lambda state: rotation.accept(state, NODES, at(0.1), 1), rotation.send, rotation.retire]:
        state = step(state)
    assert state["generations"] == every([2])


def test_what_was_rotated_today_is_left_alone_and_what_is_older_is_not(rotation: ModuleType) -> None:
    done = rotation.retire(rotation.send(rotation.accept(NEW, ["mac"], at(0), 1)))
    assert rotation.accept(done, ["mac"], at(0.9), 1) == done
    assert rotation.accept(done, ["mac"], at(1), 1)["generations"]["mac"] == [2, 3]
    assert rotation.accept(done, ["mac"], at(0.1), 0)["generations"]["mac"] == [2, 3]


def test_a_state_is_not_changed_in_place(rotation: ModuleType) -> None:
    before = {"generations": {"mac": [1]}, "since": {}, "revoked": [], "gone": []}
    rotation.revoke(before, ["mac"], at(0))
    rotation.accept(before, ["mac"], at(0), 0)
    assert before == {"generations": {"mac": [1]}, "since": {}, "revoked": [], "gone": []}


# ── Who is no more ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_revoked_node_is_in_a_generation_of_which_the_thief_has_nothing(rotation: ModuleType) -> None:
    for held in ([1], [1, 2], [2, 1]):
        revoked = rotation.revoke({"generations": {"mac": held, "agni": [1]}}, ["mac"], at(0))
        assert revoked["generations"] == {"mac": [max(held) + 1], "agni": [1]}
        assert revoked["revoked"] == ["mac"]
        assert rotation.revoke(revoked, ["mac"], at(1)) == revoked


def test_a_revoked_nodes_secrets_are_not_rotated(rotation: ModuleType) -> None:
    revoked = rotation.revoke(NEW, ["mac"], at(0))
    assert rotation.accept(revoked, NODES, at(9), 1)["generations"]["mac"] == [2]


def test_who_leaves_the_inventory_and_comes_back_has_a_new_generation(rotation: ModuleType) -> None:
    here = rotation.members({}, NODES)
    assert here["generations"] == NEW["generations"]
    left = rotation.members(here, ["agni", "mac"])
    assert (left["generations"]["rushabdev"], left["gone"]) == ([2], ["rushabdev"])
    assert rotation.members(left, ["agni", "mac"]) == left
    back = rotation.members(left, NODES)
    assert (back["generations"]["rushabdev"], back["gone"]) == ([2], [])
    assert rotation.members(back, NODES) == back


def test_a_revoked_node_is_forgiven_when_it_was_out_of_the_inventory(rotation: ModuleType) -> None:
    revoked = rotation.revoke(NEW, ["mac"], at(0))
    assert rotation.members(revoked, NODES) == revoked
    back = rotation.members(rotation.members(revoked, ["agni", "rushabdev"]), NODES)
    assert (back["revoked"], back["gone"], back["generations"]["mac"]) == ([], [], [2])


def test_a_revoked_node_is_noted_as_stolen_until_it_was_handed_its_new_secrets(rotation: ModuleType) -> None:
    revoked = rotation.revoke(NEW, ["mac"], at(0))
    assert revoked["stolen"] == {"mac": 2}
    back = rotation.members(rotation.members(revoked, ["agni", "rushabdev"]), NODES)
    assert back["stolen"] == {"mac": 2}
    assert rotation.welcome(back, ["agni"])["stolen"] == {"mac": 2}
    assert rotation.welcome(back, ["mac"])["stolen"] == {}


def test_who_was_revoked_by_an_older_release_is_noted_as_stolen_too(rotation: ModuleType) -> None:
    state = {"generations": every([1]) | {"mac": [3]}, "revoked": ["mac"]}
    assert rotation.members(state, ["agni", "rushabdev"])["stolen"] == {"mac": 3}


def test_who_only_left_is_not_noted_as_stolen(rotation: ModuleType) -> None:
    assert rotation.members(rotation.members({}, NODES), ["agni", "mac"])["stolen"] == {}


# ── The wiring, and the role ────────────────────────────────────────────────────────────────────────────────────────


def test_a_revoked_node_is_no_peer_of_anybody_and_in_no_group(site: Site) -> None:
    told = site.rendered_with(_site_revoked=["mac"], trishula_groups={"all-of-us": ["agni", "dhyana", "mac"]})
    for host in ("agni", "rushabdev"):
        for role in ("node", "secrets", "fallback"):
            assert "mac" not in [peer["name"] for peer in told.argument(host, f"trishula_{role}_peers")]
        assert told.argument(host, "trishula_node_groups") == {"all-of-us": ["agni"]}


class Controller:
    """The role on this machine, with a folder of secrets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        self.mesh = self.secrets / "mesh.yml"
        self.mesh.write_text(yaml.safe_dump({"mesh_secret": base64.b64encode(bytes(range(200, 232))).decode()}))

    def run(self, entry: str, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        facts = {
            "trishula_secrets_mesh_file": str(self.mesh),
            "trishula_secrets_dir": str(self.folder / "host"),
            "trishula_secrets_node": "mac",
            "trishula_secrets_nodes": NODES,
            "trishula_secrets_peers": [{"name": "agni", "dial": True}, {"name": "rushabdev", "dial": True}],
        }
        return run_role(self.folder, "trishula_secrets", entry, {"mac": facts | more}, *options)

    @property
    def generations(self) -> dict[str, Any]:
        return load(self.secrets / "generations.yml")

    def hold(self, kid: str) -> None:
        (self.folder / "host").mkdir()
        (self.folder / "host" / "keys.json").write_text(f'{{"agni": [{{"kid": "{kid}", "key": "AAAA"}}]}}')


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def test_a_step_is_written_once(controller: Controller) -> None:
    for changed in ("changed=1", "changed=0"):
        run = controller.run("step", trishula_secrets_step="accept")
        assert run.returncode == 0, run.stdout
        assert changed in run.stdout
    assert controller.generations["generations"] == every([1, 2])
    assert (controller.secrets / "generations.yml").stat().st_mode & 0o777 == 0o600


def test_a_check_says_that_it_would_take_the_step_and_does_not(controller: Controller) -> None:
    run = controller.run("step", "--check", trishula_secrets_step="revoke", trishula_secrets_concerned=["mac"])
    assert run.returncode == 0, run.stdout
    assert "changed=1" in run.stdout
    assert not (controller.secrets / "generations.yml").exists()


def test_a_secret_encrypted_with_vault_is_rotated_and_never_written(controller: Controller) -> None:
    password = controller.folder / "password"
    password.write_text("correct horse")
    vault = Path(sys.executable).with_name("ansible-vault")
    command = [vault, "encrypt", "--vault-password-file", password, controller.mesh]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=os.environ)
    encrypted = controller.mesh.read_bytes()
    assert encrypted.startswith(b"$ANSIBLE_VAULT")
    opened = ("--vault-password-file", str(password))
    for entry, facts in (("controller", {}), ("step", {"trishula_secrets_step": "accept"}), ("preflight", {})):
        run = controller.run(entry, *opened, **facts)
        assert run.returncode == 0, run.stdout
    assert controller.mesh.read_bytes() == encrypted
    assert controller.generations["generations"]["mac"] == [1, 2]
    closed = controller.run("preflight")
    assert closed.returncode != 0
    assert "run with --ask-vault-pass or --vault-password-file" in " ".join(closed.stdout.split())


def test_a_revoked_host_is_handed_nothing(controller: Controller) -> None:
    controller.run("step", trishula_secrets_step="revoke", trishula_secrets_concerned=["mac"])
    run = controller.run("preflight")
    assert run.returncode != 0
    assert "mac was revoked, so it is handed no secrets. Take it out of the inventory" in " ".join(run.stdout.split())


def test_a_lost_file_of_generations_is_found_out(controller: Controller) -> None:
    controller.hold("1.2")
    run = controller.run("preflight")
    assert run.returncode != 0
    assert "mac holds keys for agni of a later generation" in " ".join(run.stdout.split())


# ── The playbook ────────────────────────────────────────────────────────────────────────────────────────────────────

PLAYS = load(ROOT / "playbooks" / "rotate_secrets.yml")


def test_each_step_is_on_all_hosts_before_the_next_begins() -> None:
    steps = [
        task["vars"]["trishula_secrets_step"] if "vars" in task else "roll"
        for play in PLAYS
        for task in play["tasks"]
        if "trishula_secrets_step" in task.get("vars", {}) or play.get("serial") == 1
    ]
    assert steps == ["revoke", "accept", "roll", "send", "roll", "retire", "roll"]


def test_a_rotation_goes_from_host_to_host_and_a_revocation_to_all_at_once() -> None:
    rolling = {play["name"]: play.get("serial") for play in PLAYS if "tasks/rekey.yml" in str(play["tasks"])}
    assert list(rolling.values()) == [None, 1, 1, 1]
    revoking = next(iter(rolling))
    assert revoking == "Cut off who is revoked, on all hosts at once"


def test_a_node_that_was_restarted_is_waited_for() -> None:
    *_, restart, gate, _ = load(ROOT / "playbooks" / "tasks" / "rekey.yml")
    assert restart["ansible.builtin.meta"] == "flush_handlers"
    assert gate["retries"] >= 30
    assert len(gate["until"]) == 3


def test_of_two_nodes_whichever_sends_first_the_other_knows_the_key(secrets: ModuleType, rotation: ModuleType) -> None:
    mesh = {"mesh_secret": base64.b64encode(bytes(range(200, 232))).decode()}
    before: dict[str, Any] = NEW
    for step in (lambda state: rotation.accept(state, NODES, at(0), 1), rotation.send, rotation.retire):
        after = step(before)
        for one, other in permutations(NODES, 2):
            for here, there in ((before, after), (after, before)):
                signing = secrets.keys(mesh | here, one, [{"name": other}])[other][0]
                assert signing in secrets.keys(mesh | there, other, [{"name": one}])[one]
        before = after
