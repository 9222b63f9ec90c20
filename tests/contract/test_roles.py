"""A role's contract is meta/argument_specs.yml: what it documents is what the role does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.contract.conftest import ROLES, all_tasks, load

if TYPE_CHECKING:
    from pathlib import Path


def specs(role: Path) -> dict[str, Any]:
    return load(role / "meta" / "argument_specs.yml")["argument_specs"]


def test_the_documented_defaults_are_the_defaults(role: Path) -> None:
    options = specs(role)["main"]["options"]
    documented = {name: option["default"] for name, option in options.items() if "default" in option}
    assert documented == load(role / "defaults" / "main.yml")


def test_an_option_is_required_or_has_a_default(role: Path) -> None:
    for entry in specs(role).values():
        for name, option in entry["options"].items():
            assert option.get("required", False) != ("default" in option), name


def test_every_entry_point_is_documented_and_every_documented_one_exists(role: Path) -> None:
    called = {
        include["tasks_from"]
        for task in all_tasks()
        if task.module in ("ansible.builtin.import_role", "ansible.builtin.include_role")
        for include in [task.data[task.module]]
        if include["name"] == role.name and "tasks_from" in include
    }
    assert called <= set(specs(role))
    for entry in specs(role):
        assert (role / "tasks" / f"{entry}.yml").is_file()


def test_every_variable_that_a_role_reads_is_documented(role: Path) -> None:
    documented = set(specs(role)["main"]["options"])
    read: set[str] = set()
    for path in role.rglob("*"):
        if path.suffix in (".yml", ".j2") and path.parent.name != "meta":
            read |= set(re.findall(rf"(?<![\w/-]){role.name}_[a-z_]+", path.read_text("utf-8")))
    assert read - documented == {name for name in read if name in filter_names(role)}


def filter_names(role: Path) -> set[str]:
    return {
        name
        for path in role.glob("filter_plugins/*.py")
        for name in re.findall(r'"(trishula_[a-z_]+)":', path.read_text("utf-8"))
    }


def test_a_role_knows_no_sibling_and_no_inventory(role: Path) -> None:
    siblings = "|".join(other.name for other in ROLES if other != role)
    for path in role.rglob("*"):
        if path.suffix in (".yml", ".j2"):
            text = path.read_text("utf-8")
            assert not re.search(rf"\b_*({siblings})\b|\b_*({siblings})_", text), path
            assert not re.search(r"\bgroups(\.\w|\[)|\bhostvars\b|\binventory_dir\b", text), path


def test_derived_values_have_one_underscore_and_registered_ones_two(role: Path) -> None:
    if (role / "vars" / "main.yml").exists():
        for name in load(role / "vars" / "main.yml"):
            assert name.startswith(f"_{role.name}_")
    for task in all_tasks():
        if task.where.startswith(f"roles/{role.name}/") and "register" in task.data:
            assert task.data["register"].startswith(f"__{role.name}_"), task
