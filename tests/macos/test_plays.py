"""A node on a Mac, put there by the playbooks, and everything that an operator does with it.

On macOS this is a Mac (the job `macos` of the workflow); elsewhere the Mac of `mac.py`, with its stand-ins, and of
these tests the two that a change to the roles breaks first. What is data, tests/contract/test_macos.py asks.
"""

from __future__ import annotations

import plistlib
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from macos.mac import IS_REAL, STAND_IN, Mac

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SITE = ("preflight", "leave", "deploy", "fallback")


@pytest.fixture
def mac(tmp_path: Path) -> Iterator[Mac]:
    """A new one."""
    new = Mac(tmp_path)
    yield new
    new.close()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mac]:
    """One on which a node was put. Whoever changes it puts it back."""
    new = Mac(tmp_path_factory.mktemp("installed"))
    try:
        said = new.play(*SITE)
        assert new.rc == 0, said
        yield new
    finally:
        new.close()


@pytest.mark.mac
def test_a_check_with_the_facts_of_a_mac_ends_well_and_touches_nothing(mac: Mac) -> None:
    facts = {} if IS_REAL else {"ANSIBLE_FACTS_MODULES": "darwin_facts", "ANSIBLE_LIBRARY": str(STAND_IN)}
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


def test_it_is_put_on_a_mac_without_root(installed: Mac) -> None:
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


@pytest.mark.parametrize(
    "options", [pytest.param((), id="a run"), pytest.param(("--check",), id="a check", marks=pytest.mark.mac)]
)
def test_nothing_changes_the_second_time(installed: Mac, options: tuple[str, ...]) -> None:
    mac = installed
    mac.calls()
    said = mac.play(*SITE, options=options)
    assert mac.rc == 0, said
    assert re.search(r"^mac .* changed=0 ", said, re.MULTILINE), said
    assert mac.calls() == []


@pytest.mark.mac
def test_it_is_restarted_for_what_the_process_reads_and_loaded_anew_for_the_plist(installed: Mac) -> None:
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


@pytest.mark.mac
def test_what_does_not_come_up_goes_back_to_what_it_ran_with(installed: Mac) -> None:
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


@pytest.mark.mac
def test_its_secrets_are_rotated_by_three_restarts(installed: Mac) -> None:
    mac = installed
    mac.calls()
    said = mac.play("rotate_secrets", options=("-e", "rotate=mac", "-e", "older_than=0", "-e", "{_site_left_out: []}"))
    assert mac.rc == 0, said
    assert mac.calls() == ["kickstart"] * 3


@pytest.mark.mac
def test_who_leaves_is_stopped_for_good_and_comes_back_by_the_site(installed: Mac) -> None:
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


@pytest.mark.mac
def test_it_is_taken_off_again_and_the_mailboxes_stay(installed: Mac) -> None:  # the last to have that one
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
