"""rsync between the hosts: what is there, what a key may do, and all that it may not, tried one by one."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import pytest

from topology.nodes import ROOMS, SERVICE, SSH_CONFIG, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testinfra.backend.base import CommandResult

    from topology.nodes import Node

ACCOUNT = "trishula-sync"
KEYS = "/etc/trishula/fallback"
AUTHORIZED = f"/etc/ssh/authorized_keys.d/{ACCOUNT}"
RSYNC = ["rsync", "--recursive", "--times", "--no-perms", "--omit-dir-times", "--timeout=10"]
SERVERS = ["agni", "rushabdev"]
PUSHES = [("mac", "agni"), ("mac", "rushabdev"), ("agni", "rushabdev"), ("rushabdev", "agni")]
PULLS = [("mac", "agni"), ("mac", "rushabdev")]
# A room that neither node looks into while a test does: files of the test have a name that no frame has.
MARK = ".trishula-test-"


def ssh(node: Node, *words: str) -> CommandResult:
    """ssh as the node's own rsync calls it, but over a connection of its own."""
    return node.run("timeout", "20", "ssh", "-F", SSH_CONFIG, "-o", "ControlPath=none", *words, user="trishula")


def rsync(node: Node, *words: str) -> CommandResult:
    shell = f"ssh -F {SSH_CONFIG} -o ControlPath=none"
    return node.run("timeout", "20", *RSYNC, "--rsh", shell, *words, user="trishula")


def public(node: Node, use: str) -> str:
    return node.read(f"{KEYS}/{use}.pub").decode().split()[1]


@pytest.fixture(params=PUSHES, ids="-".join)
def push(request: pytest.FixtureRequest, mesh: dict[str, Node]) -> tuple[Node, Node]:
    here, there = request.param
    return mesh[here], mesh[there]


@pytest.fixture(params=PULLS, ids="-".join)
def pull(request: pytest.FixtureRequest, mesh: dict[str, Node]) -> tuple[Node, Node]:
    here, there = request.param
    return mesh[here], mesh[there]


@pytest.fixture(autouse=True)
def _nothing_left(mesh: dict[str, Node]) -> Iterator[None]:
    yield
    for node in mesh.values():
        node.host.check_output(f"rm -rf /tmp/{MARK}* && find {ROOMS} -name '{MARK}*' -delete")
        # A push to /tmp made a folder of that name in the room, which its node would reject each time that it looks.
        node.host.check_output(f"find {ROOMS}/*/in -mindepth 1 -type d -empty ! -name '.*' -delete")


# ── What is there ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", SERVERS)
def test_these_keys_may_come_for_these_commands_and_no_others(mesh: dict[str, Node], name: str) -> None:
    node = mesh[name]
    (other,) = set(SERVERS) - {name}
    command = 'restrict,command="umask 027; {}exec timeout --kill-after=5 60 /usr/bin/rrsync {}" ssh-ed25519 {} {} {}'
    full = (
        f"test $(du -sm {ROOMS}/{{}}/in 2>/dev/null | cut -f1) -lt 1024 || "
        "{{ echo the room is full >&2; exit 1; }}; ulimit -f 140000; "
    )
    expected = [
        command.format(full.format(peer) if use == "push" else "", words, public(mesh[peer], use), peer, use)
        for peer, use, words in [
            ("mac", "push", f"-wo -munge -no-del {ROOMS}/mac/in"),
            ("mac", "pull", f"-ro {ROOMS}/mac/out"),
            (other, "push", f"-wo -munge -no-del {ROOMS}/{other}/in"),
        ]
    ]
    found = [line for line in node.read(AUTHORIZED).decode().splitlines() if line and not line.startswith("#")]
    assert sorted(found) == sorted(expected)
    assert node.rights(AUTHORIZED) == {f"root:{ACCOUNT} 640"}
    assert node.rights("/etc/ssh/authorized_keys.d") == {"root:root 755"}
    assert node.run("sh", "-c", f"echo >>{AUTHORIZED}", user=ACCOUNT).rc != 0


