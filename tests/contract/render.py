"""What the inventory, the wiring and the roles make of each other, by Ansible's own means and without a host.

    python render.py INVENTORY [JSON of extra variables]

INVENTORY is the name of a folder in inventory/, or a path. Prints
``{host: {"arguments": {role: {name: value}}, "templates": {role: {name: text}}, "firewall": [rule]}}``.
A process of its own, since Ansible keeps its settings, plugins and warnings for the whole process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
os.chdir(ROOT)

from ansible.inventory.manager import InventoryManager  # noqa: E402 - it reads ANSIBLE_CONFIG when imported
from ansible.parsing.dataloader import DataLoader  # noqa: E402
from ansible.playbook.play import Play  # noqa: E402
from ansible.plugins.loader import init_plugin_loader  # noqa: E402
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


def render(inventory: str, extra: dict[str, Any]) -> dict[str, Any]:
    init_plugin_loader()
    loader = DataLoader()
    loader.set_basedir(str(ROOT / "playbooks"))
    hosts = InventoryManager(loader=loader, sources=[str(ROOT / "inventory" / inventory)])
    variables = VariableManager(loader=loader, inventory=hosts)
    HostVars(hosts, variables, loader)  # makes itself known to `variables`
    roles = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
    play = Play.load({"hosts": "trishula", "roles": roles}, variable_manager=variables, loader=loader)
    for host in hosts.get_hosts("trishula"):
        variables.set_nonpersistent_facts(host.name, said(host.name))
    rendered: dict[str, Any] = {}
    for host in hosts.get_hosts("trishula"):
        known = variables.get_vars(play=play, host=host) | FACTS
        for role in play.roles:
            known |= {name: value for name, value in role.get_vars().items() if name not in known}
        known |= extra
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


def _arguments(templar: Templar, role: str, known: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in known if name.startswith(f"{role}_")]
    return {name: templar.template(trust_as_template("{{ " + name + " }}")) for name in sorted(names)}


if __name__ == "__main__":
    inventory, extra = [*sys.argv[1:], "{}"][:2]
    sys.stdout.write(json.dumps(render(inventory, json.loads(extra))))
