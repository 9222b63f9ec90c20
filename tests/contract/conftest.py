"""The Ansible side as data: rendered for both inventories, and parsed."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
MODULES = {path.stem for path in (ROOT / "roles").glob("*/library/*.py")}
"""Our own, which have no longer name."""
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())


@dataclass(frozen=True)
class Site:
    """An inventory after the wiring: every role's arguments, templates and firewall rules, by host."""

    inventory: str
    hosts: dict[str, dict[str, Any]]

    def argument(self, host: str, name: str) -> Any:
        role = "_".join(name.split("_")[:2])
        return self.hosts[host]["arguments"][role][name]

    def rendered(self, host: str, name: str) -> str:
        return next(texts[name] for texts in self.hosts[host]["templates"].values() if name in texts)

    def rendered_with(self, **extra: Any) -> Site:
        """The same site with variables as `-e` would set them."""
        return Site(self.inventory, _render(self.inventory, extra))

    def expressions(self, host: str, *names: str, **extra: Any) -> dict[str, Any]:
        """Values of a host's variables, those that are told to no role's template too."""
        return ask(json.dumps({"inventory": self.inventory, "host": host, "names": names, "extra": extra}))


@cache
def _renderer() -> subprocess.Popen[str]:
    """The process that answers all requests of this one, and ends with it."""
    command = [sys.executable, Path(__file__).with_name("render.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


@cache
def ask(request: str) -> Any:
    """The answer of render.py to a request in JSON."""
    process = _renderer()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{request}\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    assert "error" not in answer, answer["error"]
    return answer["answer"]


def refusals(inventory: Path, tasks: str, registered: dict[str, Any], hosts: str = "trishula") -> list[str]:
    """What the assertions of a file of tasks, or of a playbook's first play, say on the hosts of an inventory.

    Only assertions are tried, until one fails; `registered` is what the other tasks would have learned on every host.
    """
    return ask(json.dumps({"inventory": str(inventory), "tasks": tasks, "hosts": hosts, "extra": registered}))


def _render(inventory: str, extra: dict[str, Any]) -> dict[str, Any]:
    return ask(json.dumps({"inventory": inventory, "extra": extra}))


@pytest.fixture(scope="session", params=["local", "production"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.param, _render(request.param, {}))


@pytest.fixture(params=ROLES, ids=lambda role: role.name)
def role(request: pytest.FixtureRequest) -> Path:
    return request.param


def run_role(
    folder: Path, role: str, entries: str, hosts: dict[str, dict[str, Any]], *options: str
) -> subprocess.CompletedProcess[str]:
    """Run entry points of a role for real, on hosts that are all this machine and differ by their variables."""
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = folder / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": {host: here | facts for host, facts in hosts.items()}}}))
    tasks = [{"ansible.builtin.import_role": {"name": role, "tasks_from": entry}} for entry in entries.split()]
    playbook = folder / "playbook.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": "all", "gather_subset": ["!all", "min"], "tasks": tasks}]))
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, playbook, *options],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
            "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
            "COLUMNS": "1000",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def raw(tasks: str, folder: Path, home: str = "/root", **commands: str) -> dict[str, Any]:
    """What the one `raw` task in a file of tasks, or in a playbook's first play, registers on a host.

    Its shell is run here, where `commands` print what they are given.
    """
    for name, answer in commands.items():
        command = folder / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\necho {answer}\n")
        command.chmod(0o755)
    data = load(ROOT / tasks)
    (task,) = (task for task in data[0].get("tasks", data) if "ansible.builtin.raw" in task)
    run = subprocess.run(
        ["/bin/sh", "-c", task["ansible.builtin.raw"]],
        env={"HOME": home, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return {task["register"]: {"rc": run.returncode, "stdout": run.stdout, "stdout_lines": run.stdout.splitlines()}}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def filters(name: str) -> ModuleType:
    """The filter plugin of a role or of the playbooks, as a module."""
    (path,) = (path for folder in ("roles", "playbooks") for path in (ROOT / folder).rglob(f"filter_plugins/{name}.py"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def secrets() -> ModuleType:
    return filters("trishula_secrets")


@pytest.fixture(scope="session")
def rotation() -> ModuleType:
    return filters("trishula_rotation")


@pytest.fixture(scope="session")
def firewall() -> ModuleType:
    return filters("trishula_firewall")


@dataclass(frozen=True)
class Task:
    """A task with where it stands, and whether a block around it sets a keyword."""

    where: str
    data: dict[str, Any]
    around: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"{self.where}: {self.data.get('name', self.module)}"

    @property
    def module(self) -> str:
        """The key that is no keyword of a task."""
        return next((key for key in self.data if "." in key or key in MODULES), next(iter(self.data)))

    def keyword(self, name: str) -> Any:
        return next((data[name] for data in (self.data, *reversed(self.around)) if name in data), None)


def _walk(where: str, tasks: list[dict[str, Any]], around: tuple[dict[str, Any], ...]) -> Iterator[Task]:
    for data in tasks or []:
        if "block" in data:
            for part in ("block", "rescue", "always"):
                yield from _walk(where, data.get(part, []), (*around, data))
        else:
            yield Task(where, data, around)


def plays() -> list[tuple[str, dict[str, Any]]]:
    """All plays of the playbooks that are more than an import of others."""
    return [
        (path.name, play)
        for path in sorted((ROOT / "playbooks").glob("*.yml"))
        for play in load(path)
        if "ansible.builtin.import_playbook" not in play
    ]


def all_tasks(*, handlers: bool = False) -> list[Task]:
    """Every task of roles and playbooks; or every handler."""
    folder = "handlers" if handlers else "tasks"
    found: list[Task] = []
    for path in [*ROOT.glob(f"roles/*/{folder}/*.yml"), *ROOT.glob(f"playbooks/{folder}/*.yml")]:
        found += _walk(str(path.relative_to(ROOT)), load(path), ())
    for where, play in plays():
        parts = ["handlers"] if handlers else ["pre_tasks", "tasks", "post_tasks"]
        for part in parts:
            found += _walk(f"playbooks/{where}", play.get(part, []), (play,))
    return found