@pytest.mark.parametrize("name", SERVERS)
def test_sshd_gives_the_account_nothing_else(mesh: dict[str, Node], name: str) -> None:
    asked = mesh[name].host.check_output(f"sshd -T -C user={ACCOUNT},host=peer.invalid,addr=192.0.2.1")
    says = dict(line.split(" ", 1) for line in asked.splitlines())
    expected = {
        "authorizedkeysfile": AUTHORIZED,
        "authorizedkeyscommand": "none",
        "authenticationmethods": "publickey",
        "passwordauthentication": "no",
        "kbdinteractiveauthentication": "no",
        "hostbasedauthentication": "no",
        "trustedusercakeys": "none",
        "disableforwarding": "yes",
        "allowtcpforwarding": "no",
        "allowagentforwarding": "no",
        "allowstreamlocalforwarding": "no",
        "x11forwarding": "no",
        "permittunnel": "no",
        "permittty": "no",
        "permituserrc": "no",
        "forcecommand": "none",
        "chrootdirectory": "none",
        "clientaliveinterval": "5",
        "clientalivecountmax": "3",
    }
    assert {word: says[word] for word in expected} == expected


@pytest.mark.parametrize("name", SERVERS)
def test_what_sshd_gives_everybody_else_is_as_it_was(mesh: dict[str, Node], name: str) -> None:
    without_ours = (
        "rm -rf /run/plain && cp -r /etc/ssh /run/plain && rm /run/plain/sshd_config.d/*trishula*"
        " && sed -i s:/etc/ssh/sshd_config.d:/run/plain/sshd_config.d: /run/plain/sshd_config"
        " && sshd -T -f /run/plain/sshd_config"
    )
    mine, plain = (
        mesh[name].host.check_output(f"{command} -C user=root,host=peer.invalid,addr=192.0.2.1")
        for command in ("sshd -T", without_ours)
    )
    assert mine == plain


@pytest.mark.parametrize("name", SERVERS)
def test_the_account_has_no_password_and_owns_nothing_of_its_home(mesh: dict[str, Node], name: str) -> None:
    node = mesh[name]
    _, _, uid, _, _, home, shell = node.host.check_output(f"getent passwd {ACCOUNT}").split(":")
    assert (home, shell) == (ROOMS, "/bin/sh")
    assert 0 < int(uid) < 1000
    assert node.host.check_output(f"getent shadow {ACCOUNT}").split(":")[1] == "*"
    assert node.host.check_output(f"id -nG {ACCOUNT}") == ACCOUNT
    assert node.run("touch", f"{home}/x", user=ACCOUNT).rc != 0
    owns = f"find / -xdev -user {ACCOUNT} -not -path '{ROOMS}/*/in/*' -not -path '/proc/*' 2>/dev/null"
    assert node.host.run(owns).stdout == ""


def test_the_laptop_lets_nobody_in(mesh: dict[str, Node]) -> None:
    mac = mesh["mac"]
    assert mac.run("getent", "passwd", ACCOUNT).rc != 0
    for path in (AUTHORIZED, f"/etc/ssh/sshd_config.d/00-{ACCOUNT}.conf"):
        assert not mac.host.file(path).exists


def test_private_keys_are_the_nodes_and_were_made_where_they_are(mesh: dict[str, Node]) -> None:
    found: set[str] = set()
    for node in mesh.values():
        assert node.rights(KEYS) == {"root:trishula 750"}
        assert node.rights(f"{KEYS}/push", f"{KEYS}/pull") == {"trishula:trishula 600"}
        assert node.rights(f"{KEYS}/push.pub", f"{KEYS}/pull.pub", SSH_CONFIG, f"{KEYS}/known_hosts") <= {
            "root:trishula 640"
        }
        assert sorted(node.host.file(KEYS).listdir()) == [
            "known_hosts", "pull", "pull.pub", "push", "push.pub", "ssh_config",
        ]  # fmt: skip
        for use in ("push", "pull"):
            derived = node.host.check_output(f"ssh-keygen -y -f {KEYS}/{use}").split()[1]
            assert derived == public(node, use)
            found.add(derived)
        assert node.run("cat", f"{KEYS}/push", user=node.agents[0].user).rc != 0
    assert len(found) == 6


def test_rooms_let_the_account_add_to_one_folder_read_one_and_see_no_more(mesh: dict[str, Node]) -> None:
    for node in mesh.values():
        group = "trishula" if node.dials_only else ACCOUNT
        assert node.rights(ROOMS) == {f"trishula:{group} 710"}
        assert set(node.host.file(ROOMS).listdir()) == set(mesh) - {node.name}
        for peer in set(mesh) - {node.name}:
            room = f"{ROOMS}/{peer}"
            assert node.rights(room) == {f"trishula:{group} 710"}
            assert node.rights(f"{room}/in") == {f"trishula:{group} 2770"}
            assert node.rights(f"{room}/out") == {f"trishula:{group} 2750"}
            assert node.rights(f"{room}/rejected") == {"trishula:trishula 700"}
            if not node.dials_only:
                for command in (
                    f"ls {ROOMS}", f"ls {room}", f"touch {room}/out/{MARK}", f"touch {room}/{MARK}",
                    f"ls {room}/rejected",
                    f"rmdir {room}/in", f"chmod 777 {room}/in", "ls /var/lib/trishula/store", f"cat {KEYS}/push",
                    "ls /var/lib/trishula/mailboxes",
                ):  # fmt: skip
                    assert node.run(*command.split(), user=ACCOUNT).rc != 0, command


