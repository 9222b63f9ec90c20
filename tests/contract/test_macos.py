"""A Mac as the laptop, as far as a Linux machine can try it: rendered, and put on a host that says it is one.

The host is this machine with the answers of a Mac (`mac/`): uname, plutil, and a launchctl that runs what it is given.
"""

from __future__ import annotations

import base64
import getpass
import grp
import json
import os
import plistlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.contract.conftest import ROOT, Site, load

from trishula.places import on_macos

if TYPE_CHECKING:
    from collections.abc import Iterator

FAKES = Path(__file__).with_name("mac")
LIBRARY = "/Users/dhyana/Library"
HOME = f"{LIBRARY}/Application Support/TRISHULA"
MAC = {
    "trishula_outbound_only": True,
    "trishula_always_on": False,
    "trishula_agent_user": "dhyana",
    "trishula_agents": [{"name": "mac"}, {"name": "dhyana"}],
}


def inventory(folder: Path, **mac: Any) -> Path:
    """A Mac and two servers, in a group whose hosts are reached as root."""
    servers = {
        name: {"trishula_address": address, "trishula_agents": [{"name": name}]}
        for name, address in (("agni", "127.0.0.2"), ("rushabdev", "127.0.0.3"))  # nobody is there
    }
    common = {
        "ansible_user": "root",
        "ansible_become": True,
        "trishula_port": 18765,
        "trishula_agent_user": "openclaw",
        "trishula_fallback_enabled": True,
    }
    hosts = folder / "hosts.yml"
    facts = {name: value for name, value in (MAC | mac).items() if value is not None}
    mesh = {"hosts": {"mac": facts, **servers}, "vars": common}
    hosts.write_text(yaml.safe_dump({"trishula": mesh, "trishula_macos": {"hosts": {"mac": None}}}))
    return hosts


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


# ── What runs on it ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_tasks_of_launchd_ask_systemd_and_root_for_nothing() -> None:
    files = [*ROOT.glob("roles/*/tasks/launchd_*.yml"), *ROOT.glob("roles/*/tasks/macos*.yml")]
    assert len(files) >= 8
    for path in files:
        assert not re.search(r"systemctl|systemd|journalctl|owner: root|become|\bapt\b|getent", path.read_text()), path


def test_what_is_otherwise_on_a_mac_is_so_for_whoever_is_in_the_group() -> None:
    wiring = load(ROOT / "playbooks/group_vars/trishula_macos.yml")
    assert wiring["ansible_become"] is False


