"""uninstall.yml, held against a host of the same image on which TRISHULA never was."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from faults.breaking import cut_off
from topology.nodes import MAILBOXES, UNITS, eventually

if TYPE_CHECKING:
    from operations.operator import Operator
    from topology.nodes import Node

BARE = "trishula-bare"

# All that a host says of itself, a line each. What is no trace of anybody is left out: logs, caches, the state of
# services of the system, and what each host makes for itself at its first boot.
PORTRAIT = r"""
for kind in passwd group shadow gshadow; do getent $kind | sed "s/^/$kind /"; done
dpkg-query --show --showformat='package ${Package} ${db:Status-Status}\n'
apt-mark showmanual | sed 's/^/manual /'
systemctl list-unit-files --no-legend --no-pager | awk '{print "unit", $1, $2}'
systemctl --failed --no-legend --no-pager --plain | awk '{print "failed", $1}'
ufw status verbose | sed 's/^/ufw /'
ufw show added | sed 's/^/ufw /'
for dir in /var/spool/cron /etc/cron.d /etc/cron.daily; do find $dir -type f 2>/dev/null | sed 's/^/cron /'; done
ss -Hltun | awk '$5 !~ /^127.0.0.11:/ {print "listens", $1, $5}'
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp \
  -o -path /var/log -o -path /var/cache -o -path /var/lib/apt/lists -o -path /var/lib/systemd -o -path /var/lib/dpkg \
  -o -name __pycache__ \) -prune -o ! -type d -printf 'file %p %u:%g %m %l\n' -o -printf 'folder %p %u:%g %m\n'