def test_hosts_are_known_by_their_own_keys(mesh: dict[str, Node]) -> None:
    for node in mesh.values():
        known = {tuple(line.split()[:3]) for line in node.read(f"{KEYS}/known_hosts").decode().splitlines()}
        goes_to = {there for here, there in PUSHES if here == node.name}
        assert {name for name, *_ in known} == goes_to
        for name in goes_to:
            theirs = mesh[name].host.check_output("cat /etc/ssh/ssh_host_*_key.pub").splitlines()
            assert {entry[1:] for entry in known if entry[0] == name} == {tuple(key.split()[:2]) for key in theirs}


# ── What a key does ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_pushed_is_there_for_the_node_to_read_and_remove(push: tuple[Node, Node]) -> None:
    here, there = push
    name = f"{MARK}pushed"
    here.run("sh", "-c", f"umask 077; echo {here.name} >/tmp/{name}", user="trishula")
    sent = rsync(here, f"/tmp/{name}", f"trishula-push-{there.name}:")
    assert sent.rc == 0, sent.stderr
    file = f"{ROOMS}/{here.name}/in/{name}"
    assert there.rights(file) == {f"{ACCOUNT}:{ACCOUNT} 600"}
    # A file that its sender closed to its group is its sender's loss. As a node's are, it is readable:
    here.run("sh", "-c", f"chmod 660 /tmp/{name}; echo again >>/tmp/{name}", user="trishula")
    assert rsync(here, f"/tmp/{name}", f"trishula-push-{there.name}:").rc == 0
    there.host.check_output(f"rm -f {file}")
    assert rsync(here, f"/tmp/{name}", f"trishula-push-{there.name}:").rc == 0
    assert there.rights(file) == {f"{ACCOUNT}:{ACCOUNT} 640"}
    as_the_node = ("setpriv", "--reuid=trishula", "--regid=trishula", f"--groups={ACCOUNT}")
    assert there.run(*as_the_node, "cat", file).stdout == f"{here.name}\nagain\n"
    assert there.run(*as_the_node, "rm", file).rc == 0


def test_what_lies_for_the_laptop_is_pulled_by_it(pull: tuple[Node, Node]) -> None:
    here, there = pull
    name = f"{MARK}pulled"
    there.run("sh", "-c", f"umask 007; echo {there.name} >{ROOMS}/{here.name}/out/{name}", user="trishula")
    assert there.rights(f"{ROOMS}/{here.name}/out/{name}") == {f"trishula:{ACCOUNT} 660"}
    got = rsync(here, f"trishula-pull-{there.name}:", f"{ROOMS}/{there.name}/in/")
    assert got.rc == 0, got.stderr
    assert here.read(f"{ROOMS}/{there.name}/in/{name}").decode() == f"{there.name}\n"
    assert there.host.file(f"{ROOMS}/{here.name}/out/{name}").exists


def test_a_warm_connection_serves_the_next_run_of_its_own_key_only(mesh: dict[str, Node]) -> None:
    mac = mesh["mac"]
    calls = [
        f"{' '.join(RSYNC)} --rsh 'ssh -F {SSH_CONFIG}' {words}"
        for words in (
            f"{ROOMS}/agni/out/ trishula-push-agni:",
            f"trishula-pull-agni: {ROOMS}/agni/in/",
            f"{ROOMS}/agni/out/ trishula-push-agni:",
        )
    ]
    unit = "--unit=trishula-test-warm -p User=trishula -p UMask=0007 --wait --pipe --collect --quiet"
    run = mac.run("systemd-run", *unit.split(), "sh", "-c", " && ".join([*calls, "ls /run/trishula/ssh"]))
    assert run.rc == 0, run.stderr
    assert {name.split("-")[0] for name in run.stdout.split()} >= {"push", "pull"}


# ── What a key does not ─────────────────────────────────────────────────────────────────────────────────────────────


def refused(run: CommandResult, *said: str) -> None:
    words = run.stdout + run.stderr
    assert run.rc not in (0, 124), words
    assert any(word in words for word in said), words