class FakeMac:
    """This machine, with the answers of a Mac and a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Path(tempfile.mkdtemp(prefix="mac"))  # not in `folder`: the path of a socket is short
        self.own = self.home / "Library" / "Application Support" / "TRISHULA"
        self.login = getpass.getuser() if os.getuid() else "daemon"
        self.state = folder / "launchd"
        self.rc = 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        for path in (self.state, folder / "bin", folder / "secrets"):
            path.mkdir()
        for tool in ("launchctl", "plutil"):
            (folder / "bin" / tool).symlink_to(FAKES / tool)
        self.command("uname", "echo Darwin")
        self.command("sudo", f"touch {folder}/sudo; exit 1")
        if os.getuid() == 0:
            self.command("id", f'test "$1" = -un && echo {self.login} || exec /usr/bin/id "$@"')
        secret = base64.b64encode(os.urandom(32)).decode()
        (folder / "secrets" / "mesh.yml").write_text(f"mesh_secret: {secret}\n")
        key, ca = folder / "secrets" / "ca.key", folder / "secrets" / "ca.crt"
        subject = ["-subj", "/CN=TRISHULA mesh CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        subprocess.run(
            ["openssl", "req", "-x509", *curve, "-nodes", "-keyout", key, "-out", ca, *subject, "-days", "99"],
            check=True,
            capture_output=True,
        )

    def command(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def play(
        self, *playbooks: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None, **mac: Any
    ) -> str:
        """Run playbooks on it. Returns what was said, in one line; the answer code is in `rc`."""
        hosts = inventory(
            self.folder,
            **{
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "trishula_port": self.port,
                "trishula_agent_user": self.login,
                "trishula_home": str(self.home),
                "trishula_node_python": sys.executable,
                "trishula_install_source": "index",
                "trishula_node_artifacts_dir": str(self.folder / "dist"),
                "_site_group": grp.getgrgid(os.getgid()).gr_name,
            }
            | mac,
        )
        run = subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                *("-i", hosts, "--limit", "mac", *options),
                *(f"playbooks/{name}.yml" for name in playbooks),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
                "FAKE_MAC": str(self.state),
                "HOME": str(self.home),
                "TRISHULA_SOCKET": str(self.own / "run/node.sock"),  # here the command looks where Linux has it
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "COLUMNS": "1000",
            }
            | (env or {}),
            capture_output=True,
            text=True,
            check=False,
        )
        self.rc = run.returncode
        return run.stdout + run.stderr

    def calls(self) -> list[str]:
        """What launchctl was told since this was asked last, but for questions."""
        file = self.state / "calls"
        told = file.read_text().splitlines() if file.exists() else []
        file.write_text("")
        return [call.split()[0] for call in told if not call.startswith("print")]

    def status(self) -> dict[str, Any]:
        run = [self.home / ".local/bin/trishula", "status", "--json", "--socket", self.own / "run/node.sock"]
        return json.loads(subprocess.check_output(run))

    def gone(self) -> None:
        tell = [FAKES / "launchctl", "bootout", "gui/501/trishula.node"]
        subprocess.run(tell, env={**os.environ, "FAKE_MAC": str(self.state)}, check=False)
        shutil.rmtree(self.home)


@pytest.fixture
def mac(tmp_path: Path) -> Iterator[FakeMac]:
    """A new one."""
    fake = FakeMac(tmp_path)
    yield fake
    fake.gone()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeMac]:
    """One on which a node was put. Whoever changes it puts it back."""
    fake = FakeMac(tmp_path_factory.mktemp("installed"))
    try:
        said = fake.play(*SITE)
        assert fake.rc == 0, said
        yield fake
    finally:
        fake.gone()


SITE = ("preflight", "leave", "deploy", "fallback")


def test_a_check_with_the_facts_of_a_mac_ends_well_and_touches_nothing(mac: FakeMac) -> None:
    facts = {"ANSIBLE_FACTS_MODULES": "darwin_facts", "ANSIBLE_LIBRARY": str(FAKES)}
    said = mac.play(*SITE, options=("--check",), env=facts, trishula_install_source="controller")
    assert mac.rc == 0, said
    assert "would install" in said
    # The controller has fetched what fits a Mac, by the hashes of the lock.
    wheels = [wheel.name for wheel in (mac.folder / "dist" / "wheels").glob("*-macos-arm64/*.whl")]
    assert any(re.fullmatch(r"msgspec-.*-macosx_11_0_arm64\.whl", wheel) for wheel in wheels), wheels
    assert not any("linux" in wheel for wheel in wheels)
    assert not mac.own.exists()
    assert not (mac.home / "Library").exists()
    assert mac.calls() == []
    assert not (mac.folder / "sudo").exists()


def test_it_is_put_on_a_mac_without_root(installed: FakeMac) -> None:
    mac = installed
    assert mac.calls() == ["enable", "bootstrap"]
    assert not (mac.folder / "sudo").exists()
    status = mac.status()
    assert (status["node"], status["ready"]) == ("mac", True)
    assert sorted(status["agents"]) == ["dhyana", "mac"]
    assert sorted(status["peers"]) == ["agni", "rushabdev"]

    for path, mode in (("", 0o700), ("credentials", 0o700), ("mailboxes/dhyana/inbox", 0o700)):
        assert (mac.own / path).stat().st_mode & 0o777 == mode, path
    secrets = [*mac.own.glob("credentials/*"), *mac.own.glob("agents/*"), mac.own / "tls/node.key"]
    assert len(secrets) == 6
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    release = (mac.own / "current").resolve()
    assert release.parent == mac.own / "releases"
    assert (mac.home / ".local/bin/trishula").resolve() == release / "bin" / "trishula"
    assert (mac.home / "trishula").resolve() == mac.own / "mailboxes" / "mac"
    plist = plistlib.loads((mac.home / "Library/LaunchAgents/trishula.node.plist").read_bytes())
    assert plist["ProgramArguments"][0] == str(mac.own / "current/bin/trishula")


def test_nothing_changes_the_second_time_nor_in_a_check(installed: FakeMac) -> None:
    mac = installed
    mac.calls()
    for playbooks, options in ((SITE, ()), (("deploy",), ("--check",))):
        said = mac.play(*playbooks, options=options)
        assert mac.rc == 0, said
        assert re.search(r"^mac .* changed=0 ", said, re.MULTILINE), said
        assert mac.calls() == []


def test_it_is_restarted_for_what_the_process_reads_and_loaded_anew_for_the_plist(installed: FakeMac) -> None:
    mac = installed
    mac.calls()
    said = mac.play("deploy", trishula_limits={"max_message_bytes": 4096})
    assert mac.rc == 0, said
    assert mac.calls() == ["kickstart"]
    said = mac.play(
        "deploy", trishula_limits={"max_message_bytes": 4096}, trishula_node_log_dir=str(mac.folder / "log")
    )
    assert mac.rc == 0, said
    assert mac.calls() == ["bootout", "enable", "bootstrap"]


def test_what_does_not_come_up_goes_back_to_what_it_ran_with(installed: FakeMac) -> None:
    mac = installed
    before = (mac.own / "node.toml").read_text()
    mac.calls()
    # No address of this machine: what `trishula node check` can't know.
    said = mac.play("deploy", trishula_node_listen_address="192.0.2.77", gate_within=3)
    assert mac.rc != 0
    assert "taken back to what it ran with before" in said
    assert "can't listen on 192.0.2.77" in said
    assert (mac.own / "node.toml").read_text() == before
    assert mac.status()["ready"] is True
    assert mac.calls()[-3:] == ["bootout", "enable", "bootstrap"]


def test_its_secrets_are_rotated_by_three_restarts(installed: FakeMac) -> None:
    mac = installed
    mac.calls()
    said = mac.play("rotate_secrets", options=("-e", "rotate=mac", "-e", "older_than=0", "-e", "{_site_left_out: []}"))
    assert mac.rc == 0, said
    assert mac.calls() == ["kickstart"] * 3


def test_who_leaves_is_stopped_for_good_and_comes_back_by_the_site(installed: FakeMac) -> None:
    mac = installed
    mac.calls()
    hosts = mac.folder / "leaving.yml"
    hosts.write_text(yaml.safe_dump({"trishula_leaving": {"hosts": {"mac": None}}}))
    said = mac.play("leave", options=("-i", str(hosts)))
    assert mac.rc == 0, said
    assert mac.calls() == ["bootout", "disable"]
    said = mac.play("deploy")
    assert mac.rc == 0, said
    assert mac.calls() == ["enable", "bootstrap"]


def test_it_is_taken_off_again_and_the_mailboxes_stay(installed: FakeMac) -> None:  # the last to have that one
    mac = installed
    said = mac.play("uninstall")
    assert mac.rc == 0, said
    left = {str(path.relative_to(mac.home)) for path in mac.home.rglob("*") if "trishula" in path.name.lower()}
    assert left == {"Library/Application Support/TRISHULA"}
    assert [path.name for path in mac.own.iterdir()] == ["mailboxes"]
    assert mac.calls()[-1] == "bootout"
    said = mac.play("uninstall", options=("-e", "remove_mailboxes=true"))
    assert mac.rc == 0, said
    assert not mac.own.exists()


@pytest.mark.parametrize(
    ("facts", "what_to_do"),
    [
        ({"trishula_outbound_only": False}, "set 'trishula_outbound_only: true' for mac"),
        ({"trishula_agent_user": "somebody"}, "set trishula_agent_user to the login whose agents live there"),
        ({"trishula_agents": [{"name": "mac", "user": "openclaw"}]}, "Leave 'user' out for the agents of a Mac"),
    ],
)
def test_a_mac_that_can_take_no_node_is_told_why(mac: FakeMac, facts: dict[str, Any], what_to_do: str) -> None:
    said = mac.play("preflight", **facts)
    assert mac.rc != 0
    assert what_to_do in " ".join(said.split())
    assert mac.calls() == []


@pytest.mark.parametrize(
    ("command", "answer", "what_to_do"),
    [
        ("launchctl", "exit 112", "is not logged in at the screen of mac"),
        ("lsof", "echo COMMAND PID; echo nginx 80 host", "in use by something else: nginx 80"),
        ("uname", "echo Linux", "mac is a Linux, and in the group trishula_macos: take it out there"),
        ("python3", "echo 3.9", "Install one ('brew install python@3.12')"),
    ],
)
def test_a_mac_that_is_not_ready_is_told_what_to_do(mac: FakeMac, command: str, answer: str, what_to_do: str) -> None:
    (mac.folder / "bin" / command).unlink(missing_ok=True)
    mac.command(command, answer)
    python = {"trishula_node_python": None} if command == "python3" else {}
    said = mac.play("preflight", **python)
    assert mac.rc != 0
    assert what_to_do in " ".join(said.split())
