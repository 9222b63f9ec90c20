"""`trishula doctor` on real nodes: all well, and each thing that can be wrong by its name."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from trishula.cli.sandbox import Place, Sandbox


def doctor(place: Place) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "trishula.cli.main", "doctor", "--config", str(place.config), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in run.stderr
    return run.returncode, json.loads(run.stdout)["findings"]


def wrong(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(finding["check"], finding["text"]) for finding in found if finding["state"] == "failed"]


def test_a_whole_mesh_is_well_and_every_part_was_asked(three_nodes: Sandbox) -> None:
    code, found = doctor(three_nodes.places["mac"])
    assert (code, wrong(found)) == (0, [])
    asked = {finding["check"] for finding in found}
    assert asked == {"disk", "rights", "mailbox", "store", "socket", "tls", "tcp", "token", "node", "link", "clock"}
    assert {finding["text"] for finding in found if finding["check"] == "token"} == {
        "agni takes our token",
        "rushabdev takes our token",
    }


def test_it_makes_no_link_and_leaves_no_line_in_any_journal(three_nodes: Sandbox) -> None:
    logs = [place.log for place in three_nodes.places.values()]
    before = [log.read_text() for log in logs]
    doctor(three_nodes.places["mac"])
    assert [log.read_text() for log in logs] == before


def test_what_is_wrong_is_named_with_what_to_do(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "m", {"mac": ("mac",), "agni": ("agni",)}) as mesh:
        mesh.start("agni")
        asyncio.run(mesh.up("agni"))
        place = mesh.places["mac"]
        (place.credentials / "dial.json").write_text(json.dumps({"agni": "x" * 43}))
        (place.credentials / "keys.json").chmod(0o644)
        code, found = doctor(place)
        assert code == 1
        assert all(finding["fix"] for finding in found if finding["state"] in ("failed", "warning"))
        said = dict(wrong(found))
        assert said["token"] == "agni does not take our token (401)"
        assert "others can read" in said["rights"]
        assert "node.sock" in said["node"]  # it does not run


def test_a_certificate_of_another_authority_is_named_on_both_sides(tmp_path: Path) -> None:
    with (
        Sandbox(tmp_path / "one", {"mac": ("mac",), "agni": ("agni",)}) as mesh,
        Sandbox(tmp_path / "two", {"mac": ("mac",), "agni": ("agni",)}) as other,
    ):
        place = mesh.places["mac"]
        place.ca.write_bytes(other.places["mac"].ca.read_bytes())
        mesh.start()
        asyncio.run(mesh.up())
        _, found = doctor(place)
        texts = [text for check, text in wrong(found) if check == "tls"]
        assert [text.split(":")[0] for text in texts] == [
            "this node's certificate",
            "the certificate of agni",
            "peers don't trust the certificate of this node",  # as the node that serves it says, too
        ]


def test_a_configuration_with_mistakes_ends_with_all_of_them(tmp_path: Path) -> None:
    with Sandbox(tmp_path, {"mac": ("mac",)}) as mesh:
        place = mesh.places["mac"]
        place.config.write_text(place.config.read_text() + "\n[groups]\nbuilders = ['nobody']\n")
        code, found = doctor(place)
    assert code == 1
    assert [(finding["check"], finding["state"]) for finding in found] == [("config", "failed")]


def test_a_configuration_that_is_not_there_is_said(three_nodes: Sandbox, tmp_path: Path) -> None:
    place = dataclasses.replace(three_nodes.places["mac"], root=tmp_path / "no-such-host")
    code, [found] = doctor(place)
    assert (code, found["state"]) == (1, "failed")
    assert found["fix"] == "is the path right?"


def test_whoami_tells_a_stranger_nothing(three_nodes: Sandbox) -> None:
    place = three_nodes.places["agni"]
    context = ssl.create_default_context(cafile=str(place.ca))
    url = place.url.replace("wss", "https") + "/whoami"
    token = json.loads((three_nodes.places["mac"].credentials / "dial.json").read_text())["agni"]
    known = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(known, context=context) as answer:
        assert answer.read() == b"node mac\n"
    with pytest.raises(urllib.error.HTTPError) as turned_away:
        urllib.request.urlopen(url, context=context)
    assert turned_away.value.code == 401
    assert b"agni" not in turned_away.value.read()
