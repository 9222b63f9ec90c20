"""Every secret of a mesh as a search of its playbooks' output may find it.

Where $TRISHULA_SECRETS names a file, each phase of tests on converged hosts adds what is secret when it begins, for the
hosts are gone when `scripts/overheard` looks for it.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization

from topology.nodes import CREDENTIALS, TLS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from topology.nodes import Node

VARIABLE = "TRISHULA_SECRETS"
SHORTEST = 20
"""Characters, of what is looked for: less could be anywhere."""
_FILES = (
    *(f"{CREDENTIALS}/{name}" for name in ("keys.json", "dial.json")),
    f"{TLS}/node.key", "/etc/trishula/fallback/push", "/etc/trishula/fallback/pull",
)  # fmt: skip


def note(mesh: Iterable[Node], inventory: Path) -> None:
    """Add all to the file, if one is named."""
    if path := os.environ.get(VARIABLE):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.writelines(f"{secret}\n" for secret in sorted(words(mesh, inventory)))


def words(mesh: Iterable[Node], inventory: Path) -> set[str]:
    """Of all hosts and of the controller, as they are and as slurp and copy would show them."""
    # Where a release before this one made the mesh, they are not hidden.
    folder = next(path for path in (inventory / "secrets", inventory / ".secrets") if path.is_dir())
    contents = [(folder / name).read_bytes() for name in ("mesh.yml", "ca.key")]
    found = _secret_lines(contents[1])
    found |= {line.split()[1] for line in contents[0].decode().splitlines() if line.startswith("mesh_secret:")}
    for node in mesh:
        found |= node.secrets()
        contents += [node.read(path) for path in _FILES if node.host.file(path).exists]
    encoded = {base64.b64encode(content).decode() for content in contents}
    # From the middle: how a file begins may be no secret.
    found |= {text[len(text) // 2 : len(text) // 2 + 40] for text in encoded}
    public = "".join(_public_half(content) for content in contents if b"PRIVATE KEY-----" in content)
    return {word for word in found if len(word) >= SHORTEST and word not in public}


def _public_half(key: bytes) -> str:
    """The file of a private key ends with it, to the letter."""
    ssh = b"OPENSSH" in key
    private = (serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key)(key, password=None)
    form = (
        (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        if ssh
        else (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private.public_key().public_bytes(*form).decode()


def _secret_lines(pem: bytes) -> set[str]:
    return {line for line in pem.decode().splitlines() if not line.startswith("-----")}
