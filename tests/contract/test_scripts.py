"""The scripts behind the targets of make."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.contract.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def run(folder: Path, *command: str, **commands: str) -> subprocess.CompletedProcess[str]:
    """Run a script of ours on a machine that has nothing but these commands."""
    for tool in {"bash", "dirname", "getconf", "id", "uname"} - commands.keys():  # or a link would be written through
        (folder / tool).symlink_to(str(shutil.which(tool)))
    for name, text in commands.items():
        assert not (folder / name).is_symlink()
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    path = {"PATH": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, check=False)


def test_what_the_python_tests_lack_is_named_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "scripts/python-tests", pytest="echo run", id="echo 1000", openssl="", ps="")
    assert done.returncode == 1
    assert done.stdout == ""
    [said] = done.stderr.splitlines()
    assert "rrsync rsync ssh-keygen pkill: install " in said
    assert "rsync openssh-client procps (Debian's names), then run this again." in said


def test_a_part_that_is_none_is_named_before_anything_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "scripts/test", "lint", "nonsense", make="echo run")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no part 'nonsense': name lint, python, processes, macos or a folder of molecule/" in done.stderr


def test_a_part_that_cannot_run_is_loud_and_fails_where_it_must_not_be_left_out() -> None:
    for environment, code in (({}, 0), ({"CI": "true"}, 1)):
        path = {"PATH": "/usr/bin:/bin"} | environment
        done = subprocess.run(
            ["scripts/test", "macos"], cwd=ROOT, env=path, capture_output=True, text=True, check=False
        )
        assert "macos        SKIPPED  no Mac: NOTHING WAS TRIED ON A REAL ONE" in done.stdout
        assert done.returncode == code
