"""rsync's keys, rooms and commands as the role writes them, and what it says of a host that would turn peers away."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.conftest import filters

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from tests.contract.conftest import Site

ROOMS = "/var/lib/trishula/fallback"
FINE = """\
it has rsync
it has rrsync
it has sshd
it has include
port 22
authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2
pubkeyacceptedalgorithms ssh-ed25519-cert-v01@openssh.com,ssh-ed25519,rsa-sha2-512
### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in
"""


@pytest.fixture(scope="module")
def fallback() -> ModuleType:
    return filters("trishula_fallback")


@pytest.fixture(scope="module")
def with_rsync(site: Site) -> Site:
    return site.rendered_with(trishula_fallback_enabled=True)


def keys(site: Site, host: str) -> list[tuple[str, ...]]:
    """Of each line of authorized_keys: rrsync's words, and whose key it is."""
    line = re.compile(
        r'restrict,command="umask 027; (?:test .*; )?exec timeout --kill-after=5 60 /usr/bin/rrsync (.*)" '
        r"ssh-ed25519 AAAA(\S+) (\S+) (push|pull)"
    )
    found = [line for line in site.rendered(host, "authorized_keys").splitlines() if line and not line.startswith("#")]
    matches = [line.fullmatch(text) for text in found]
    assert None not in matches, found
    return [match.groups() for match in matches if match]


def test_a_key_adds_to_its_own_room_or_reads_it_and_no_more(with_rsync: Site) -> None:
    assert {host: keys(with_rsync, host) for host in with_rsync.hosts} == {
        "mac": [],
        "agni": [
            (f"-wo -munge -no-del {ROOMS}/mac/in", "macpush", "mac", "push"),
            (f"-ro {ROOMS}/mac/out", "macpull", "mac", "pull"),
            (f"-wo -munge -no-del {ROOMS}/rushabdev/in", "rushabdevpush", "rushabdev", "push"),
        ],
        "rushabdev": [
            (f"-wo -munge -no-del {ROOMS}/agni/in", "agnipush", "agni", "push"),
            (f"-wo -munge -no-del {ROOMS}/mac/in", "macpush", "mac", "push"),
            (f"-ro {ROOMS}/mac/out", "macpull", "mac", "pull"),
        ],
    }


@pytest.mark.parametrize(("there", "comes", "fails"), [("1K", "1M", 0), ("2M", "1M", 1), ("1K", "80M", 1)])
def test_nobody_adds_to_a_room_that_is_full_or_what_is_too_large_for_a_frame(
    site: Site, tmp_path: Path, there: str, comes: str, fails: int
) -> None:
    keys = site.rendered_with(trishula_fallback_enabled=True, trishula_fallback_room_megabytes=2)
    (command,) = re.findall(r'command="([^"]*)exec [^"]*/mac/in"', keys.rendered("agni", "authorized_keys"))
    room = tmp_path / "mac" / "in"
    room.mkdir(parents=True)
    subprocess.run(["fallocate", "-l", there, room / ".x"], check=True)
    words = f"{command.replace(ROOMS, str(tmp_path))} truncate -s {comes} {room}/y"
    assert bool(subprocess.run(["sh", "-c", words], check=False).returncode) == fails


def test_what_one_does_the_other_expects(with_rsync: Site) -> None:
    sides = {
        (host, peer["name"]): peer
        for host in with_rsync.hosts
        for peer in with_rsync.argument(host, "trishula_fallback_peers")
    }
    for (here, there), peer in sides.items():
        assert peer["sync"] == sides[there, here]["comes"]
    # Of every pair at least one goes, and the one behind NAT does all of it.
    assert {pair: peer["sync"] for pair, peer in sides.items()} == {
        ("mac", "agni"): "push+pull",
        ("mac", "rushabdev"): "push+pull",
        ("agni", "mac"): "none",
        ("rushabdev", "mac"): "none",
        ("agni", "rushabdev"): "push",
        ("rushabdev", "agni"): "push",
    }


