"""`trishula node check` names the key, the value and the fix for each kind of wrong configuration."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from trishula.node.config import Config, ConfigErrors, load
from trishula.protocol.limits import Limits

TOKEN_HASH = "0" * 64
GOOD = """
[node]
name = "mac"
state_dir = "/var/lib/trishula"
runtime_dir = "/run/trishula"
default_agent = "mac"
always_on = false

[listen]
address = "127.0.0.1"
port = 8765

[tls]
certificate = "{tls}"
private_key = "{tls}"
ca = "{tls}"

[agents.mac]
socket_group = "openclaw"
[agents.dhyana]

[peers.agni]
dial = true
url = "wss://agni:8765"
agents = ["agni"]
[peers.rushabdev]
agents = ["rushabdev"]

[groups]
builders = ["agni", "rushabdev"]

[limits]
max_skew_s = 30
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with credentials that fit `GOOD`."""
    key = base64.b64encode(bytes(32)).decode()
    pairs = {peer: [{"kid": "1", "key": key}] for peer in ("agni", "rushabdev")}
    write(
        tmp_path, "accept.json", [{"node": "rushabdev", "sha256": TOKEN_HASH}, {"agent": "mac", "sha256": TOKEN_HASH}]
    )
    write(tmp_path, "dial.json", {"agni": "token"})
    write(tmp_path, "keys.json", pairs)
    return tmp_path


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def config(folder: Path, text: str = GOOD) -> Config:
    path = folder / "node.toml"
    path.write_text(text.replace("{tls}", str(path)))
    return load(path, folder)


def mistakes(folder: Path, text: str = GOOD) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        config(folder, text)
    assert all(error.fix for error in caught.value.errors), "each mistake has a fix"
    return [str(error) for error in caught.value.errors]


def the_mistake(folder: Path, text: str = GOOD) -> str:
    (only,) = mistakes(folder, text)
    return only


def test_a_good_file_is_what_it_says(folder: Path) -> None:
    good = config(folder)
    assert (good.node, good.default_agent, good.always_on, good.listen_port) == ("mac", "mac", False, 8765)
    assert good.mailbox_dir == Path("/var/lib/trishula/mailboxes")
    assert good.agents["mac"].socket_group == "openclaw"
    assert good.agents["dhyana"].socket_group is None
    assert good.peers["agni"].dial
    assert good.limits.max_message_bytes == 1024 * 1024
    assert good.limits.default_ttl == 7 * 24 * 3600 * 1000
    assert good.directory().expand(["all"], sender="mac") == ("agni", "rushabdev", "dhyana")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "mac"', 'name = "Mac"', ["node.name", "'Mac'", "a-z 0-9"]),
        ('name = "mac"\n', "", ["node.name is missing"]),
        ('state_dir = "/var', 'state_dir = "var', ["node.state_dir", "var/lib/trishula", "absolute"]),
        ('runtime_dir = "/run', 'runtime_dir = "/' + "r" * 120, ["node.runtime_dir", "shorter"]),
        ("always_on = false", 'always_on = "no"', ["node.always_on", "'no'", "true or false"]),
        ("always_on = false", 'jikoku_log = "JIKOKU_LOG.jsonl"', ["node.jikoku_log", "absolute"]),
        ("always_on = false", 'unsigned_inbox = "yes"', ["node.unsigned_inbox", "true or false"]),
        ("[agents.dhyana]", "[agents.dhyana]\nreceipts = 1", ["agents.dhyana.receipts", "true or false"]),
        ('default_agent = "mac"', 'default_agent = "agni"', ["node.default_agent", "'agni'", "mac, dhyana"]),
        ('default_agent = "mac"\n', "", ["node.default_agent is missing", "node.sock"]),
        ("port = 8765", "port = 88765", ["listen.port", "88765", "0 to 65535"]),
        ("port = 8765", "port = true", ["listen.port", "True", "whole number"]),
        ("port = 8765", "prot = 8765", ["listen.prot is no known key", "port"]),
        ('certificate = "{tls}"', 'certificate = "/no/such"', ["tls.certificate", "/no/such", "path right"]),
        ('ca = "{tls}"\n', "", ["tls.ca is missing", "PEM"]),
        ("[agents.dhyana]", "[agents.Dhyana]", ["agents", "'Dhyana'", "a-z"]),
        ("[agents.dhyana]", "[agents.all]", ["agents", "'all'"]),
        ("[agents.dhyana]", "[agents.agni]", ["peers.agni.agents", "'agni'", "lives in agents already"]),
        ('url = "wss://agni:8765"', 'url = "ws://agni:8765"', ["peers.agni.url", "ws://agni:8765", "wss://HOST:PORT"]),
        ('url = "wss://agni:8765"', 'url = "wss://agni..example.org:8765"', ["peers.agni.url", "wss://HOST:PORT"]),
        ('url = "wss://agni:8765"\n', "", ["peers.agni.url is missing", "dial = true"]),
        ('"rushabdev"]\n\n[groups]', '"agni"]\n\n[groups]', ["peers.rushabdev.agents", "lives in peers.agni already"]),
        ('builders = ["agni"', 'builders = ["nobody"', ["groups.builders", "'nobody'"]),
        ('builders = ["agni", "rushabdev"]', "builders = [1]", ["groups.builders", "list of names"]),
        ("max_skew_s = 30", "max_skew_s = 0", ["limits.max_skew_s", "0", "1 to 3600"]),
        ("max_skew_s = 30", "default_ttl_s = 9000000", ["limits.default_ttl_s", "limits.max_ttl_s"]),
        ("[limits]", "[limit]", ["limit is no known key", "limits"]),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_a_fix(folder: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    found = mistakes(folder, GOOD.replace(old, new))
    assert any(all(word in mistake for word in words) for mistake in found), found


def test_all_mistakes_are_found_at_once(folder: Path) -> None:
    text = GOOD.replace("port = 8765", "port = -1").replace("max_skew_s = 30", "max_skew_s = 0")
    assert len(mistakes(folder, text)) == 2


def test_a_file_that_is_missing_or_no_toml_is_said_so(folder: Path) -> None:
    assert "is not TOML" in the_mistake(folder, "[node\n")
    with pytest.raises(ConfigErrors, match="can't read"):
        load(folder / "nowhere.toml")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("accept.json", None, ["accept.json", "can't read", "site.yml"]),
        ("accept.json", [{"node": "nobody", "sha256": TOKEN_HASH}], ["accept.json", "'nobody'"]),
        ("accept.json", [], ["accept.json: rushabdev has no token"]),
        ("accept.json", [{"sha256": TOKEN_HASH}], ["accept.json", "exactly one of node and agent"]),
        ("accept.json", [{"node": "agni", "sha256": "short"}], ["accept.json", "regex"]),
        ("dial.json", {}, ["dial.json", "agni", "site.yml"]),
        ("dial.json", [], ["dial.json", "Expected `object`"]),
        ("keys.json", {"agni": [{"kid": "1", "key": base64.b64encode(bytes(32)).decode()}]}, ["rushabdev has no key"]),
        ("keys.json", {peer: [{"kid": "1", "key": "c2hvcnQ="}] for peer in ("agni", "rushabdev")}, ["not 32 bytes"]),
    ],
)
def test_a_wrong_credential_file_is_named(folder: Path, file: str, content: object, words: list[str]) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        write(folder, file, content)
    found = mistakes(folder)
    assert any(all(word in mistake for word in words) for mistake in found), found


def test_no_secret_is_in_what_the_check_says(folder: Path) -> None:
    secret = base64.b64encode(b"too short to be a key").decode()
    write(folder, "keys.json", {peer: [{"kid": "1", "key": secret}] for peer in ("agni", "rushabdev")})
    write(folder, "accept.json", [{"node": "nobody", "sha256": "ab" * 32}])
    said = "\n".join(mistakes(folder))
    assert secret not in said
    assert "ab" * 32 not in said


def test_without_credentials_the_check_says_where_they_come_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path = folder / "node.toml"
    path.write_text(GOOD.replace("{tls}", str(path)))
    with pytest.raises(ConfigErrors, match="LoadCredential"):
        load(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert load(path).node == "mac"


def test_the_documented_limits_are_the_nodes_own(folder: Path, pytestconfig: pytest.Config) -> None:
    text = (pytestconfig.rootpath / "docs" / "configuration.md").read_text("utf-8")
    documented = text[text.index("[limits]") : text.index("```", text.index("[limits]"))]
    told = config(folder, GOOD.replace("[limits]\nmax_skew_s = 30\n", documented))
    assert told.limits == config(folder).limits == Limits()
    assert len(documented.splitlines()) == 1 + 10
