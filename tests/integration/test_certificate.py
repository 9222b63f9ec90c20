"""A node takes a new certificate while it runs: no link is dropped, and what is no pair is not taken."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from trishula.cli.pki import Authority
from trishula.cli.sandbox import Place, Sandbox, until

HOMES = {"mac": ("mac",), "agni": ("agni",)}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "mesh", HOMES) as mesh:
        mesh.start()
        yield mesh


def shown(place: Place) -> str:
    """The serial number that a stranger is shown, in openssl's words."""
    context = ssl.create_default_context(cafile=place.ca)
    with socket.create_connection(place.listening.getsockname(), timeout=60) as plain:
        wrapped = context.wrap_socket(plain, server_hostname=place.name)
        with wrapped:
            return str((wrapped.getpeercert() or {})["serialNumber"])


def serial(certificate: bytes) -> str:
    number = x509.load_pem_x509_certificate(certificate).serial_number
    text = f"{number:X}"
    return text.zfill(len(text) + len(text) % 2)


async def certificate(mesh: Sandbox, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (await mesh.status(name))["certificate"]
    return found


async def since(mesh: Sandbox) -> list[int]:
    """When the link came up, by both nodes' word."""
    return [(await mesh.status(name))["peers"][other]["since"] for name, other in (("mac", "agni"), ("agni", "mac"))]


async def send(mesh: Sandbox, numbers: range) -> None:
    async with mesh.client("mac") as mac:
        for number in numbers:
            receipt = await mac.send("agni", subject=str(number), body="")
            await receipt.delivered(timeout=60)


def test_a_new_certificate_is_served_and_not_one_link_is_lost(mesh: Sandbox) -> None:
    async def story() -> None:
        await mesh.linked()
        up = await since(mesh)
        stream = asyncio.create_task(send(mesh, range(200)))
        for _ in range(5):
            pair = mesh.authority.issue("agni")
            mesh.put_certificate("agni", *pair)
            mesh.signal("agni", signal.SIGHUP)
            new = serial(pair[0])

            async def taken(new: str = new) -> bool:
                return bool((await certificate(mesh, "agni"))["serial"] == new)

            await until(taken, "the new certificate is taken")
            assert await asyncio.to_thread(shown, mesh.places["agni"]) == new
        await stream
        assert await since(mesh) == up
        for place in mesh.places.values():
            assert " down: " not in place.log.read_text()

    asyncio.run(story())


def test_a_pair_that_is_none_is_refused_and_the_old_one_serves_on(mesh: Sandbox) -> None:
    async def story() -> None:
        await mesh.linked()
        up = await since(mesh)
        old = await asyncio.to_thread(shown, mesh.places["agni"])
        certificate_of_one, _ = mesh.authority.issue("agni")
        _, key_of_another = mesh.authority.issue("agni")
        mesh.put_certificate("agni", certificate_of_one, key_of_another)
        mesh.signal("agni", signal.SIGHUP)

        async def refused() -> bool:
            return "don't make a pair" in (await certificate(mesh, "agni"))["refused"]

        await until(refused, "it is refused")
        assert await asyncio.to_thread(shown, mesh.places["agni"]) == old == (await certificate(mesh, "agni"))["serial"]
        assert f"the old one (serial {old}" in mesh.places["agni"].log.read_text()
        await send(mesh, range(1))
        assert await since(mesh) == up

    asyncio.run(story())


def test_a_node_trusts_the_mesh_ca_and_public_roots_where_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        public = Authority("A public CA")
        roots = tmp_path / "roots.pem"
        roots.write_bytes(public.certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        with Sandbox(
            tmp_path / "mesh", {**HOMES, "rushabdev": ("rushabdev",)}, settings={"tls": {"public_roots": True}}
        ) as mesh:
            mesh.put_certificate("agni", *public.issue("agni"))
            mesh.start()
            await mesh.linked()  # mac dials agni, who shows a public one, and rushabdev, who shows the mesh CA's

    asyncio.run(story())


def test_without_public_roots_a_public_certificate_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        public = Authority("A public CA")
        roots = tmp_path / "roots.pem"
        roots.write_bytes(public.certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        with Sandbox(tmp_path / "mesh", HOMES) as mesh:
            mesh.put_certificate("agni", *public.issue("agni"))
            mesh.start()
            await mesh.up()
            log = mesh.places["mac"].log
            await until(lambda: "its certificate is not good" in log.read_text(), "mac turns it down")

    asyncio.run(story())
