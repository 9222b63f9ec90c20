"""The hosts that are dialled: how they treat strangers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from topology.nodes import TLS

if TYPE_CHECKING:
    from topology.nodes import Node

testinfra_hosts = ["ansible://agni", "ansible://rushabdev"]

# argv: address, port, CA file or "plain", the request. Prints the TLS version and the first line of the answer.
REQUEST = r"""
import socket, ssl, sys
address, port, ca, *lines = sys.argv[1:]
peer = socket.create_connection((address, int(port)), timeout=5)
version = "plain"
if ca != "plain":
    peer = ssl.create_default_context(cafile=ca).wrap_socket(peer, server_hostname=address)
    version = peer.version()
peer.sendall("".join(line + "\r\n" for line in [*lines, ""]).encode())
answer = b""
try:
    while b"\r\n" not in answer and (more := peer.recv(4096)):
        answer += more
except ConnectionResetError:
    pass
print(version, answer.split(b"\r\n")[0])
"""

UPGRADE = [
    "GET / HTTP/1.1",
    "Host: mesh",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


def test_a_stranger_without_a_token_is_turned_away_before_the_upgrade(
    node: Node, others: list[Node], router: Node
) -> None:
    for other in others:
        said = other.python(REQUEST, node.name, node.port, f"{TLS}/ca.crt", *UPGRADE)
        assert said == "TLSv1.3 b'HTTP/1.1 401 Unauthorized'"
        address = (router if other.dials_only else other).source(node)
        journal = node.output("journalctl --output cat --unit trishula-node.service").decode()
        assert f"{address}: no token" in journal


def test_a_stranger_with_a_wrong_token_is_turned_away(node: Node, others: list[Node]) -> None:
    token = f"Authorization: Bearer {'A' * 43}"
    said = others[0].python(REQUEST, node.name, node.port, f"{TLS}/ca.crt", *UPGRADE, token)
    assert said == "TLSv1.3 b'HTTP/1.1 401 Unauthorized'"


def test_plain_http_gets_no_answer(node: Node, others: list[Node]) -> None:
    said = others[0].python(REQUEST, node.name, node.port, "plain", *UPGRADE)
    assert "HTTP" not in said


def test_anybody_may_ask_whether_it_is_well(node: Node, others: list[Node]) -> None:
    said = others[0].python(REQUEST, node.name, node.port, f"{TLS}/ca.crt", "GET /healthz HTTP/1.1", "Host: mesh")
    assert said == "TLSv1.3 b'HTTP/1.1 200 OK'"
