"""Site facts become role arguments: what one node is told fits what the others are told."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.contract.conftest import ROLES, load

if TYPE_CHECKING:
    from tests.contract.conftest import Site


def test_of_every_pair_exactly_one_dials(site: Site) -> None:
    dials = {
        (host, peer["name"])
        for host in site.hosts
        for peer in site.argument(host, "trishula_node_peers")
        if peer["dial"]
    }
    assert len(dials) == 3
    for one, other in combinations(sorted(site.hosts), 2):
        assert ((one, other) in dials) != ((other, one) in dials)


def test_the_one_behind_nat_dials_and_else_the_lower_name(site: Site) -> None:
    dials = {
        host: [peer["name"] for peer in site.argument(host, "trishula_node_peers") if peer["dial"]]
        for host in site.hosts
    }
    assert dials == {"mac": ["agni", "rushabdev"], "agni": ["rushabdev"], "rushabdev": []}


def test_every_node_knows_where_every_agent_lives(site: Site) -> None:
    for host in site.hosts:
        homes = {peer["name"]: peer["agents"] for peer in site.argument(host, "trishula_node_peers")}
        homes[host] = [agent["name"] for agent in site.argument(host, "trishula_node_agents")]
        assert homes == {"mac": ["mac", "dhyana"], "agni": ["agni"], "rushabdev": ["rushabdev"]}


def test_a_node_is_dialled_at_a_name_of_its_certificate_and_at_its_port(site: Site) -> None:
    for host in site.hosts:
        for peer in site.argument(host, "trishula_node_peers"):
            if peer["dial"]:
                url = urlsplit(peer["url"])
                names = site.argument(peer["name"], "trishula_tls_names")
                addresses = site.argument(peer["name"], "trishula_tls_addresses")
                assert url.scheme == "wss"
                assert url.hostname in [*names, *addresses]
                assert url.port == site.argument(peer["name"], "trishula_node_listen_port")
                assert url.port in site.argument(peer["name"], "trishula_firewall_mesh_ports")


def test_a_certificate_has_no_name_of_another_node(site: Site) -> None:
    for one, other in combinations(site.hosts, 2):
        shared = {*site.argument(one, "trishula_tls_names"), *site.argument(one, "trishula_tls_addresses")} & {
            *site.argument(other, "trishula_tls_names"),
            *site.argument(other, "trishula_tls_addresses"),
        }
        assert shared == {"localhost", "127.0.0.1"}


def test_names_and_addresses_are_told_apart(site: Site) -> None:
    addresses = {host: site.argument(host, "trishula_tls_addresses") for host in site.hosts}
    expected = {
        "local": {"mac": [], "agni": [], "rushabdev": []},
        "production": {"mac": [], "agni": ["192.0.2.15"], "rushabdev": ["198.51.100.184"]},
    }[site.inventory]
    assert addresses == {host: ["127.0.0.1", *more] for host, more in expected.items()}


def test_an_outbound_only_node_listens_on_loopback_and_opens_no_port(site: Site) -> None:
    assert site.argument("mac", "trishula_node_listen_address") == "127.0.0.1"
    assert site.argument("mac", "trishula_firewall_mesh_ports") == []
    assert site.argument("agni", "trishula_node_listen_address") == "::"


def test_firewall_rules_are_these_and_no_others(site: Site) -> None:
    ssh, mesh = "allow 22/tcp comment 'trishula: ssh'", "allow 8765/tcp comment 'trishula: mesh'"
    other = "allow 2222/tcp comment 'trishula: ssh'" if site.inventory == "local" else ssh  # where its sshd listens
    assert {host: told["firewall"] for host, told in site.hosts.items()} == {
        "mac": [ssh],
        "agni": [ssh, mesh],
        "rushabdev": [other, mesh],
    }


def test_ssh_comes_first_and_extra_rules_are_as_ufw_prints_them(site: Site) -> None:
    told = site.rendered_with(
        trishula_firewall_ssh_ports=[22, 2222],
        trishula_firewall_allow=[
            {"port": "443"},
            {"port": "51820", "proto": "udp", "from": "203.0.113.0/24", "comment": "WireGuard"},
        ],
    )
    assert told.hosts["agni"]["firewall"] == [
        "allow 22/tcp comment 'trishula: ssh'",
        "allow 2222/tcp comment 'trishula: ssh'",
        "allow 8765/tcp comment 'trishula: mesh'",
        "allow 443/tcp comment 'trishula: extra'",
        "allow from 203.0.113.0/24 to any port 51820 proto udp comment 'trishula: WireGuard'",
    ]


def test_no_mesh_ca_is_made_before_every_host_was_asked(site: Site) -> None:
    for host in site.hosts:
        assert set(site.argument(host, "trishula_tls_nodes")) == set(site.hosts)


def test_an_address_of_ipv6_is_dialled_in_brackets(site: Site) -> None:
    told = site.rendered_with(trishula_address="2001:db8::7")
    # `-e` holds for this host's own view; what peers see is their own facts, which it also sets.
    assert "2001:db8::7" in told.argument("agni", "trishula_tls_addresses")


def test_a_node_is_dialled_where_we_log_in_unless_its_facts_say_otherwise(site: Site) -> None:
    """Filled in once, an address is known to the operator's ssh, to the peers and to the certificate."""
    told = site.rendered_with(ansible_host="10.1.2.3", trishula_address="agni.mesh.test")
    assert "agni.mesh.test" in told.argument("agni", "trishula_tls_names")
    assert "10.1.2.3" not in told.argument("agni", "trishula_tls_addresses")
    if site.inventory == "production":
        urls = {peer["name"]: peer["url"] for peer in site.argument("mac", "trishula_node_peers")}
        assert urls == {"agni": "wss://192.0.2.15:8765", "rushabdev": "wss://198.51.100.184:8765"}
        assert site.argument("mac", "trishula_tls_addresses") == ["127.0.0.1"]


