"""Nodes of two releases on one mesh: each pair speaks the last version of the protocol that both know."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from integration.correspondence import Correspondence
from integration.network import Network
from trishula.cli.sandbox import STANDARD, Sandbox, until
from trishula.protocol.envelope import State

# Read by each Python that finds it on its path, before anything else: a node then knows version 1 alone, to the frame.
FORMER_RELEASE = """
import msgspec
from trishula.protocol import frames as f
f.VERSIONS = (1, 1)
f._decoder = msgspec.json.Decoder(
    f.Hello | f.Welcome | f.Deliver | f.Ack | f.Receipts | f.Defer | f.Ping | f.Pong | f.Bye
)
"""


class MixedMesh(Sandbox):
    """A mesh whose nodes run the former release or this one."""

    def start_former(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        folder = self.directory.with_name("former")
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(FORMER_RELEASE)
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", str(folder))
            self.start(*names)


@pytest.mark.long
def test_a_mesh_is_upgraded_and_taken_back_node_by_node_in_mid_stream(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        with MixedMesh(tmp_path / "mesh") as mesh:
            mesh.start_former(monkeypatch, *STANDARD)
            await mesh.linked()
            async with Correspondence(mesh, seed) as mail:
                for name in STANDARD:
                    mesh.stop(name)
                    mesh.start(name)
                    await mesh.linked()
                mesh.stop("agni")
                mesh.start_former(monkeypatch, "agni")
                await mesh.linked()
                await mail.ended()
                assert await mail.mistakes() == []
                assert set(mail.outcomes) == {State.DELIVERED}
            for place in mesh.places.values():
                log = place.log.read_text()
                assert "not a frame" not in log
                assert "Traceback" not in log

    asyncio.run(story())


def test_a_neighbour_relays_when_it_is_of_a_release_that_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        network = Network()
        with MixedMesh(tmp_path / "mesh", via=network.via) as mesh:
            async with network:
                mesh.start("mac", "rushabdev")
                mesh.start_former(monkeypatch, "agni")
                await mesh.linked()
                network.between("mac", "rushabdev").cut()
                await until(lambda: apart(mesh, "mac", "rushabdev"), "mac misses rushabdev")
                async with mesh.client("mac") as mac:
                    receipt = await mac.send("rushabdev", body="round about")
                    neighbour = await mac.send("agni", body="straight")
                    await neighbour.delivered(timeout=60)
                    assert (await mesh.status("mac"))["peers"]["rushabdev"]["route"] is None
                    mesh.stop("agni")
                    mesh.start("agni")
                    (outcome,) = await receipt.delivered(timeout=60)
                    assert outcome.route == "relay:agni"

    asyncio.run(story())


async def apart(mesh: Sandbox, name: str, other: str) -> bool:
    return not (await mesh.status(name))["peers"][other]["linked"]
