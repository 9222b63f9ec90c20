"""What ufw is told, who listens, and whom a firewall that denies by default would cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

SS = """\
udp UNCONN 0      0         127.0.0.11:58960      0.0.0.0:*
udp UNCONN 0      0      127.0.0.53%lo:53         0.0.0.0:*    users:(("systemd-resolve",pid=12,fd=13))
udp UNCONN 0      0    192.0.2.15%eth0:68         0.0.0.0:*    users:(("systemd-network",pid=11,fd=19))
udp UNCONN 0      0            0.0.0.0:5355       0.0.0.0:*    users:(("systemd-resolve",pid=12,fd=11))
udp UNCONN 0      0            0.0.0.0:51820      0.0.0.0:*
udp UNCONN 0      0    [fe80::1]%eth0:546           [::]:*     users:(("systemd-network",pid=11,fd=20))
tcp LISTEN 0      128          0.0.0.0:22         0.0.0.0:*    users:(("sshd",pid=46,fd=3))
tcp LISTEN 0      128             [::]:22            [::]:*    users:(("sshd",pid=46,fd=4))
tcp LISTEN 0      511                *:80               *:*    users:(("nginx",pid=70,fd=6),("nginx",pid=69,fd=6))
tcp LISTEN 0      511            [::1]:6379          [::]:*    users:(("redis-server",pid=80,fd=7))
tcp LISTEN 0      4096               *:8765             *:*    users:(("trishula",pid=99,fd=3),("systemd",pid=1,fd=40))
"""


def ports(found: list[dict[str, object]]) -> list[str]:
    return [f"{it['port']}/{it['proto']}" for it in found]


def test_only_what_others_can_reach_is_a_listener(firewall: ModuleType) -> None:
    assert ports(firewall.listeners(SS)) == [
        "22/tcp", "68/udp", "80/tcp", "546/udp", "5355/udp", "8765/tcp", "51820/udp",
    ]  # fmt: skip


def test_a_listener_has_the_name_of_its_process(firewall: ModuleType) -> None:
    named = {it["port"]: it["process"] for it in firewall.listeners(SS)}
    assert named[80] == "nginx"
    assert named[51820] == "the kernel or another namespace"


def test_what_is_neither_named_nor_let_in_is_cut_off(firewall: ModuleType) -> None:
    assert ports(firewall.cut_off(SS, ["22/tcp", "8765/tcp"])) == ["80/tcp", "5355/udp", "51820/udp"]


def test_a_range_or_both_protocols_can_be_named(firewall: ModuleType) -> None:
    assert ports(firewall.cut_off(SS, ["22/tcp", "8765", "50000:60000/udp", "80/udp"])) == ["80/tcp", "5355/udp"]


def test_dhcp_needs_no_naming(firewall: ModuleType) -> None:
    cut = ports(firewall.cut_off(SS, []))
    assert "68/udp" not in cut
    assert "546/udp" not in cut


def test_what_the_operator_let_in_before_is_not_cut_off(firewall: ModuleType) -> None:
    rules = """\
### tuple ### limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### allow tcp 80,443 0.0.0.0/0 any 0.0.0.0/0 Nginx%20Full - in
### tuple ### allow any 5355 0.0.0.0/0 any 203.0.113.0/24 in
### tuple ### deny udp 51820 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### allow tcp 8765 0.0.0.0/0 any 0.0.0.0/0 out
"""
    assert ports(firewall.cut_off(SS, [], rules)) == ["8765/tcp", "51820/udp"]


# As `ufw show added` of Debian 12 prints them: a rule in other words would be added and taken back by turns.
@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("203.0.113.5/32", "203.0.113.5"),
        ("203.0.113.5/24", "203.0.113.0/24"),
        ("203.0.113.0/255.255.255.0", "203.0.113.0/24"),
        ("2001:DB8:0:0::7", "2001:db8::7"),
        ("2001:DB8::7/128", "2001:db8::7"),
        ("2001:DB8::1/32", "2001:db8::/32"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
    ],
)
def test_where_from_is_said_in_the_words_of_ufw(firewall: ModuleType, source: str, shown: str) -> None:
    allow = [{"port": 443, "from": source}]
    assert firewall.mistakes(allow) == []
    assert firewall.rules(allow, [], []) == [f"allow from {shown} to any port 443 proto tcp comment 'trishula: extra'"]


def test_a_port_that_is_named_twice_is_one_rule(firewall: ModuleType) -> None:
    allow = [{"port": "22", "comment": "mine"}, {"port": "60000:61000", "proto": "udp"}]
    assert firewall.rules(allow, [22], []) == [
        "allow 22/tcp comment 'trishula: ssh'",
        "allow 60000:61000/udp comment 'trishula: extra'",
    ]


@pytest.mark.parametrize(
    ("extra", "mistake"),
    [
        ({"port": 443, "comment": "the cat's"}, "the comment of port 443 has an apostrophe"),
        ({"port": 443, "comment": "two\nlines"}, "the comment of port 443 has an apostrophe or a line break"),
        ({"port": 443, "from": "example.org"}, "'example.org' is no address or network"),
        ({"port": 443, "from": "0.0.0.0/0"}, "'0.0.0.0/0' is everybody: leave 'from' out"),
        ({"port": 443, "from": "::/0"}, "'::/0' is everybody"),
        ({"port": "80,443"}, "'80,443' is no port"),
        ({"port": "0443"}, "'0443' is no port"),
        ({"port": "https"}, "'https' is no port"),
    ],
)
def test_what_ufw_would_take_otherwise_is_refused(firewall: ModuleType, extra: dict[str, object], mistake: str) -> None:
    [said] = firewall.mistakes([{"port": 80}, extra])
    assert mistake in said


# ── As it was before ────────────────────────────────────────────────────────────────────────────────────────────────

OURS = "ufw allow 22/tcp comment 'trishula: ssh'\nufw allow 8765/tcp comment 'trishula: mesh'\nufw allow 80/tcp\n"
ON = "Status: active\nDefault: deny (incoming), allow (outgoing)\n"


@pytest.mark.parametrize(
    ("before", "told"),
    [
        pytest.param(
            "Status: inactive\n", ["disable", "delete allow 22/tcp", "delete allow 8765/tcp"], id="it was off"
        ),
        pytest.param("", ["allow 22/tcp comment ''", "delete allow 8765/tcp"], id="nobody knows"),
        pytest.param(ON, ["allow 22/tcp comment ''", "delete allow 8765/tcp"], id="it was on"),
        pytest.param(
            f"ufw allow 22/tcp\nufw allow 8765/tcp comment 'my own'\n{ON}",
            ["allow 22/tcp comment ''", "allow 8765/tcp comment 'my own'"],
            id="with the same rules",
        ),
        pytest.param(
            f'ufw allow 22/tcp\n{ON}DEFAULT_INPUT_POLICY="ACCEPT"\n',
            ["default allow incoming", "allow 22/tcp comment ''", "delete allow 8765/tcp"],
            id="and let all in",
        ),
    ],
)
def test_uninstall_leaves_the_firewall_as_it_was_and_ssh_open(
    firewall: ModuleType, before: str, told: list[str]
) -> None:
    assert firewall.undo(OURS + ON, before, [22]) == told


def test_uninstall_tells_a_firewall_that_is_as_it_was_nothing(firewall: ModuleType) -> None:
    for now in ("", "Status: inactive\n", f"ufw allow 22/tcp\n{ON}"):
        assert firewall.undo(now, "", [22]) == []
