"""A command line that can't be meant."""

from __future__ import annotations

from trishula.protocol.errors import TrishulaError


class UsageError(TrishulaError):
    """Exit code 2: the arguments don't go together, or name what isn't there."""

    code = "usage"