def test_the_node_is_told_what_the_keys_allow(with_rsync: Site) -> None:
    for host in with_rsync.hosts:
        told = {peer["name"]: peer["sync"] for peer in with_rsync.argument(host, "trishula_fallback_peers")}
        text = with_rsync.rendered(host, "node.toml")
        assert dict(re.findall(r'\[peers\.(\S+)\](?:\n.+)*\nsync = "(.*)"', text)) == told
        assert f'[fallback]\ndir = "{ROOMS}"\nssh_config = "/etc/trishula/fallback/ssh_config"\n' in text


def test_ssh_knows_the_hosts_that_the_node_goes_to_each_by_its_own_keys(with_rsync: Site) -> None:
    for host in with_rsync.hosts:
        goes = {
            peer["name"]: peer["sync"].split("+")
            for peer in with_rsync.argument(host, "trishula_fallback_peers")
            if peer["sync"] != "none"
        }
        config = with_rsync.rendered(host, "ssh_config")
        blocks = re.findall(r"^Host trishula-(push|pull)-(\S+)\n((?:    .+\n)+)", config, re.MULTILINE)
        assert [(peer, key) for key, peer, _ in blocks] == [(peer, key) for peer in goes for key in goes[peer]]
        for key, peer, told in blocks:
            assert f"    HostKeyAlias {peer}\n    IdentityFile /etc/trishula/fallback/{key}\n" in told
            assert f"    ControlPath /run/trishula/ssh/{key}-%C\n" in told
        known = with_rsync.rendered(host, "known_hosts").splitlines()
        assert known == [
            f"{peer} {kind} AAAA{peer}host" for peer in goes for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256")
        ]


def test_a_host_is_known_by_its_key_or_not_at_all(with_rsync: Site) -> None:
    config = with_rsync.rendered("mac", "ssh_config").split("\nHost *\n")[1]
    told = dict(line.split(maxsplit=1) for line in config.splitlines() if not line.strip().startswith("#"))
    assert told["StrictHostKeyChecking"] == "yes"
    assert told["UserKnownHostsFile"] == "/etc/trishula/fallback/known_hosts"
    assert told["GlobalKnownHostsFile"] == "none"
    assert told["UpdateHostKeys"] == "no"
    assert told["IdentitiesOnly"] == "yes"


def test_the_socket_of_a_warm_connection_has_a_path_that_is_short_enough(site: Site) -> None:
    # sun_path, less the suffix that ssh appends while it makes one.
    longest = f"{site.argument('mac', 'trishula_fallback_control_dir')}/push-{40 * 'x'}"
    assert len(longest) <= 107 - 17


def test_rooms_are_the_nodes_and_the_account_adds_to_one_folder_and_reads_one(with_rsync: Site) -> None:
    def rooms(host: str) -> dict[str, tuple[str, ...]]:
        lines = with_rsync.hosts[host]["templates"]["trishula_fallback"]["tmpfiles.conf"].splitlines()
        return {line.split()[1]: tuple(line.split()[2:]) for line in lines if line.startswith(f"d {ROOMS}")}

    assert rooms("agni") == {
        ROOMS: ("0710", "trishula", "trishula-sync"),
        **{
            f"{ROOMS}/{peer}{folder}": rights
            for peer in ("mac", "rushabdev")
            for folder, rights in {
                "": ("0710", "trishula", "trishula-sync"),
                "/in": ("2770", "trishula", "trishula-sync", "cC:1d"),
                "/out": ("2750", "trishula", "trishula-sync"),
                "/rejected": ("0700", "trishula", "trishula"),
            }.items()
        },
    }
    assert {rights[2] for rights in rooms("mac").values()} == {"trishula"}


def test_the_service_is_in_the_accounts_group_where_peers_come(with_rsync: Site) -> None:
    groups = {
        host: re.findall(
            r"^# Its account is a member of them: ([^.]*)\.",
            with_rsync.rendered(host, "trishula-node.service"),
            re.MULTILINE,
        )
        for host in with_rsync.hosts
    }
    assert groups == {
        "mac": ["openclaw dhyana"],
        "agni": ["openclaw trishula-sync"],
        "rushabdev": ["openclaw trishula-sync"],
    }


