"""The mesh CA is made once, when all hosts could be asked, and no host is ever made to trust another in passing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.conftest import run_role

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

HOSTS = ("agni", "mac")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The controller's folder of secrets."""
    return tmp_path / "secrets"


def controller(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    hosts: dict[str, dict[str, Any]] = {}
    for host in HOSTS:
        (folder / host).mkdir(exist_ok=True)
        hosts[host] = {
            "trishula_tls_common_name": host,
            "trishula_tls_dir": str(folder / host),
            "trishula_tls_ca_dir": str(folder / "secrets"),
            "trishula_tls_nodes": list(HOSTS),
        }
    return run_role(folder, "trishula_tls", "controller", hosts, *options)


def stopped(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 2, run.stdout
    assert "changed=1" not in run.stdout
    return " ".join(run.stdout.split())


def test_the_first_run_makes_it_and_the_next_leaves_it_alone(tmp_path: Path, here: Path) -> None:
    first = controller(tmp_path)
    assert first.returncode == 0, first.stdout
    made = {path.name: path.read_bytes() for path in here.iterdir()}
    assert set(made) == {"ca.crt", "ca.key"}

    (tmp_path / "mac" / "ca.crt").write_bytes(made["ca.crt"])
    for options in ([], ["--limit", "agni"]):
        again = controller(tmp_path, *options)
        assert again.returncode == 0, again.stdout
        assert {path.name: path.read_bytes() for path in here.iterdir()} == made


def test_none_is_made_while_a_host_was_not_asked(tmp_path: Path, here: Path) -> None:
    (tmp_path / "mac").mkdir()
    (tmp_path / "mac" / "ca.crt").write_text("the mesh CA")
    said = stopped(controller(tmp_path, "--limit", "agni"))
    assert "this run can't ask mac. Run site.yml over all hosts first, without --limit" in said
    assert not here.exists()


def test_none_is_made_over_one_that_a_host_trusts(tmp_path: Path, here: Path) -> None:
    (tmp_path / "mac").mkdir()
    (tmp_path / "mac" / "ca.crt").write_text("the mesh CA")
    said = stopped(controller(tmp_path))
    assert "mac trusts a mesh CA, but" in said
    assert f"Restore ca.crt and ca.key from your backup of {here}" in said
    assert not here.exists()


def test_a_host_of_another_mesh_stops_the_run(tmp_path: Path, here: Path) -> None:
    here.mkdir()
    (here / "ca.crt").write_text("the mesh CA")
    (tmp_path / "mac").mkdir()
    (tmp_path / "mac" / "ca.crt").write_text("another")
    said = stopped(controller(tmp_path))
    assert f"mac trusts another mesh CA than {here}/ca.crt" in said
    assert (tmp_path / "mac" / "ca.crt").read_text() == "another"