find /run /tmp /var/tmp -iname '*trishula*' -printf 'file %p\n'
find /etc -xdev -type f -exec sha256sum {} + | awk '{print "content", $2, $1}'
"""

# What Docker and the first boot write, and ufw writes anew when it is switched on and off; not what is in it.
ITS_OWN = (
    "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/mtab", "/etc/machine-id", "/etc/ssh/ssh_host_",
    "/.dockerenv", "/etc/ufw/", "/etc/default/ufw", "/root/.ansible", "/var/lib/dbus/machine-id", "/etc/passwd-",
    "/etc/group-", "/etc/shadow-", "/etc/gshadow-",
)  # fmt: skip


# What prepare.yml has put there for an old file sync, and adopt.yml has switched off.
OLD_SYNC = ("/home/openclaw/trishula", "/var/spool/cron", "/etc/systemd/system/fetch-mail", "fetch-mail")
COPIES = "/var/backups/trishula-adopt"
"""Of the old sync, as adopt.yml has found it: who takes the mesh off may want it back."""


def portrait(lines: str) -> set[str]:
    left_out = ITS_OWN + OLD_SYNC
    return {line for line in lines.splitlines() if not line.split(" ", 1)[-1].startswith(left_out)}


@pytest.fixture(scope="module")
def bare() -> Iterator[set[str]]:
    """What a host of the same image looks like that nobody has touched."""
    docker = ["docker", "run", "--detach", "--rm", "--name", BARE, "--network", "none", "--cgroupns", "host"]
    docker += [f"--cap-add={name}" for name in ("NET_ADMIN", "NET_RAW", "SYS_ADMIN")]
    docker += [
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--tmpfs=/run",
        "--tmpfs=/run/lock",
    ]
    docker += ["--tmpfs=/tmp:exec", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "trishula/host"]
    subprocess.run(["docker", "rm", "--force", BARE], check=False, capture_output=True)
    subprocess.run(docker, check=True, stdout=subprocess.DEVNULL)
    try:
        inside = ["docker", "exec", BARE]
        booted = [*inside, "systemctl", "is-system-running", "--wait"]
        eventually(lambda: b"running" in subprocess.run(booted, check=False, capture_output=True).stdout, within=30)
        said = subprocess.run([*inside, "sh", "-c", PORTRAIT], check=True, capture_output=True, text=True)
        yield portrait(said.stdout)
    finally:
        subprocess.run(["docker", "rm", "--force", BARE], check=True, stdout=subprocess.DEVNULL)


def old_folder(node: Node, name: str) -> set[str]:
    """The files in the folder of the old sync, with what is in them."""
    find = f"cd /home/openclaw/{name} 2>/dev/null && find . -type f ! -name .taken-over -exec sha256sum {{}} +"
    return set(node.host.run(find).stdout.splitlines())


def mailbox_files(node: Node) -> set[str]:
    found: str = node.host.check_output(f"cd {MAILBOXES} && find . -type f -exec sha256sum {{}} +")
    return set(found.splitlines())


def test_a_dry_run_says_what_would_go_and_takes_nothing(mesh: dict[str, Node], operator: Operator) -> None:
    run = operator.run("playbooks/uninstall.yml", "--check")
    assert run.code == 0, run.said
    assert run.changes > 0
    for name, node in mesh.items():
        assert node.status()["node"] == name


def test_a_node_that_is_down_may_have_mail_that_nobody_can_see(mesh: dict[str, Node], operator: Operator) -> None:
    agni = mesh["agni"]
    agni.host.check_output(f"systemctl stop {UNITS}")
    try:
        run = operator.run("playbooks/uninstall.yml")
    finally:
        agni.host.check_output(f"systemctl start {UNITS}")
    assert run.code != 0
    assert run.changes == 0
    assert "The node on agni is not ready" in run.text
    assert "No host was touched" in run.text


def test_mail_that_is_on_its_way_is_not_thrown_away(mesh: dict[str, Node], operator: Operator) -> None:
    agni, rushabdev = mesh["agni"], mesh["rushabdev"]
    with cut_off(agni):
        eventually(lambda: agni.linked() == set(), within=15)
        sent = agni.run("trishula", "send", rushabdev.agents[0].name, "on its way", user=agni.agents[0].user)
        assert sent.rc == 0, sent.stderr
        run = operator.run("playbooks/uninstall.yml")
    assert run.code != 0
    assert run.changes == 0
    assert "agni has 1 messages that are not delivered yet" in run.text
    assert "No host was touched" in run.text


def test_it_leaves_the_mailboxes_as_their_agents_own_and_no_other_trace(
    mesh: dict[str, Node], bare: set[str], operator: Operator
) -> None:
    kept = {name: mailbox_files(node) for name, node in mesh.items()}
    assert kept["mac"]
    assert kept["agni"]
    aside = {name: old_folder(node, "trishula.before-*") for name, node in mesh.items()}
    assert aside["agni"]

    first = operator.run("playbooks/uninstall.yml", "-e", "drop_mail=true")
    assert first.code == 0, first.said
    assert first.changes > 0

    for name, node in mesh.items():
        assert old_folder(node, "trishula") == aside[name]  # as it was before the move
        assert old_folder(node, "trishula.before-*") == set()
    for name, node in mesh.items():
        assert mailbox_files(node) == kept[name]
        for agent in node.agents:
            strangers = f"find {agent.mailbox} ! ( -user {agent.user} -group {agent.group} )"
            assert node.run(*strangers.split()).stdout == ""
            assert node.run("ls", f"{agent.mailbox}/inbox", user=agent.user).rc == 0
        found = portrait(said(node))
        kept_here = {line for line in found - bare if MAILBOXES not in line and COPIES not in line}
        assert kept_here == {"folder /var/lib/trishula root:root 711"}, name
        assert bare - found == set(), name


def said(node: Node) -> str:
    run = node.run("sh", "-c", PORTRAIT)
    assert run.rc == 0, run.stderr
    return str(run.stdout)


def test_a_second_run_finds_nothing_to_do(operator: Operator) -> None:
    run = operator.run("playbooks/uninstall.yml")
    assert (run.code, run.changes) == (0, 0), run.said


def test_the_mailboxes_go_when_they_are_told_to(mesh: dict[str, Node], bare: set[str], operator: Operator) -> None:
    run = operator.run("playbooks/uninstall.yml", "-e", "remove_mailboxes=true")
    assert run.code == 0, run.said
    for name, node in mesh.items():
        assert portrait(said(node)) == bare, name