def test_secrets_stay_in_a_folder_that_git_and_every_inventory_ignore(site: Site) -> None:
    for name in ("trishula_secrets_mesh_file", "trishula_tls_ca_dir"):
        assert f"/inventory/{site.inventory}/.secrets" in site.argument("mac", name)


@pytest.mark.parametrize("transport", ["websocket", "files"])
def test_a_role_is_told_what_its_contract_names_and_no_more(site: Site, transport: str) -> None:
    told = site.rendered_with(trishula_fallback_enabled=True, trishula_transport=transport)
    for role in ROLES:
        options = load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
        for host in told.hosts:
            for name, option in options.items():
                if "options" in option:
                    for entry in told.argument(host, name):
                        assert_fits(entry, option["options"])


def assert_fits(entry: dict[str, Any], options: dict[str, dict[str, Any]]) -> None:
    assert set(entry) <= set(options)
    assert {name for name, option in options.items() if option.get("required")} <= set(entry)
    for name, value in entry.items():
        assert value in options[name].get("choices", [value])


# ── Files alone ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_with_files_alone_the_port_is_closed_and_a_timer_runs_rsync(site: Site) -> None:
    told = site.rendered_with(trishula_transport="files")
    for host in told.hosts:
        (ssh,) = told.hosts[host]["firewall"]
        assert ssh.endswith("comment 'trishula: ssh'")
        assert told.argument(host, "trishula_fallback_timer") is True
        node = told.rendered(host, "node.toml")
        assert 'transport = "files"\n' in node
        assert "\n[fallback]\n" in node
        assert "trishula-node.socket" not in told.rendered(host, "trishula-node.service")
        service = told.rendered(host, "trishula-sync.service")
        assert "\nExecStart=/usr/local/bin/trishula sync --config /etc/trishula/node.toml\n" in service
        assert "\nUser=trishula\n" in service
        assert "\n[Timer]\n" in told.rendered(host, "trishula-sync.timer")


def test_with_links_there_is_no_timer(site: Site) -> None:
    for host in site.hosts:
        assert site.argument(host, "trishula_fallback_timer") is False
        assert "Requires=trishula-node.socket" in site.rendered(host, "trishula-node.service")


# ── Moving in ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_logins_old_folder_goes_to_the_mailbox_of_its_first_agent(site: Site) -> None:
    boxes = "/var/lib/trishula/mailboxes"
    assert site.argument("mac", "trishula_adopt_logins") == [
        {"user": "openclaw", "mailbox": f"{boxes}/mac"},
        {"user": "dhyana", "mailbox": f"{boxes}/dhyana"},
    ]
    several = [{"name": "one"}, {"name": "two"}, {"name": "three", "user": "dhyana"}]
    told = site.rendered_with(trishula_agents=several)
    assert told.argument("agni", "trishula_adopt_logins") == [
        {"user": "openclaw", "mailbox": f"{boxes}/one"},
        {"user": "dhyana", "mailbox": f"{boxes}/three"},
    ]


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        ({}, False),
        ({"adopt": True}, True),
        ({"adopt": "true"}, True),
        ({"trishula_unsigned_inbox": True}, True),
        ({"trishula_unsigned_inbox": False, "adopt": True}, False),
    ],
)
def test_while_moving_in_what_old_peers_drop_is_shown(site: Site, facts: dict[str, Any], shown: bool) -> None:  # noqa: FBT001
    told = site.rendered_with(**facts)
    for host in told.hosts:
        assert ("unsigned_inbox = true\n" in told.rendered(host, "node.toml")) is shown
