"""A Mac as the laptop: what the roles render for it, ask of it and tell its launchd.

The playbooks as a whole are run on a Mac, or on a stand-in for one, by tests/macos.
"""

from __future__ import annotations

import itertools
import json
import os
import plistlib
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.tags import compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename
from tests.contract.conftest import ROOT, Site, all_tasks, load, raw, refusals

from macos.mac import STAND_IN, inventory
from trishula.places import on_macos

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARY = "/Users/dhyana/Library"
HOME = f"{LIBRARY}/Application Support/TRISHULA"


# ── What is rendered ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def macs(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("macs")
    return Site(str(inventory(folder)), {}).rendered_with()


def test_the_plist_runs_the_node_at_each_login_and_whenever_it_ends(macs: Site) -> None:
    agent = plistlib.loads(macs.rendered("mac", "trishula.node.plist").encode())
    assert agent["Label"] == "trishula.node"
    assert agent["ProgramArguments"] == [f"{HOME}/current/bin/trishula", "node", "run", "--config", f"{HOME}/node.toml"]
    assert agent["RunAtLoad"] is True
    assert agent["KeepAlive"] is True
    assert agent["WorkingDirectory"] == HOME
    assert agent["StandardErrorPath"] == agent["StandardOutPath"] == f"{LIBRARY}/Logs/TRISHULA/node.log"
    assert not {"UserName", "GroupName", "EnvironmentVariables"} & set(agent)


def test_a_path_that_xml_would_not_take_is_escaped(macs: Site) -> None:
    told = macs.rendered_with(trishula_home="/Users/dhyana & co")
    agent = plistlib.loads(told.rendered("mac", "trishula.node.plist").encode())
    assert agent["WorkingDirectory"] == "/Users/dhyana & co/Library/Application Support/TRISHULA"


def test_everything_is_where_the_command_looks_for_it(macs: Site) -> None:
    here = on_macos(Path("/Users/dhyana"))
    told = tomllib.loads(macs.rendered("mac", "node.toml"))
    assert macs.argument("mac", "trishula_node_config") == str(here.config)
    assert told["node"]["state_dir"] == str(here.state)
    assert told["node"]["runtime_dir"] == str(here.runtime)
    assert told["node"]["credentials_dir"] == str(here.credentials) == macs.argument("mac", "trishula_secrets_dir")
    assert told["listen"]["address"] == "127.0.0.1"


NOT_ON_A_MAC = {"trishula_base_packages_note", "trishula_tls_packages_note", "trishula_tls_letsencrypt_dir"}


def test_all_of_it_belongs_to_the_user_and_lies_below_the_home(macs: Site) -> None:
    for role in ("trishula_base", "trishula_tls", "trishula_secrets", "trishula_node"):
        for name, value in macs.hosts["mac"]["arguments"][role].items():
            if name.endswith(("_owner", "_user")):
                assert value == "dhyana", name
            elif str(value).startswith("/") and name not in NOT_ON_A_MAC:
                controllers = str(value).startswith((str(ROOT), str(Path(macs.inventory).parent)))
                assert controllers or str(value).startswith("/Users/dhyana/"), name


def test_its_agents_are_the_users_and_need_no_group(macs: Site) -> None:
    told = tomllib.loads(macs.rendered("mac", "node.toml"))
    assert told["agents"] == {"mac": {}, "dhyana": {}}


def test_neither_it_nor_its_peers_expect_rsync(macs: Site) -> None:
    assert "fallback" not in tomllib.loads(macs.rendered("mac", "node.toml"))
    for host in ("agni", "rushabdev"):
        peers = tomllib.loads(macs.rendered(host, "node.toml"))["peers"]
        assert {name: peer["sync"] for name, peer in peers.items() if name != "mac"} == {
            name: "push" for name in ("agni", "rushabdev") if name != host
        }
        assert peers["mac"]["sync"] == "never"
        assert "mac" not in [peer["name"] for peer in macs.argument(host, "trishula_fallback_peers")]


def test_a_mac_changes_nothing_for_a_linux_host(macs: Site) -> None:
    for host in ("agni", "rushabdev"):
        assert macs.argument(host, "trishula_node_supervisor") == "systemd"
        assert macs.argument(host, "trishula_node_config") == "/etc/trishula/node.toml"


