"""The search for secrets in what the playbooks say: it finds them, and can't pass without having searched."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

from tests.contract.conftest import ROOT

SECRETS = [base64.b64encode(bytes([number] * 32)).decode() for number in range(12)]
VERBOSE = "task path: /site/roles/x/tasks/main.yml:1\nok: [mac]\n"


def search(folder: Path, output: str, secrets: list[str] = SECRETS) -> subprocess.CompletedProcess[str]:
    (folder / "secrets").write_text("".join(f"{secret}\n" for secret in secrets))
    (folder / "output").write_text(output)
    command = [ROOT / "scripts/overheard", folder / "secrets", folder / "output"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_output_without_a_secret_passes(tmp_path: Path) -> None:
    run = search(tmp_path, VERBOSE)
    assert (run.returncode, run.stdout) == (0, "── none of 12 secrets in 2 lines\n")


def test_each_secret_is_found_and_not_said_again(tmp_path: Path) -> None:
    for secret in SECRETS:
        run = search(tmp_path, f"{VERBOSE}    content: x{secret}y\n")
        assert run.returncode == 1
        assert f"{tmp_path}/output:3" in run.stdout
        assert secret not in run.stdout + run.stderr


def test_a_search_that_was_none_fails(tmp_path: Path) -> None:
    assert "no ten secrets" in search(tmp_path, VERBOSE, SECRETS[:3]).stderr
    assert "too short for a secret" in search(tmp_path, VERBOSE, [*SECRETS, ""]).stderr
    assert "did not run at -vvv" in search(tmp_path, "ok: [mac]\n").stderr


def test_what_is_shown_of_a_verbose_run_is_what_a_plain_one_says() -> None:
    said = (
        "PLAY [Preflight] ****\n\nTASK [Reach] ****\ntask path: /site/x.yml:1\n<mac> EXEC sh\n"
        "ok: [mac] => (item=a) => \n    changed: false\n    content: much\nfatal: [agni]: FAILED! => \n    msg: why\n"
        "redirecting (type: modules) a to b\n\nPLAY RECAP ****\nmac : ok=1\n"
    )
    run = subprocess.run([ROOT / "scripts/brief"], input=said, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "PLAY [Preflight] ****", "", "TASK [Reach] ****", "ok: [mac]", "fatal: [agni]: FAILED! => ", "    msg: why", "",
        "PLAY RECAP ****", "mac : ok=1",
    ]  # fmt: skip
