"""What keeps the packages small and the core pure, read from the source itself."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trishula

SOURCE = Path(trishula.__file__).parent
PACKAGES = {name: sorted((SOURCE / name).rglob("*.py")) for name in ("protocol", "node", "client", "cli")}

# What the core may have of the standard library: nothing that knows the time, the machine or chance.
PURE = {
    "__future__",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "itertools",
    "json",
    "re",
    "typing",
}
IMPURE_NAMES = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint", "id", "hash"}

MAY_IMPORT = {
    "protocol": {"protocol"},
    "node": {"protocol", "node"},
    "client": {"protocol", "client"},
    "cli": {"protocol", "node", "client", "cli"},
}
RUNS_ON = {
    "protocol": {"msgspec"},
    "node": {"msgspec", "watchfiles", "websockets"},
    "client": {"msgspec", "websockets"},
}

MOST_LINES = 8964
"""Of code: what explains it is not counted, so that nobody saves on that."""


def modules(*packages: str) -> list[object]:
    return [
        pytest.param(package, path, id=f"{package}.{path.stem}") for package in packages for path in PACKAGES[package]
    ]


def imported(path: Path) -> Iterator[str]:
    """The full names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(names: Iterator[str]) -> set[str]:
    """The packages of ours among imported names; `trishula` itself has but the version."""
    return {part for name in names if name.startswith("trishula.") for part in name.split(".")[1:2]} & set(PACKAGES)


def theirs(names: Iterator[str]) -> set[str]:
    roots = {name.split(".")[0] for name in names}
    return roots - {"trishula"}


def test_every_package_is_looked_at() -> None:
    assert {path.name for path in SOURCE.iterdir() if path.is_dir()} - {"__pycache__"} == set(PACKAGES)
    assert all(PACKAGES.values())


@pytest.mark.parametrize(("package", "path"), modules(*PACKAGES))
def test_imports_flow_one_way(package: str, path: Path) -> None:
    assert ours(imported(path)) <= MAY_IMPORT[package]


@pytest.mark.parametrize(("package", "path"), modules("protocol", "node", "client"))
def test_a_node_and_a_client_need_few_packages(package: str, path: Path) -> None:
    assert theirs(imported(path)) - sys.stdlib_module_names <= RUNS_ON[package]


@pytest.mark.parametrize(("package", "path"), modules("protocol"))
def test_the_core_is_pure(package: str, path: Path) -> None:
    del package
    assert theirs(imported(path)) - {"msgspec"} <= PURE
    tree = ast.parse(path.read_text())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called & IMPURE_NAMES == set()
    kinds = {type(node) for node in ast.walk(tree)}
    assert not kinds & {ast.Global, ast.AsyncFunctionDef, ast.Await, ast.AsyncWith, ast.AsyncFor}


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank, nor comments, nor docstrings."""
    source = path.read_text()
    strings = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr))
    documented = {
        line
        for node in strings
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(source.splitlines(), 1)
    return sum(
        bool(text.strip()) and not text.lstrip().startswith("#") and number not in documented for number, text in lines
    )


def test_of_the_commands_only_those_that_work_on_the_host_itself_use_the_modules_of_the_node() -> None:
    on_the_host = {path.stem for path in PACKAGES["cli"] if "node" in ours(imported(path))}
    assert on_the_host == {"node", "doctor", "sync"}
    page = (SOURCE.parent.parent / "docs/architecture.md").read_text()
    (row,) = re.findall(r"^\| `src/trishula/cli` \|.*\| (.*) \|$", page, re.MULTILINE)
    told, _, _ = row.partition(", which work on the host itself")
    assert {*re.findall(r"`(\w+)`", told)} == on_the_host


def test_the_core_and_the_node_stay_small() -> None:
    lines = {path.name: lines_of_code(path) for package in ("protocol", "node") for path in PACKAGES[package]}
    assert sum(lines.values()) <= MOST_LINES, f"what can go? {lines}"


def test_within_the_core_each_module_imports_only_those_above_it_on_the_page() -> None:
    """The page is the docstring of `trishula.protocol`."""
    page = ast.get_docstring(ast.parse((SOURCE / "protocol" / "__init__.py").read_text())) or ""
    order = [
        name for names in re.findall(r"^ {4}([a-z_]+(?:, [a-z_]+)*)", page, re.MULTILINE) for name in names.split(", ")
    ]
    assert sorted(order) == sorted(path.stem for path in PACKAGES["protocol"] if path.stem != "__init__")
    for place, name in enumerate(order):
        full = [part.split(".") for part in imported(SOURCE / "protocol" / f"{name}.py")]
        mine = {word for part in full if part[0] == "trishula" for word in part[2:] if word in order}
        assert mine <= set(order[:place]), name