def test_sshd_gives_the_account_nothing_but_its_keys(with_rsync: Site) -> None:
    text = with_rsync.rendered("agni", "sshd.conf")
    head, *told = [line for line in text.splitlines() if not line.startswith("#")]
    assert head == "Match User trishula-sync"
    terms = dict(line.split(maxsplit=1) for line in told)
    assert terms["AuthorizedKeysFile"] == "/etc/ssh/authorized_keys.d/trishula-sync"
    assert terms["AuthenticationMethods"] == "publickey"
    assert terms["DisableForwarding"] == "yes"
    assert terms["PermitTTY"] == "no"


# ── Without it ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_it_the_node_is_told_nothing_of_it(site: Site) -> None:
    told = site.rendered_with(trishula_fallback_enabled=False)
    for host in told.hosts:
        assert not re.search("fallback|sync|transport|unsigned", told.rendered(host, "node.toml"))
        assert not re.search("trishula-sync|trishula/ssh", told.rendered(host, "trishula-node.service"))


# ── Whose keys ──────────────────────────────────────────────────────────────────────────────────────────────────────


def peer(name: str, *public_keys: str, sync: str = "push", comes: str = "push+pull") -> dict[str, Any]:
    return {"name": name, "sync": sync, "comes": comes, "public_keys": list(public_keys)}


HERE = """\
# Ansible managed
restrict,command="umask 027; rrsync" ssh-ed25519 AAAAold1 agni push
restrict,command="umask 027; rrsync" ssh-ed25519 AAAAold2 agni pull
agni ssh-ed25519 AAAAold3
"""


def test_what_a_host_says_now_takes_the_place_of_what_it_said_before(fallback: ModuleType) -> None:
    said = peer("agni", "push ssh-ed25519 AAAAnew1", "pull ssh-ed25519 AAAAnew2", "host ssh-ed25519 AAAAnew3")
    new = {"push": "ssh-ed25519 AAAAnew1", "pull": "ssh-ed25519 AAAAnew2", "host": ["ssh-ed25519 AAAAnew3"]}
    assert fallback.peer_keys([said], HERE) == {"agni": new}


def test_of_a_host_that_was_not_asked_what_is_here_stays(fallback: ModuleType) -> None:
    keys = fallback.peer_keys([peer("agni"), peer("mac")], HERE)
    assert keys == {
        "agni": {"push": "ssh-ed25519 AAAAold1", "pull": "ssh-ed25519 AAAAold2", "host": ["ssh-ed25519 AAAAold3"]},
        "mac": {"host": []},
    }
    assert fallback.without_keys([peer("agni"), peer("mac")], keys) == ["mac"]


def test_who_neither_comes_nor_is_gone_to_needs_no_keys(fallback: ModuleType) -> None:
    nobody = peer("mac", sync="none", comes="none")
    assert fallback.without_keys([nobody], fallback.peer_keys([nobody], "")) == []


@pytest.mark.parametrize(
    "line",
    [
        'push ssh-ed25519 AAAA",command="sh',
        "push ssh-ed25519 AAAA\nssh-ed25519 AAAB",
        "shell ssh-ed25519 AAAA",
        "push no-pty ssh-ed25519 AAAA",
    ],
)
def test_a_host_cannot_smuggle_more_than_a_key_into_another_ones_list(fallback: ModuleType, line: str) -> None:
    with pytest.raises(ValueError, match="the host of agni said something that is no public key"):
        fallback.peer_keys([peer("agni", line)], "")


# ── What would turn peers away ──────────────────────────────────────────────────────────────────────────────────────


def test_a_host_as_debian_makes_it_is_fine(fallback: ModuleType) -> None:
    assert fallback.obstacles(FINE, "trishula-sync", [22]) == []


