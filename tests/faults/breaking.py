"""Ways to break something, and to mend it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topology.nodes import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from topology.nodes import Node


@dataclass
class Fault:
    """When it was made, and when it was mended; by the clock that all hosts share."""

    since: float
    mended: float = 0.0


@contextlib.contextmanager
def cut(here: Node, there: Node) -> Iterator[Fault]:
    """No packet passes between two hosts."""
    address = there.address
    with _rules(here, f"INPUT --source {address}", f"OUTPUT --destination {address}") as fault:
        yield fault


@contextlib.contextmanager
def cut_off(node: Node) -> Iterator[Fault]:
    """No packet passes between a host and any other, but for the connections by which its operator looks on."""
    operator = node.host.check_output("echo $SSH_CONNECTION").split()[0]
    with _rules(
        node,
        f"INPUT ! --in-interface lo ! --source {operator}",
        f"OUTPUT ! --out-interface lo ! --destination {operator}",
    ) as fault:
        yield fault


@contextlib.contextmanager
def blocked(nodes: Iterable[Node], port: int) -> Iterator[Fault]:
    """Nothing on this port passes, anywhere."""
    rules = (f"INPUT --protocol tcp --destination-port {port}", f"INPUT --protocol tcp --source-port {port}")
    with contextlib.ExitStack() as stack:
        faults = [stack.enter_context(_rules(node, *rules)) for node in nodes]
        fault = Fault(max(one.since for one in faults))
        yield fault
    # From the first on: two hosts may be linked again before the third is open.
    fault.mended = min(one.mended for one in faults)


@contextlib.contextmanager
def paused(node: Node) -> Iterator[Fault]:
    """All of the host stands still, but for its kernel: connections stay, and nobody answers on them."""
    container = node.facts["ansible_host"]
    fault = Fault(_freeze(container))
    try:
        yield fault
    finally:
        fault.mended = time.time()
        subprocess.run(["docker", "unpause", container], check=True, stdout=subprocess.DEVNULL)


def _freeze(container: str) -> float:
    """Stop it, and say since when. "unable to freeze" is a process that waits for its disk: it freezes later."""
    for _ in range(20):
        since = time.time()
        done = subprocess.run(["docker", "pause", container], check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return since
        if "unable to freeze" not in done.stderr:
            break
    raise AssertionError(f"docker pause {container}: {done.stderr.strip()}")


def forget_connections(router: Node) -> Fault:
    """The router drops what belongs to a connection from before, and sends no word of it."""
    return _at_once(router, "conntrack --flush 2>&1")


def restart(node: Node) -> Fault:
    return _at_once(node, f"systemctl restart {SERVICE}")


def kill(node: Node) -> Fault:
    return _at_once(node, f"systemctl kill --signal=KILL --kill-whom=main {SERVICE}")


@contextlib.contextmanager
def _rules(node: Node, *rules: str) -> Iterator[Fault]:
    fault = Fault(_run(node, " && ".join(f"iptables --insert {rule} --jump DROP" for rule in rules)))
    try:
        yield fault
    finally:
        fault.mended = _run(node, " && ".join(f"iptables --delete {rule} --jump DROP" for rule in rules))


def _at_once(node: Node, command: str) -> Fault:
    """Nothing but the hosts themselves mends this: it counts from when it was done."""
    moment = _run(node, command)
    return Fault(moment, moment)


def _run(node: Node, command: str) -> float:
    """Run it on a host, and say when it began."""
    return float(node.host.check_output(f"date +%s.%N && {command}").splitlines()[0])
