"""Playbooks and roles, read as data: they fail fast, restart in handlers only, and keep secrets to themselves."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.conftest import MODULES, ROLES, ROOT, all_tasks, load, plays

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.conftest import Task


# A host that fails must not keep the others open to a stolen one.
GOES_ON = ["Cut off who is revoked, on all hosts at once"]


def test_every_play_stops_at_the_first_error_but_the_one_that_cuts_off() -> None:
    lenient = [play["name"] for _, play in plays() if play.get("any_errors_fatal") is not True]
    assert lenient == GOES_ON


def test_the_site_is_preflight_then_leave_deploy_fallback_verify() -> None:
    steps = [play["ansible.builtin.import_playbook"] for play in load(ROOT / "site.yml")]
    assert steps == [f"playbooks/{name}.yml" for name in ("preflight", "leave", "deploy", "fallback", "verify")]


def test_hosts_are_changed_one_at_a_time_and_behind_a_gate() -> None:
    rolling = [play for where, play in plays() if where == "deploy.yml"][-1]
    assert rolling["serial"] == 1
    before, host, tidy = rolling["tasks"]
    assert before["register"] == "__gate_before"
    keep, *_, restart, gate = host["block"]
    assert keep["ansible.builtin.import_role"]["tasks_from"] == "keep"
    assert restart["ansible.builtin.meta"] == "flush_handlers"
    assert gate["ansible.builtin.include_tasks"] == "tasks/gate.yml"
    assert [task["ansible.builtin.include_tasks"] for task in host["rescue"]] == ["tasks/back.yml"]
    assert tidy["ansible.builtin.import_role"]["tasks_from"] == "tidy"


def test_a_role_leaves_a_host_out_of_that_only_where_it_has_asked_it_and_found_nothing_that_differs() -> None:
    at_once, rolling = (play for where, play in plays() if where == "deploy.yml")
    changed = {
        role["name"]: task.get("when")
        for task in rolling["tasks"][1]["block"]
        for role in (task.get("ansible.builtin.import_role"), task.get("ansible.builtin.include_role"))
        if role and "tasks_from" not in role
    }
    *_, note, left_out = at_once["tasks"]
    differs = note["ansible.builtin.set_fact"]["__deploy_differs"]
    compared = {
        role["name"]
        for task in at_once["tasks"]
        if (role := task.get("ansible.builtin.import_role", {})).get("tasks_from") == "compare"
    }
    roles = {"certificate": "tls", "secrets": "secrets", "firewall": "firewall", "node": "node"}
    assert compared == set(changed) == {f"trishula_{role}" for role in roles.values()}
    for name, role in roles.items():
        assert f"not _trishula_{role}_unchanged" in differs[name]
        # The node itself always: it takes the certificate and the secrets that were put there.
        assert changed[f"trishula_{role}"] == (None if name == "node" else f"__deploy_differs.{name}")
    assert "or inventory_hostname in _site_stolen" in differs["secrets"]
    assert note["no_log"] is True
    assert left_out["ansible.builtin.group_by"] == {"key": "trishula_unchanged"}
    assert left_out["when"] == "__deploy_differs.values() | select | list == []"
    assert rolling["hosts"].startswith("trishula{% for host in groups.trishula_unchanged")


# Where these are used, each file is looked at every time.
NOT_COMPARED = {"trishula.node.plist.j2", "trishula-sync.service.j2", "trishula-sync.timer.j2"}


@pytest.mark.parametrize("role", ["trishula_base", "trishula_fallback", "trishula_node"])
def test_what_differs_in_any_file_that_a_role_renders_is_asked(role: str) -> None:
    compared = (ROOT / "roles" / role / "vars/main.yml").read_text("utf-8")
    templates = {path.name for path in (ROOT / "roles" / role / "templates").iterdir()} - NOT_COMPARED
    assert [name for name in sorted(templates) if not re.search(rf"\b{re.escape(name)}(?![\w.])", compared)] == []


# A host that is not there is to be named, by what comes after the question.
MAY_FAIL_ALONE = {"Reach every host", "Ask who is there", "Ask how its node is"}


def test_no_task_lets_a_play_go_on_after_an_error_but_the_question_who_is_there() -> None:
    for where, play in plays():
        assert not {"ignore_errors", "ignore_unreachable", "max_fail_percentage"} & set(play), (where, play["name"])
    lenient = {
        str(task.data.get("name"))
        for task in all_tasks()
        if task.keyword("ignore_errors")
        or task.keyword("ignore_unreachable")
        or task.data.get("any_errors_fatal") is False
    }
    assert lenient == MAY_FAIL_ALONE


def test_every_role_can_be_uninstalled_and_uninstall_does_it() -> None:
    called = [
        task.data["ansible.builtin.include_role"]["name"]
        for task in all_tasks()
        if task.where == "playbooks/uninstall.yml" and "ansible.builtin.include_role" in task.data
    ]
    assert sorted(called) == [role.name for role in ROLES]


def test_the_upgrade_is_the_site_behind_the_question_whether_the_mesh_is_whole() -> None:
    site = [play["ansible.builtin.import_playbook"].removeprefix("playbooks/") for play in load(ROOT / "site.yml")]
    preflight, whole, *rest = load(ROOT / "playbooks/upgrade.yml")
    imported = [play["ansible.builtin.import_playbook"] for play in [preflight, *rest]]
    assert imported == site
    ask, _ = whole["tasks"]
    assert ask["changed_when"] is False


def test_every_module_has_its_full_name() -> None:
    for task in [*all_tasks(), *all_tasks(handlers=True)]:
        assert task.module in MODULES or re.fullmatch(r"[a-z_]+\.[a-z_]+\.[a-z0-9_]+", task.module), task


def test_every_task_has_a_name() -> None:
    for task in [*all_tasks(), *all_tasks(handlers=True)]:
        assert task.data.get("name"), task


def test_no_restart_stands_outside_a_handler() -> None:
    for task in all_tasks():
        arguments = json.dumps(task.data.get(task.module))
        assert not re.search('"state": "(restarted|reloaded)"', arguments), task
        assert not re.search(r"systemctl[ \",]+(--\S+ )*(try-)?(re)?(start|load-or-restart)\b", arguments), task
        assert not re.search(r"launchctl[ \",]+(kickstart|kill)\b", arguments), task


def test_one_change_restarts_a_node_once() -> None:
    """systemd starts no socket under a node that runs without it; and by its socket a node restarts already."""
    both, node = (
        task
        for task in all_tasks(handlers=True)
        if str(task.data["name"]).startswith("Restart the ")
        and "node" in str(task.data["name"])
        and "agent" not in str(task.data["name"])
    )
    assert both.data[both.module]["cmd"].endswith(" restart trishula-node.socket trishula-node.service")
    [older] = [task for task in all_tasks() if task.data.get("notify") == node.data["name"]]
    assert older.data["when"] == "_trishula_node_socket_is_late == []"


# What a skipped task would have set: Ansible fills in a `fail_msg` though its `that` holds.
def test_a_message_of_an_assert_that_holds_can_be_filled_in_where_a_check_has_skipped_what_it_tells_of() -> None:
    facts = {
        name
        for task in all_tasks()
        if task.module == "ansible.builtin.set_fact"
        for name in task.data[task.module]
        if name.startswith("__")
    }
    assert facts
    for task in all_tasks():
        if task.module == "ansible.builtin.assert":
            message = str(task.data[task.module].get("fail_msg"))
            for name in facts:
                assert not re.search(rf"\b{name}\b(?! \| default\()", message), task


def test_handlers_do_nothing_but_restart_or_reload() -> None:
    handlers = all_tasks(handlers=True)
    assert handlers
    for handler in handlers:
        arguments = handler.data[handler.module]
        if "cmd" in arguments:  # no module has a user's session of launchd, or two units at once
            known = (
                r"launchctl (kickstart -k|kill HUP)|_trishula_node_load\b|systemctl daemon-reload && systemctl restart"
            )
            assert re.search(known, arguments["cmd"]), handler
        else:
            assert arguments["state"] in ("restarted", "reloaded"), handler


def test_sshd_is_never_restarted() -> None:
    # A restart with a mistake in its configuration leaves nobody to let anybody in; a reload leaves the one that runs.
    told = [task for task in all_tasks(handlers=True) if task.data[task.module].get("name") == "ssh.service"]
    assert [task.data[task.module]["state"] for task in told] == ["reloaded"]


# What holds secrets: the mesh secret, what is derived from it, and the file that the host keeps of it.
SECRET = re.compile(
    r"\b_+trishula_secrets_mesh\b|_trishula_secrets_files|(?<!_)_trishula_secrets_keys_file|mesh\.yml\.j2"
)


def test_a_task_that_touches_a_secret_logs_nothing() -> None:
    touching = [task for task in all_tasks() if SECRET.search(json.dumps(task.data)) and not harmless(task.data)]
    assert len(touching) >= 5
    for task in touching:
        assert task.keyword("no_log") is True, task


def harmless(task: dict[str, object]) -> bool:
    """To ask whether a file or a variable is there is to read nothing of it."""
    return "ansible.builtin.stat" in task or task.get("when") == "__trishula_secrets_mesh is not defined"


def test_what_runs_on_the_controller_needs_no_root_there() -> None:
    for task in all_tasks():
        assert task.keyword("become") is None, f"{task}: how to be root on a host is the inventory's word"


# Nothing on the host can read these before they are in place: journald has no check, a token is no document.
UNCHECKED = {"/etc/systemd/journald.conf.d/trishula.conf", "{{ trishula_secrets_agents_dir }}/{{ item.name }}.token"}


def test_every_file_of_the_configuration_is_read_by_its_program_before_it_is_put_in_place() -> None:
    written = [
        task
        for task in all_tasks()
        if task.module in ("ansible.builtin.template", "ansible.builtin.copy")
        and task.keyword("delegate_to") is None
        and not task.where.endswith("trishula_node/tasks/release.yml")  # pip holds every file there against its hash
    ]
    assert len(written) >= 7
    for task in written:
        arguments = task.data[task.module]
        assert "validate" in arguments or arguments["dest"] in UNCHECKED, task


def expanded(task: Task) -> list[str]:
    """Where Ansible expands $NAME by the environment of the module on the host, before a shell or program sees it."""
    arguments = task.data[task.module]
    if not isinstance(arguments, dict):
        return [str(arguments)] if task.module == "ansible.builtin.command" else []
    texts = [arguments.get("validate")]
    if task.module == "ansible.builtin.command" and arguments.get("expand_argument_vars", True):
        texts += [arguments.get("argv"), arguments.get("cmd")]
    return [text for part in texts for text in strings(part)]


def test_nothing_that_ansible_expands_has_a_name_of_the_hosts_environment() -> None:
    """`rm -r $PWD` in a `validate` removed the home of the login: by ssh that is where a module runs."""
    looked_at = 0
    variables = [load(role / "vars" / "main.yml") for role in ROLES if (role / "vars" / "main.yml").exists()]
    for task in [*all_tasks(), *all_tasks(handlers=True)]:
        for text in expanded(task):
            named = [text, *(str(values[name]) for values in variables for name in values if name in text)]
            looked_at += 1
            assert not [each for each in named if re.search(r"\$\{?[A-Za-z_]", each)], task
    assert looked_at >= 50


def test_every_file_has_an_owner_and_rights() -> None:
    for task in all_tasks():
        if task.module in ("ansible.builtin.template", "ansible.builtin.copy", "ansible.builtin.file"):
            arguments = task.data[task.module]
            if arguments.get("state") not in ("link", "absent"):
                assert "mode" in arguments, task


def strings(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict | list):
        for item in data.values() if isinstance(data, dict) else data:
            yield from strings(item)


def test_a_line_break_in_an_expression_is_one() -> None:
    """Ansible doubles a backslash in {{ }}: only YAML's double quotes make a line break of a \\n there."""
    for path in [*(ROOT / "roles").rglob("*.yml"), *(ROOT / "playbooks").rglob("*.yml")]:
        for text in strings(load(path)):
            for expression in re.findall(r"\{\{(.*?)\}\}", text, re.DOTALL):
                assert "\\n" not in expression or "--showformat" in expression, (path, expression)