# ── What is installed ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_release_for_a_mac_is_made_of_wheels_for_a_mac(macs: Site) -> None:
    told = macs.expressions(
        "mac",
        "_trishula_node_platforms",
        "_trishula_node_wheels_dir",
        __trishula_node_python={"stdout_lines": ["3.12"]},
        ansible_facts={"architecture": "arm64"},
    )
    assert told["_trishula_node_platforms"] == ["macosx_11_0_arm64"]
    assert told["_trishula_node_wheels_dir"].endswith("/wheels/cp312-macos-arm64")


def test_the_lock_has_a_wheel_for_a_mac_of_all_that_a_node_runs_on() -> None:
    """By pip's rules for macosx_11_0_arm64, the platform that the controller fetches for."""
    packages = {package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    needed = {each["name"] for each in packages["trishula"]["dependencies"]}
    for name in list(needed):
        needed |= {each["name"] for each in packages[name].get("dependencies", [])}
    assert {"msgspec", "watchfiles", "websockets"} <= needed
    platforms = list(mac_platforms((11, 0), "arm64"))
    for name, python in itertools.product(needed, [(3, 11), (3, 12), (3, 13)]):
        fits = {*cpython_tags(python, platforms=platforms), *compatible_tags(python, platforms=platforms)}
        wheels = [Path(wheel["url"]).name for wheel in packages[name]["wheels"]]
        assert any(parse_wheel_filename(wheel)[3] & fits for wheel in wheels), (name, python)


# ── What launchd is told ────────────────────────────────────────────────────────────────────────────────────────────


class Launchd:
    """The stand-in for launchctl, with one agent whose node is a process that sleeps."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.folder = folder
        self.plist = folder / "trishula.node.plist"
        self.file = folder / "node.toml"
        self.file.touch()
        program = {"Label": "trishula.node", "ProgramArguments": ["sleep", "600"], "WorkingDirectory": str(folder)}
        self.plist.write_bytes(plistlib.dumps(program | {"StandardErrorPath": str(folder / "log")}))
        names = [
            "_trishula_node_load",
            "_trishula_node_unload",
            "_trishula_node_agent",
            "_trishula_node_ask_for_the_port.launchd",
        ]
        extra = {"trishula_node_launch_agents_dir": str(folder), "trishula_node_listen_port": 18765}
        self.told: dict[str, str] = site.expressions("mac", *names, **extra)
        for tool in ("launchctl", "plutil"):
            (folder / tool).symlink_to(STAND_IN / tool)
        self.environment = {**os.environ, "FAKE_MAC": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}

    def run(self, *commands: str) -> list[str]:
        """Run what the role says as it would be run on the host. Returns the verbs that launchctl was given."""
        (self.folder / "calls").write_text("")
        for command in commands:
            subprocess.run(["sh", "-ec", command], check=True, env=self.environment)
        calls = (self.folder / "calls").read_text().splitlines()
        return [call.split()[0] for call in calls if not call.startswith("print")]

    def handler(self, name: str) -> str:
        """The shell of a handler of the role."""
        (task,) = (task for task in all_tasks(handlers=True) if task.data["name"] == name)
        command: str = task.data["ansible.builtin.shell"]["cmd"]
        for expression, value in self.told.items():
            command = command.replace(f"{{{{ {expression} }}}}", value)
        assert "{{" not in command
        return command

    def how_it_runs(self) -> list[str]:
        script = ROOT / "roles/trishula_node/files/how_it_runs.py"
        return subprocess.check_output(
            [sys.executable, script, "trishula.node", self.plist, self.file], env=self.environment, text=True
        ).splitlines()

    def let_files_age(self) -> None:
        """Until no file is of the seconds in which a process that starts now may have: Linux' `ps` is up to one off."""
        deadline = time.monotonic() + 30
        while time.time() < max(path.lstat().st_ctime for path in (self.plist, self.file)) + 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def touch_later(self, path: Path) -> None:
        """Change a file in a later second than the process began, as `ps` counts them."""
        deadline = time.monotonic() + 30
        before = self.how_it_runs()
        while self.how_it_runs() == before:
            assert time.monotonic() < deadline, before
            path.touch()
            time.sleep(0.1)


@pytest.fixture
def launchd(tmp_path: Path, macs: Site) -> Iterator[Launchd]:
    launchd = Launchd(tmp_path, macs)
    yield launchd
    launchd.run(f"launchctl bootout {launchd.told['_trishula_node_agent']} || true")


def test_the_agent_is_started_ended_and_started_again_as_launchd_wants_it(launchd: Launchd) -> None:
    assert launchd.how_it_runs() == ["the agent is not loaded"]
    assert launchd.run(launchd.told["_trishula_node_load"]) == ["enable", "bootstrap"]
    assert launchd.how_it_runs() == ["the agent is loaded"]
    assert launchd.run(launchd.handler("Restart the agent's node")) == ["kickstart"]
    assert launchd.run(launchd.handler("Load the agent anew")) == ["bootout", "enable", "bootstrap"]
    assert launchd.how_it_runs() == ["the agent is loaded"]
    assert launchd.run(launchd.told["_trishula_node_unload"]) == ["bootout"]
    assert launchd.how_it_runs() == ["the agent is not loaded"]


def test_a_node_is_older_than_what_it_was_started_with_when_that_has_changed(launchd: Launchd) -> None:
    launchd.let_files_age()
    launchd.run(launchd.told["_trishula_node_load"])
    launchd.touch_later(launchd.file)
    assert launchd.how_it_runs() == ["the agent is loaded", f"the node is older than {launchd.file}"]
    launchd.touch_later(launchd.plist)
    assert f"the agent is older than {launchd.plist}" in launchd.how_it_runs()


def test_what_is_older_than_its_files_is_restarted_and_what_is_older_than_its_plist_is_loaded_anew() -> None:
    notified = {
        str(task.data["vars"]): task.data["notify"]
        for task in all_tasks()
        if task.where.endswith("launchd_run.yml") and "notify" in task.data
    }
    assert [("the node is older than" in words, handler) for words, handler in notified.items()] == [
        (False, "Load the agent anew"),
        (True, "Restart the agent's node"),
    ]


def test_who_leaves_or_is_uninstalled_is_unloaded() -> None:
    assert "launchd_stop.yml" in str(load(ROOT / "roles/trishula_node/tasks/launchd_uninstall.yml"))
    (stop,) = load(ROOT / "roles/trishula_node/tasks/launchd_stop.yml")
    assert stop["ansible.builtin.shell"]["cmd"] == "{{ _trishula_node_unload }}"


def test_on_the_way_back_is_all_that_the_node_ran_with_and_no_secret(macs: Site) -> None:
    told = macs.expressions("mac", "_trishula_node_goes_back", _trishula_node_release_dir=f"{HOME}/releases/x")
    back = told["_trishula_node_goes_back"]
    assert f"{LIBRARY}/LaunchAgents/trishula.node.plist" in back
    assert {f"{HOME}/node.toml", f"{HOME}/tls/node.crt", f"{HOME}/tls/node.key", f"{HOME}/current"} <= set(back)
    assert not [path for path in back if "credentials" in path]


def test_all_of_a_node_is_gone_after_uninstall_but_the_mailboxes(macs: Site) -> None:
    gone = macs.expressions("mac", "_trishula_node_leaves")["_trishula_node_leaves"]
    assert {f"{LIBRARY}/LaunchAgents/trishula.node.plist", "/Users/dhyana/.local/bin/trishula"} <= set(gone)
    assert {f"{HOME}/releases", f"{HOME}/current", f"{HOME}/node.toml", f"{HOME}/store", f"{HOME}/run"} <= set(gone)
    assert HOME not in gone
    assert not [path for path in gone if "mailboxes" in path]


def test_tasks_of_launchd_ask_systemd_and_root_for_nothing() -> None:
    files = [*ROOT.glob("roles/*/tasks/launchd_*.yml"), *ROOT.glob("roles/*/tasks/macos*.yml")]
    assert len(files) >= 8
    for path in files:
        assert not re.search(r"systemctl|systemd|journalctl|owner: root|become|\bapt\b|getent", path.read_text()), path


def test_what_is_otherwise_on_a_mac_is_so_for_whoever_is_in_the_group() -> None:
    wiring = load(ROOT / "playbooks/group_vars/trishula_macos.yml")
    assert wiring["ansible_become"] is False


# ── What is asked of it first ───────────────────────────────────────────────────────────────────────────────────────


def refusal(folder: Path, tasks: str, registered: dict[str, Any], **facts: Any) -> list[str]:
    """What a file of tasks refuses the Mac for."""
    return refusals(inventory(folder, **facts), tasks, registered, "mac")


PREFLIGHT = "playbooks/preflight.yml"
MACOS = "playbooks/tasks/macos.yml"
HOME_DIR = "/Users/dhyana"
NODE = "roles/trishula_node/tasks"


def test_a_mac_that_is_ready_is_taken(tmp_path: Path) -> None:
    answered = raw(PREFLIGHT, tmp_path, uname="Darwin", id="501") | raw(MACOS, tmp_path, HOME_DIR, id="dhyana")
    answered |= {"__trishula_node_session": {"rc": 0}, "__trishula_node_python": {"stdout_lines": ["3.12"]}}
    for tasks in (PREFLIGHT, MACOS, f"{NODE}/launchd_preflight.yml", f"{NODE}/preflight.yml"):
        assert refusal(tmp_path, tasks, answered) == []


@pytest.mark.parametrize(
    ("facts", "what_to_do"),
    [
        ({"trishula_outbound_only": False}, "set 'trishula_outbound_only: true' for mac"),
        ({"trishula_agent_user": "somebody"}, "set trishula_agent_user to the login whose agents live there"),
        ({"trishula_agents": [{"name": "mac", "user": "openclaw"}]}, "Leave 'user' out for the agents of a Mac"),
    ],
)
def test_a_mac_that_can_take_no_node_is_told_why(tmp_path: Path, facts: dict[str, Any], what_to_do: str) -> None:
    [said] = refusal(tmp_path, MACOS, raw(MACOS, tmp_path, HOME_DIR, id="dhyana"), **facts)
    assert what_to_do in said


@pytest.mark.parametrize(
    ("commands", "what_to_do"),
    [
        ({"uname": "Linux"}, "mac is a Linux, and in the group trishula_macos: take it out there"),
        ({"uname": "Darwin", "python3": "3.9"}, "Install one ('brew install python@3.12')"),
    ],
    ids=["a Linux", "an old Python"],
)
def test_what_is_no_mac_that_can_take_a_node_is_told_so(
    tmp_path: Path, commands: dict[str, str], what_to_do: str
) -> None:
    [said] = refusal(tmp_path, PREFLIGHT, raw(PREFLIGHT, tmp_path, **commands))
    assert what_to_do in said


@pytest.mark.parametrize(
    ("tasks", "answered", "what_to_do"),
    [
        ("launchd_preflight.yml", {"__trishula_node_session": {"rc": 112}}, "is not logged in at the screen of mac"),
        (
            "preflight.yml",
            {"__trishula_node_python": {"stdout_lines": ["3.12", "nginx 80 host"]}},
            "in use by something else: nginx 80",
        ),
    ],
    ids=["no session", "the port is taken"],
)
def test_a_mac_that_is_not_ready_is_told_what_to_do(
    tmp_path: Path, tasks: str, answered: dict[str, Any], what_to_do: str
) -> None:
    [said] = refusal(tmp_path, f"{NODE}/{tasks}", answered)
    assert what_to_do in " ".join(said.split())


@pytest.mark.parametrize("ours", [True, False])
def test_a_port_is_taken_by_whoever_is_not_our_node(launchd: Launchd, *, ours: bool) -> None:
    command = launchd.told["_trishula_node_ask_for_the_port.launchd"]
    launchd.run(launchd.told["_trishula_node_load"])
    pid = json.loads((launchd.folder / "trishula.node.json").read_text())["pid"] if ours else 80
    lsof = launchd.folder / "lsof"
    lsof.write_text(f"#!/bin/sh\necho COMMAND PID USER\necho nginx {pid} host\n")
    lsof.chmod(0o755)
    said = subprocess.check_output(["bash", "-c", command], env=launchd.environment, text=True)
    assert said == ("" if ours else "nginx 80 host\n")
