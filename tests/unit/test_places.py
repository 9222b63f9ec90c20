"""Where things are on a system, when nobody says where."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trishula.places import Places, on_linux, on_macos

LIBRARY = "/Users/dhyana/Library/Application Support/TRISHULA"


def test_on_linux_a_node_is_the_systems() -> None:
    here = on_linux()
    assert str(here.socket) == "/run/trishula/node.sock"
    assert [str(path) for path in (here.config, here.credentials, here.state)] == [
        "/etc/trishula/node.toml",
        "/etc/trishula/credentials",
        "/var/lib/trishula",
    ]


def test_on_macos_a_node_is_its_users_and_all_of_it_in_the_users_library() -> None:
    here = on_macos(Path("/Users/dhyana"))
    paths = (here.socket, here.config, here.credentials, here.state, here.runtime, here.fallback)
    assert all(str(path).startswith(LIBRARY) for path in paths)


@pytest.mark.parametrize("here", [on_linux(), on_macos(Path("/Users/a-login-of-thirty-two-characters"))])
def test_the_socket_of_an_agent_fits_into_what_a_system_allows(here: Places) -> None:
    assert len(str(here.runtime / "an-agent.sock")) <= here.socket_path_limit


# The rest of Python's own library would miss what only a Mac has.
ASK = """
import json, sys
here, sys.platform = sys.platform, sys.argv[1]
from trishula.places import HERE
sys.platform = here
from trishula.client.endpoint import endpoint
from trishula.cli.main import CONFIG
print(json.dumps([str(HERE.credentials), str(endpoint()), str(CONFIG)]))
"""


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", ["/etc/trishula/credentials", "/run/trishula/node.sock", "/etc/trishula/node.toml"]),
        ("darwin", [f"{LIBRARY}/credentials", f"{LIBRARY}/run/node.sock", f"{LIBRARY}/node.toml"]),
    ],
)
def test_client_command_and_node_look_there(platform: str, expected: list[str]) -> None:
    told = subprocess.check_output([sys.executable, "-c", ASK, platform], env={"HOME": "/Users/dhyana"}, text=True)
    assert json.loads(told) == expected


def test_a_socket_that_is_too_long_for_macos_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    runtime = "/" + "r" * 91
    file.write_text(f'[node]\nname = "mac"\nruntime_dir = "{runtime}"\n[agents.longer]\n')  # .sock: 104 bytes
    ask = "import sys; sys.platform = sys.argv[1]; from trishula.cli.main import main; main(sys.argv[2:])"
    said = {
        platform: subprocess.run(
            [sys.executable, "-c", ask, platform, "node", "check", "--config", file],
            capture_output=True,
            text=True,
            check=False,
        ).stderr
        for platform in ("linux", "darwin")
    }
    assert "a Unix socket's path has at most 103 bytes" in said["darwin"]
    assert "a Unix socket's path" not in said["linux"]
