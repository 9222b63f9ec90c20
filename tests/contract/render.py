"""What the inventory, the wiring and the roles make of each other, by Ansible's own means and without a host.

Reads one request per line, answers each with one line, and ends with its input. A request is JSON,
``{"inventory": ..., "extra": {name: value}}``: the inventory is the name of a folder in inventory/ or a path, `extra`
are variables as `-e` would set them. The answer, in ``{"answer": ...}``, is
``{host: {"arguments": {role: {name: value}}, "templates": {role: {name: text}}, "firewall": [rule]}}``;
with a file of `tasks` and `hosts`, what its assertions say on these; with a `host` and `names`, values of its
variables. An error is in ``{"error": ...}``.

A process of its own, since Ansible keeps its settings, plugins and warnings for the whole process; and one for all
requests, since importing Ansible takes longer than rendering a site.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

from jinja2 import Environment

ROOT = Path(__file__).resolve().parents[2]
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
os.chdir(ROOT)

from ansible.inventory.manager import InventoryManager  # noqa: E402 - it reads ANSIBLE_CONFIG when imported
from ansible.parsing.dataloader import DataLoader  # noqa: E402
from ansible.playbook.play import Play  # noqa: E402
from ansible.plugins.loader import filter_loader, init_plugin_loader  # noqa: E402
from ansible.template import Templar, trust_as_template  # noqa: E402
from ansible.vars.hostvars import HostVars  # noqa: E402
from ansible.vars.manager import VariableManager  # noqa: E402

# What hosts would have answered.
FACTS = {
    "ansible_facts": {"architecture": "x86_64", "virtualization_type": "kvm"},
    "ansible_managed": "Ansible managed",
    "__trishula_fallback_here": {"results": []},
}


def said(host: str) -> dict[str, Any]:
    """What install of trishula_fallback learns on a host, in keys that are none."""
    lines = [f"{use} ssh-ed25519 AAAA{host}{use}" for use in ("push", "pull", "host")]
    return {"__trishula_fallback_public": {"stdout_lines": [*lines, f"host ecdsa-sha2-nistp256 AAAA{host}host"]}}


def compile_once() -> None:
    """Compile each expression once in this process, not once for each host and request: that took half of the time."""
    compile_anew = Environment.compile
    compiled: dict[str, CodeType] = {}

    def compile_source(self: Environment, source: Any, *rest: Any, **options: Any) -> Any:
        if not isinstance(source, str):
            return compile_anew(self, source, *rest, **options)
        if source not in compiled:
            compiled[source] = compile_anew(self, source, *rest, **options)
        return compiled[source]

    Environment.compile = compile_source  # type: ignore[method-assign]


@cache
def site(inventory: str) -> tuple[DataLoader, InventoryManager, VariableManager, Play]:
    """An inventory as Ansible reads it, once: another one has another path. And a play of all roles on it."""
    loader = DataLoader()
    loader.set_basedir(str(ROOT / "playbooks"))
    hosts = InventoryManager(loader=loader, sources=[str(ROOT / "inventory" / inventory)])
    variables = VariableManager(loader=loader, inventory=hosts)
    HostVars(hosts, variables, loader)  # makes itself known to `variables`
    roles = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
    play = Play.load({"hosts": "trishula", "roles": roles}, variable_manager=variables, loader=loader)
    for host in hosts.get_hosts("trishula"):
        variables.set_nonpersistent_facts(host.name, said(host.name))
    return loader, hosts, variables, play


def knowing(inventory: str, host: str, extra: dict[str, Any], *, roles: bool = True) -> dict[str, Any]:
    """All variables of a host, as a task of a role or of a playbook would have them, and `extra` before all."""
    _, hosts, variables, play = site(inventory)
    known = variables.get_vars(play=play if roles else None, host=hosts.get_host(host)) | FACTS
    for role in play.roles if roles else ():
        known |= {name: value for name, value in role.get_vars().items() if name not in known}
    return known | extra


def render(inventory: str, extra: dict[str, Any]) -> dict[str, Any]:
    """All arguments, templates and firewall rules."""
    loader, hosts, _, play = site(inventory)
    roles = [role.get_name() for role in play.roles]
    rendered: dict[str, Any] = {}
    for host in hosts.get_hosts("trishula"):
        known = knowing(inventory, host.name, extra)
        templar = Templar(loader=loader, variables=known)
        rendered[host.name] = {
            "arguments": {role: _arguments(templar, role, known) for role in roles},
            "templates": {
                role: {
                    path.name.removesuffix(".j2"): templar.template(trust_as_template(path.read_text("utf-8")))
                    for path in sorted((ROOT / "roles" / role / "templates").glob("*.j2"))
                    if path.name != "mesh.yml.j2"  # it draws a new secret each time
                }
                for role in roles
            },
            "firewall": templar.template(trust_as_template("{{ _trishula_firewall_rules }}")),
        }
    return rendered


def expressions(inventory: str, host: str, names: list[str], extra: dict[str, Any]) -> dict[str, Any]:
    """Values of a host's variables."""
    templar = Templar(loader=site(inventory)[0], variables=knowing(inventory, host, extra))
    return {name: templar.template(trust_as_template("{{ " + name + " }}")) for name in names}


def refusals(inventory: str, pattern: str, tasks: str, extra: dict[str, Any]) -> list[str]:
    """What the first assertion that fails in a file of tasks, or in its first play, says on each host.

    As Ansible would: each is tried on all hosts that match the pattern or, if it says so, on the first alone, and for
    each item of its loop. All other tasks are left out: `extra` is what they would have registered.
    """
    loader, hosts, *_ = site(inventory)
    data = loader.load_from_file(str(ROOT / tasks), trusted_as_template=True)
    extra = data[0].get("vars", {}) | extra if "tasks" in data[0] else extra
    for task in data[0].get("tasks", data):
        if "ansible.builtin.assert" not in task:
            continue
        concerned = hosts.get_hosts(pattern)
        known = [
            knowing(inventory, host.name, extra, roles=tasks.startswith("roles/"))
            for host in concerned[: 1 if task.get("run_once") else None]
        ]
        said = [_refusal(loader, task, each) for each in known]
        if any(said):
            return [text for text in said if text]
    return []


def _refusal(loader: DataLoader, task: dict[str, Any], known: dict[str, Any]) -> str:
    known = known | task.get("vars", {})
    for item in Templar(loader=loader, variables=known).template(task.get("loop", [None])):
        templar = Templar(loader=loader, variables=known | {"item": item})
        that = task["ansible.builtin.assert"]["that"]
        if not all(map(templar.evaluate_conditional, [that] if isinstance(that, str) else that)):
            return str(templar.template(task["ansible.builtin.assert"]["fail_msg"]))
    return ""


def _arguments(templar: Templar, role: str, known: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in known if name.startswith(f"{role}_")]
    return {name: templar.template(trust_as_template("{{ " + name + " }}")) for name in sorted(names)}


def answer(request: dict[str, Any]) -> Any:
    """What a request asks for."""
    inventory, extra = request["inventory"], request.get("extra", {})
    if "tasks" in request:
        return refusals(inventory, request["hosts"], request["tasks"], extra)
    if "names" in request:
        return expressions(inventory, request["host"], request["names"], extra)
    return render(inventory, extra)


def main() -> None:
    init_plugin_loader()
    filter_loader.add_directory(str(ROOT / "playbooks/filter_plugins"))  # which a playbook finds beside it
    compile_once()
    for line in sys.stdin:
        try:
            told = {"answer": answer(json.loads(line))}
        except Exception as error:  # noqa: BLE001 - the test that asked shows it
            told = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
