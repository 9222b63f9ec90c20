"""Every template, rendered for every host of both inventories, is what its reader takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.conftest import all_tasks

from trishula.node import config as node_config

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from tests.contract.conftest import Site

MESH = {"mesh_secret": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "generations": {}}


def keys_of(table: dict[str, Any], path: str = "") -> set[str]:
    """The dotted keys of a TOML document; names of agents, peers and groups are all `*`."""
    found = set()
    for key, value in table.items():
        name = "*" if path in ("agents", "peers", "groups") else key
        dotted = f"{path}.{name}".lstrip(".")
        found |= keys_of(value, dotted) if isinstance(value, dict) else {dotted}
    return found


@pytest.fixture(scope="session")
def documented(pytestconfig: pytest.Config) -> set[str]:
    text = (pytestconfig.rootpath / "docs" / "configuration.md").read_text("utf-8")
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    return keys_of(tomllib.loads(example[1]))


def test_node_toml_is_toml_and_has_documented_keys_only(site: Site, documented: set[str]) -> None:
    for host in site.hosts:
        told = tomllib.loads(site.rendered(host, "node.toml"))
        assert keys_of(told) <= documented
        assert told["node"]["name"] == host


def test_node_toml_can_set_every_documented_key_but_those_that_systemd_sets(site: Site, documented: set[str]) -> None:
    limits = {key.removeprefix("limits."): 1 for key in documented if key.startswith("limits.")}
    told = site.rendered_with(
        trishula_groups={"builders": ["agni"]},
        trishula_limits=limits,
        trishula_node_public_roots=True,
        trishula_transport="files",
        trishula_unsigned_inbox=True,
        trishula_jikoku_log="/var/lib/trishula/JIKOKU_LOG.jsonl",
        trishula_agents=[{"name": "one", "receipts": True}],
    )
    set_keys = set().union(*(keys_of(tomllib.loads(told.rendered(host, "node.toml"))) for host in told.hosts))
    no_variable_yet = {"node.unsigned_inbox", "node.jikoku_log", "agents.*.receipts"}
    assert documented - set_keys - no_variable_yet == {"node.credentials_dir"}


def test_the_node_loads_its_node_toml_and_credentials(site: Site, secrets: ModuleType, tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    tls.mkdir()
    for name in ("node.crt", "node.key", "ca.crt"):
        (tls / name).write_text("")
    told = site.rendered_with(
        trishula_node_tls_dir=str(tls),
        trishula_groups={"builders": ["agni", "rushabdev"]},
        trishula_limits={"max_message_bytes": 65536},
    )
    for host in told.hosts:
        folder = tmp_path / host
        folder.mkdir()
        peers = told.argument(host, "trishula_secrets_peers")
        agents = told.argument(host, "trishula_secrets_agents")
        (folder / "keys.json").write_text(json.dumps(secrets.keys(MESH, host, peers)))
        (folder / "dial.json").write_text(json.dumps(secrets.dial(MESH, host, peers)))
        (folder / "accept.json").write_text(json.dumps(secrets.accept(MESH, host, peers, agents)))
        file = folder / "node.toml"
        file.write_text(told.rendered(host, "node.toml"))
        config = node_config.load(file, folder)
        assert config.node == host
        assert set(config.peers) == set(told.hosts) - {host}
        assert list(config.agents) == [agent["name"] for agent in agents]
        assert config.default_agent == agents[0]["name"]
        assert config.groups == {"builders": ("agni", "rushabdev")}
        assert config.limits.max_message_bytes == 65536


def test_the_service_runs_what_the_role_links(site: Site) -> None:
    for host in site.hosts:
        unit = site.rendered(host, "trishula-node.service").splitlines()
        assert "ExecStart=/opt/trishula/current/bin/trishula node run --config /etc/trishula/node.toml" in unit
        assert [line for line in unit if line.startswith("LoadCredential=")] == [
            f"LoadCredential={name}:/etc/trishula/credentials/{name}"
            for name in ("accept.json", "dial.json", "keys.json")
        ]


def test_one_agent_cannot_take_all_the_connections_that_the_service_may_have(site: Site) -> None:
    for host in site.hosts:
        assert "LimitNOFILE=65536\n" in site.rendered(host, "trishula-node.service")


def test_the_account_is_a_member_of_its_agents_groups_and_of_that_which_peers_come_to(site: Site) -> None:
    assert "a member of them: openclaw dhyana. " in site.rendered("mac", "trishula-node.service")
    assert "a member of them: openclaw trishula-sync. " in site.rendered("agni", "trishula-node.service")
    tasks = [task.data[task.module] for task in all_tasks() if task.module == "ansible.builtin.user"]
    (account,) = [arguments for arguments in tasks if "groups" in arguments]
    assert account["groups"] == "{{ _trishula_node_supplementary_groups }}"


def test_a_group_that_is_missing_keeps_no_service_from_starting(site: Site) -> None:
    for host in site.hosts:
        assert "\nSupplementaryGroups=" not in site.rendered(host, "trishula-node.service")


def test_the_socket_listens_where_the_wiring_says(site: Site) -> None:
    listens = {
        host: re.findall(r"^ListenStream=(.*)$", site.rendered(host, "trishula-node.socket"), re.MULTILINE)
        for host in site.hosts
    }
    assert listens == {"mac": ["127.0.0.1:8765"], "agni": ["8765"], "rushabdev": ["8765"]}


def test_an_address_of_ipv6_stands_in_brackets_in_the_socket(site: Site) -> None:
    told = site.rendered_with(trishula_node_listen_address="2001:db8::1")
    assert "ListenStream=[2001:db8::1]:8765\n" in told.rendered("agni", "trishula-node.socket")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze; the topology tests ask it")
@pytest.mark.parametrize("name", ["trishula-node.service", "trishula-sync.service"])
def test_the_service_scores_at_most_one_and_a_half(site: Site, tmp_path: Path, name: str) -> None:
    unit = tmp_path / name
    unit.write_text(site.rendered("mac", name))
    run = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", unit], capture_output=True, check=False
    )
    assert run.returncode == 0, run.stdout.decode()


def test_every_mailbox_belongs_to_its_agents_group_and_to_no_other(site: Site) -> None:
    folders = {
        path: (mode, user, group)
        for line in site.rendered("mac", "tmpfiles.conf").splitlines()
        if not line.startswith("#")
        for _, path, mode, user, group in [line.split()]
    }
    box = "/var/lib/trishula/mailboxes/dhyana"
    assert folders["/var/lib/trishula"] == ("0711", "trishula", "trishula")
    assert folders[box] == ("2750", "trishula", "dhyana")
    for folder in ("inbox", "outbox", "archive", "bounced", "receipts"):
        assert folders[f"{box}/{folder}"] == ("2770", "trishula", "dhyana")