@pytest.mark.parametrize(
    ("also", "said"),
    [
        (
            "allowusers root\nallowusers deploy@203.0.113.*",
            "lets in the users root deploy@203.0.113.* only (AllowUsers)",
        ),
        ("allowgroups sudo", "lets in the groups sudo only (AllowGroups): add the group trishula-sync to that line"),
        ("denyusers trishula-*", "turns the user trishula-sync away (DenyUsers trishula-*)"),
        ("denygroups *", "turns the group trishula-sync away (DenyGroups *)"),
        ("### tuple ### limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", "ufw has a 'limit' on ssh"),
        ("### tuple ### limit any 22 ::/0 any ::/0 in", "ufw has a 'limit' on ssh"),
        ("### tuple ### limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 OpenSSH - in", "ufw has a 'limit' on 'OpenSSH'"),
        ("### tuple ### limit tcp 20:30 0.0.0.0/0 any 0.0.0.0/0 in", "ufw has a 'limit' on 20:30"),
        ("### tuple ### limit any any 0.0.0.0/0 any 203.0.113.0/24 in", "ufw has a 'limit' on any"),
    ],
)
def test_what_turns_peers_away_is_named_once_with_what_to_do(fallback: ModuleType, also: str, said: str) -> None:
    [sentence] = fallback.obstacles(f"{FINE}{also}\n", "trishula-sync", [22])
    assert said in sentence


@pytest.mark.parametrize(
    "also",
    [
        "allowusers root\nallowusers trishula-*",
        "allowgroups sudo\nallowgroups trishula-sync",
        "denyusers nobody",
        "### tuple ### limit tcp 443 0.0.0.0/0 any 0.0.0.0/0 in",
        "### tuple ### limit udp 22 0.0.0.0/0 any 0.0.0.0/0 in",
        "### tuple ### limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 out",
    ],
)
def test_what_lets_them_in_is_no_obstacle(fallback: ModuleType, also: str) -> None:
    assert fallback.obstacles(f"{FINE}{also}\n", "trishula-sync", [22]) == []


def test_a_file_that_prints_at_each_login_is_named_with_what_it_prints(fallback: ModuleType) -> None:
    [sentence] = fallback.obstacles(f"{FINE}it prints Welcome to agni\n", "trishula-sync", [22])
    assert "/etc/ssh/sshrc prints 'Welcome to agni' at each login" in sentence
    assert 'test -n "$SSH_TTY" || exit 0' in sentence


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("it has rrsync\n", "rsync is there and /usr/bin/rrsync is not"),
        ("it has sshd\n", "There is no sshd. Install it: 'apt-get install openssh-server'"),
        (
            "it has include\n",
            "for the keys of trishula-sync in .ssh/authorized_keys .ssh/authorized_keys2 (AuthorizedKeysFile)",
        ),
        ("ssh-ed25519,", "takes no key of the kind ssh-ed25519"),
    ],
)
def test_what_is_missing_is_named_too(fallback: ModuleType, missing: str, said: str) -> None:
    [sentence] = fallback.obstacles(FINE.replace(missing, ""), "trishula-sync", [22])
    assert said in sentence


def test_a_host_without_rsync_gets_it(fallback: ModuleType) -> None:
    said = FINE.replace("it has rsync\n", "").replace("it has rrsync\n", "")
    assert fallback.obstacles(said, "trishula-sync", [22]) == []


def test_what_sshd_says_otherwise_than_it_was_told_is_found(fallback: ModuleType) -> None:
    terms = {"AuthorizedKeysFile": "/etc/ssh/authorized_keys.d/trishula-sync", "PermitTTY": "no", "Unheard": "x"}
    said = "port 22\nauthorizedkeysfile /srv/keys/%u\npermittty no\n"
    assert fallback.otherwise(said, terms) == [
        "AuthorizedKeysFile is /srv/keys/%u and not /etc/ssh/authorized_keys.d/trishula-sync"
    ]
