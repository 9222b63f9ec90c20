"""What a run says to a person: plays, what changed, what failed, and one closing line.

It is Ansible's own output without the tasks that changed nothing. With ``-v`` and more it is Ansible's own output.
"""

# ruff: noqa: INP001 - Ansible looks into this folder; it is no package
from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ansible.plugins.callback.default import CallbackModule as Default

if TYPE_CHECKING:
    from ansible.executor.stats import AggregateStats

DOCUMENTATION = """
name: trishula
type: stdout
short_description: What changed, what failed, and one closing line
description: Ansible's default output without the tasks that changed nothing; with -v, all of it.
extends_documentation_fragment: [default_callback, result_format_callback]
"""

SPEAKS = ("debug", "ansible.builtin.debug")
"""What is there to be read, though it changes nothing."""


class CallbackModule(Default):
    """Ansible's default output, cut."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "trishula"

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()

    def _cut(self, result: Any) -> bool:
        return self._display.verbosity == 0 and not result.is_changed() and result.task.action not in SPEAKS

    def v2_runner_on_ok(self, result: Any) -> None:
        """Shows what changed or speaks."""
        if not self._cut(result):
            super().v2_runner_on_ok(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Shows what changed or speaks."""
        if not self._cut(result):
            super().v2_runner_item_on_ok(result)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Shows nothing: how the work is cut into files is no news."""
        if self._display.verbosity > 0:
            super().v2_playbook_on_include(included_file)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Shows nothing: a play that has no hosts has nothing to do."""
        if self._display.verbosity > 0:
            super().v2_playbook_on_no_hosts_matched()

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        """Shows the recap and, where verify.yml came to its end, the closing line."""
        super().v2_playbook_on_stats(stats)
        verified = stats.custom.get("_run", {}).get("trishula_verified")
        if verified:
            changes = sum(stats.changed.values())
            changed = f"{changes} changes" if changes > 1 else "1 change" if changes else "nothing changed"
            self._display.display(f"{verified}; {changed}; {time.monotonic() - self._started:.0f} s")