KEYED = [*(("push", *pair) for pair in PUSHES), *(("pull", *pair) for pair in PULLS)]


@pytest.mark.parametrize(("use", "here", "there"), KEYED)
def test_it_gives_no_shell_no_command_and_no_terminal(mesh: dict[str, Node], use: str, here: str, there: str) -> None:
    host = f"trishula-{use}-{there}"
    node = mesh[here]
    refused(ssh(node, host, "id"), "SSH_ORIGINAL_COMMAND does not run rsync")
    refused(ssh(node, host), "Not invoked via sshd", "SSH_ORIGINAL_COMMAND")
    refused(ssh(node, "-tt", "-o", "LogLevel=INFO", host, "sh"), "PTY allocation request failed")
    refused(ssh(node, host, "rsync --server . .; id"), "error")
    refused(ssh(node, host, "rsync --daemon --server ."), "error")
    refused(ssh(node, "-s", host, "sftp"), "")  # who asks for a subsystem is told nothing


@pytest.mark.parametrize(("use", "here", "there"), KEYED)
def test_it_gives_no_forwarding(mesh: dict[str, Node], use: str, here: str, there: str) -> None:
    host = f"trishula-{use}-{there}"
    node = mesh[here]
    refused(ssh(node, "-W", "127.0.0.1:22", host), "stdio forwarding failed")
    allowed = ["-o", "ClearAllForwardings=no", "-o", "ExitOnForwardFailure=yes", "-N"]
    refused(ssh(node, *allowed, "-R", "0:127.0.0.1:22", host), "remote port forwarding failed")
    refused(ssh(node, *allowed, "-R", f"/tmp/{MARK}s:127.0.0.1:22", host), "remote port forwarding failed")
    refused(ssh(node, "-w", "any:any", *allowed, host), "unnel")


def test_the_key_that_pushes_reads_nothing(push: tuple[Node, Node]) -> None:
    here, there = push
    there.host.check_output(f"echo secret >{ROOMS}/{here.name}/in/{MARK}x")
    for path in ("", f"{MARK}x", "../out/", "/etc/passwd"):
        refused(rsync(here, f"trishula-push-{there.name}:{path}", f"/tmp/{MARK}got/"), "write-only")
    refused(rsync(here, "--list-only", f"trishula-push-{there.name}:"), "write-only")


def test_the_key_that_pulls_writes_nothing_and_removes_nothing(pull: tuple[Node, Node]) -> None:
    here, there = pull
    here.run("touch", f"/tmp/{MARK}x", user="trishula")
    for path in ("", "../in/", "/tmp/"):
        refused(rsync(here, f"/tmp/{MARK}x", f"trishula-pull-{there.name}:{path}"), "read-only")
    there.run("sh", "-c", f"umask 007; echo >{ROOMS}/{here.name}/out/{MARK}y", user="trishula")
    refused(rsync(here, "--remove-source-files", f"trishula-pull-{there.name}:", f"/tmp/{MARK}got/"), "remove")
    assert there.host.file(f"{ROOMS}/{here.name}/out/{MARK}y").exists


def test_the_key_that_pushes_writes_nowhere_else(push: tuple[Node, Node], mesh: dict[str, Node]) -> None:
    here, there = push
    here.run("touch", f"/tmp/{MARK}stray", user="trishula")
    (third,) = set(mesh) - {here.name, there.name}
    places = ["../out/", "../", f"../../{third}/in/", "x/../../../", f"{ROOMS}/{third}/in/", "/tmp/", "/etc/cron.d/"]
    for place in places:
        rsync(here, f"/tmp/{MARK}stray", f"trishula-push-{there.name}:{place}")
    found = there.host.check_output(f"find / -xdev -name '{MARK}stray' -not -path '/proc/*'").split()
    assert [path for path in found if not path.startswith(f"{ROOMS}/{here.name}/in/")] == []


def test_the_key_that_pushes_removes_nothing(push: tuple[Node, Node]) -> None:
    here, there = push
    there.host.check_output(f"touch {ROOMS}/{here.name}/in/{MARK}stays")
    for delete in ("--delete", "--delete-excluded", "--remove-source-files"):
        run = rsync(here, delete, f"/tmp/{MARK}none/", f"trishula-push-{there.name}:")
        assert run.rc != 0
    here.run("mkdir", "-p", f"/tmp/{MARK}none", user="trishula")
    refused(rsync(here, "--delete", f"/tmp/{MARK}none/", f"trishula-push-{there.name}:"), "delete")
    assert there.host.file(f"{ROOMS}/{here.name}/in/{MARK}stays").exists


