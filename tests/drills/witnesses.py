"""The five that an operator may ask how a node is: status, doctor, status.yml, /readyz and the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topology.nodes import SERVICE, eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from operations.operator import Operator
    from topology.nodes import Node

# A monitor on the host. Why a node is not ready is not for everybody who may ask.
_READYZ = """
import ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
try:
    answer = urllib.request.urlopen(f"https://127.0.0.1:{sys.argv[1]}/readyz", timeout=10, context=context)
except urllib.error.HTTPError as refusal:
    answer = refusal
print(answer.status)
"""


@dataclass(frozen=True)
class Witnesses:
    mesh: Mapping[str, Node]
    operator: Operator
    since: float

    def finding(self, node: Node, check: str, about: str = "") -> dict[str, Any]:
        """What the node finds of this check within a minute, if it is not well."""

        def bad() -> dict[str, Any] | None:
            return next((one for one in node.ailments() if one["check"] == check and about in one["about"]), None)

        found: dict[str, Any] = eventually(bad, within=60)
        return found

    def all_say(self, node: Node, *words: str, ready: bool, journal: str = "") -> None:
        """Each of the five tells it with these words, the cause and the cure; the clock is not blamed by any.

        Of the journal it is the first of them, or what `journal` says.
        """
        shown = node.run("trishula", "status").stdout
        doctor = node.run("trishula", "doctor").stdout
        site = self.operator.run("playbooks/status.yml")
        assert site.code != 0, site.said
        for said in (shown, doctor, site.text):
            told = " ".join(said.split())
            assert all(word in told for word in words), (words, said)
            assert "CLOCK NOT TRUSTED" not in said
            assert "the clock is not trusted" not in said
        assert self.readyz(node) == (200 if ready else 503)
        eventually(lambda: (journal or words[0]) in self.journal(node), within=30)

    def readyz(self, node: Node) -> int:
        return int(node.python(_READYZ, node.port))

    def journal(self, node: Node) -> str:
        """What the node has written since the test began."""
        return self._written(node)

    def alarms(self, node: Node) -> list[str]:
        """Of that, warnings and worse."""
        return self._written(node, "--priority warning").splitlines()

    def _written(self, node: Node, options: str = "") -> str:
        # journalctl takes whole seconds: rounded up, the first line would be missing.
        since = int(self.since)
        said: str = node.host.run(f"journalctl --quiet --output cat --unit {SERVICE} --since @{since} {options}").stdout
        return said
