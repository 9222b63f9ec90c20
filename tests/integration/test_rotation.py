"""Real nodes whose secrets are rotated under a stream, as the playbook does it: nothing lost, nothing refused."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from contract.conftest import filters
from integration.correspondence import Correspondence
from integration.network import Network
from integration.test_faults import Watch, all_is_well, running
from trishula.cli.sandbox import STANDARD, Place, Sandbox, until
from trishula.protocol.envelope import State

NOW = "2026-01-01T00:00:00Z"
COMPLAINTS = re.compile(
    r"\btoken\b|turned away(?!.*: no TLS handshake \(Connection)"
    r"|deferred(?!.* has no link to)|ignored|unknown key|signature"
)
"""What a node says when something that it was sent is not good.

That a laptop can't relay to a node that restarts is no such thing, and neither is a peer that ends while it dials.
"""


@pytest.fixture(scope="session")
def secrets() -> ModuleType:
    return filters("trishula_secrets")


@pytest.fixture(scope="session")
def rotation() -> ModuleType:
    return filters("trishula_rotation")


class Vault:
    """What the role derives on the controller, put where a sandbox's nodes read it."""

    def __init__(self, mesh: Sandbox, secrets: ModuleType) -> None:
        self.state: dict[str, Any] = {}
        self._mesh = mesh
        self._secrets = secrets

    def hand_out(self, name: str) -> None:
        place = self._mesh.places[name]
        known = {"mesh_secret": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", **self.state}
        names = list(self._mesh.places)
        peers = [
            {"name": peer, "dial": names.index(name) < names.index(peer)}
            for peer in names
            if peer != name and peer not in self.state.get("revoked", [])
        ]
        agents = [{"name": agent} for agent in place.agents]
        files = {
            "keys.json": self._secrets.keys(known, name, peers),
            "dial.json": self._secrets.dial(known, name, peers),
            "accept.json": self._secrets.accept(known, name, peers, agents),
        }
        for file, value in files.items():
            (place.credentials / file).write_text(json.dumps(value))

    async def roll(self, *names: str) -> None:
        """One node after the other, the next when this one is ready."""
        for name in names or self._mesh.places:
            self.hand_out(name)
            self._mesh.stop(name)
            self._mesh.start(name)
            await self._mesh.up(name)


async def renewed(mesh: Sandbox, vault: Vault) -> None:
    """From the sandbox's own secrets to derived ones, as on a new mesh."""
    mesh.stop()
    for name in mesh.places:
        vault.hand_out(name)
    mesh.start()
    await mesh.linked()


def complaints(watches: Mapping[str, Watch]) -> list[str]:
    return [line for watch in watches.values() for line in watch.text.splitlines() if COMPLAINTS.search(line)]


def kids(place: Place) -> set[str]:
    keys = json.loads((place.credentials / "keys.json").read_text())
    return {key["kid"] for pair in keys.values() for key in pair}


def forget(place: Place, peer: str) -> None:
    """Take a peer out of the configuration, as the wiring does with who was revoked or has left."""
    text = place.config.read_text()
    place.config.write_text(re.sub(rf"^\[peers\.{peer}\]\n(?:(?!\[).*\n)*", "", text, flags=re.MULTILINE))
    assert peer not in re.findall(r"\[peers\.(\S+)\]", place.config.read_text())


@pytest.mark.long
@pytest.mark.parametrize("who", ["mac", "all"])
def test_secrets_are_rotated_under_a_stream_with_nothing_lost_and_nothing_refused(
    tmp_path: Path, seed: int, secrets: ModuleType, rotation: ModuleType, who: str
) -> None:
    async def story() -> None:
        async with running(tmp_path) as mesh:
            vault = Vault(mesh, secrets)
            await renewed(mesh, vault)
            watches = {name: Watch(place) for name, place in mesh.places.items()}
            async with Correspondence(mesh, seed) as mail:
                vault.state = rotation.accept(vault.state, list(STANDARD) if who == "all" else [who], NOW, 0)
                await vault.roll()
                vault.state = rotation.send(vault.state)
                await vault.roll()
                vault.state = rotation.retire(vault.state)
                await vault.roll()
                await mesh.linked()
                await all_is_well(mail)
            assert complaints(watches) == []
            assert kids(mesh.places["mac"]) == ({"2.2"} if who == "all" else {"1.2", "2.1"})

    asyncio.run(story())


def test_mail_that_a_relay_held_under_the_old_key_arrives_when_that_is_retired(
    tmp_path: Path, secrets: ModuleType, rotation: ModuleType
) -> None:
    network = Network()

    async def story() -> None:
        async with running(tmp_path, network=network) as mesh:
            vault = Vault(mesh, secrets)
            await renewed(mesh, vault)
            network.between("mac", "agni").cut()
            mesh.stop("agni")
            async with mesh.client("mac") as mac:
                receipt = await mac.send({"id": "held", "from": "mac", "to": ["agni"]})
                await until(lambda: held(mesh, "rushabdev"), "rushabdev holds it")
                for step in (lambda state: rotation.accept(state, list(STANDARD), NOW, 0), rotation.send):
                    vault.state = step(vault.state)
                    await vault.roll("mac", "rushabdev")
                vault.state = rotation.retire(vault.state)
                vault.hand_out("agni")
                mesh.start("agni")
                await vault.roll("mac", "rushabdev")
                (outcome,) = await receipt.delivered(timeout=60)
                assert (outcome.state, outcome.route) == (State.DELIVERED, "relay:rushabdev")

    asyncio.run(story())


async def held(mesh: Sandbox, name: str) -> bool:
    return (await mesh.status(name))["store"]["held"]["bytes"] > 0


def test_a_revoked_node_gets_no_link_and_no_mail_and_the_others_go_on(
    tmp_path: Path, secrets: ModuleType, rotation: ModuleType
) -> None:
    async def story() -> None:
        async with running(tmp_path) as mesh:
            vault = Vault(mesh, secrets)
            await renewed(mesh, vault)
            mesh.stop("mac")
            async with mesh.client("agni") as agni:
                receipt = await agni.send({"id": "for-mac", "from": "agni", "to": ["mac"]})
                vault.state = rotation.revoke(vault.state, ["mac"], NOW)
                for name in ("agni", "rushabdev"):
                    forget(mesh.places[name], "mac")
                    await vault.roll(name)
                watch = Watch(mesh.places["mac"])
                mesh.start("mac")  # the thief has all that it had
                for peer in ("agni", "rushabdev"):
                    await watch.says(f"can't link to {peer} ({mesh.places[peer].url}): it does not accept our token")
                await until(lambda: receipt.outcomes[0].state is State.REFUSED, "agni is told")
                assert receipt.outcomes[0].reason == "removed"
                other = await agni.send({"id": "for-rushabdev", "from": "agni", "to": ["rushabdev"]})
                await other.delivered(timeout=60)
                assert "link to" not in watch.text.replace("can't link to", "")

    asyncio.run(story())


def test_what_a_node_held_that_left_the_mesh_is_offered_again(
    tmp_path: Path, secrets: ModuleType, rotation: ModuleType
) -> None:
    async def story() -> None:
        async with running(tmp_path) as mesh:
            vault = Vault(mesh, secrets)
            await renewed(mesh, vault)
            mesh.stop("agni")
            async with mesh.client("mac") as mac:
                receipt = await mac.send({"id": "held", "from": "mac", "to": ["agni"]})
                await until(lambda: held(mesh, "rushabdev"), "rushabdev holds it")
                mesh.stop("rushabdev")
                vault.state = rotation.members({"generations": {node: [1] for node in STANDARD}}, ["agni", "mac"])
                for name in ("mac", "agni"):
                    forget(mesh.places[name], "rushabdev")
                mesh.start("agni")
                mesh.stop("mac")
                mesh.start("mac")
                (outcome,) = await receipt.delivered(timeout=60)
                assert outcome.route == "direct"
            assert vault.state["generations"]["rushabdev"] == [2]
            assert vault.state["gone"] == ["rushabdev"]

    asyncio.run(story())