def test_a_link_that_is_pushed_leads_nowhere(push: tuple[Node, Node]) -> None:
    here, there = push
    folder = f"/tmp/{MARK}links"
    here.run("sh", "-c", f"mkdir {folder} && ln -s /etc/passwd {folder}/{MARK}link", user="trishula")
    rsync(here, "--links", f"{folder}/", f"trishula-push-{there.name}:")
    link = f"{ROOMS}/{here.name}/in/{MARK}link"
    assert there.host.run(f"readlink {link}").stdout.strip() in ("", "/rsyncd-munged//etc/passwd")
    assert there.run("cat", link).rc != 0


@pytest.mark.parametrize("user", ["root", "openclaw", "trishula"])
def test_a_key_opens_no_other_account(push: tuple[Node, Node], user: str) -> None:
    here, there = push
    for use in ("push", "pull"):
        other = ["-o", f"IdentityFile={KEYS}/{use}", f"{user}@trishula-push-{there.name}", "id"]
        refused(ssh(here, *other), "Permission denied")


def test_the_pull_key_of_a_server_opens_nothing(mesh: dict[str, Node]) -> None:
    for here, there in itertools.permutations(SERVERS, 2):
        where = ["-p", str(mesh[there].ssh_port), "-o", f"HostKeyAlias={there}", f"{ACCOUNT}@{there}"]
        tried = ssh(mesh[here], "-o", f"IdentityFile={KEYS}/pull", "-F", "/dev/null", *pinned(), *where, "id")
        refused(tried, "Permission denied")


def pinned() -> list[str]:
    return ["-o", f"UserKnownHostsFile={KEYS}/known_hosts", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]


def test_a_host_with_another_key_is_not_spoken_to(push: tuple[Node, Node]) -> None:
    here, there = push
    # The other host's name with a third one's keys: somebody who answers at its address.
    known = f"/tmp/{MARK}known"
    here.run("sh", "-c", f"sed 's/AAAA/AAAB/' {KEYS}/known_hosts >{known}", user="trishula")
    tried = ssh(here, "-o", f"UserKnownHostsFile={known}", f"trishula-push-{there.name}", "id")
    refused(tried, "verification failed")
    here.run("sh", "-c", f": >{known}", user="trishula")
    tried = ssh(here, "-o", f"UserKnownHostsFile={known}", f"trishula-push-{there.name}", "id")
    refused(tried, "verification failed")


@pytest.mark.parametrize("name", SERVERS)
def test_a_session_that_does_not_end_is_ended(mesh: dict[str, Node], name: str) -> None:
    # The bound itself, shortened: what the key is tied to, with a rsync that waits for ever behind it.
    node = mesh[name]
    line = next(line for line in node.read(AUTHORIZED).decode().splitlines() if "mac push" in line)
    command = re.search(r'command="([^"]*)"', line)
    assert command is not None
    short = command[1].replace("--kill-after=5 60", "--kill-after=1 1")
    assert short != command[1]
    env = "SSH_ORIGINAL_COMMAND=rsync --server -te.iLsfxCIvu . ."
    run = node.run("env", env, "SSH_CONNECTION=x", "timeout", "10", "sh", "-c", f"sleep 9 | ({short})", user=ACCOUNT)
    assert run.rc == 124, run.stderr


def test_ssh_comes_as_often_as_it_likes(mesh: dict[str, Node]) -> None:
    # Ten connections at once, and more than ufw's `limit` lets through in half a minute.
    mac = mesh["mac"]
    once = f"{' '.join(RSYNC)} --rsh 'ssh -F {SSH_CONFIG} -o ControlPath=none' trishula-pull-agni: {ROOMS}/agni/in/"
    for _ in range(8):
        run = mac.run("sh", "-c", once, user="trishula")
        assert run.rc == 0, run.stderr


def test_the_node_may_run_rsync_and_ssh_in_its_unit(mesh: dict[str, Node]) -> None:
    for node in mesh.values():
        told = node.properties(SERVICE, "RuntimeDirectory", "MainPID")
        assert told["RuntimeDirectory"].split() == ["trishula", "trishula/ssh"]
        groups = node.host.check_output(f"grep ^Groups: /proc/{told['MainPID']}/status").split()[1:]
        account = node.host.group(ACCOUNT)
        assert (account.exists and str(account.gid) in groups) == (not node.dials_only)
        eventually(lambda node=node: node.host.file("/run/trishula/ssh").is_directory, within=5)
