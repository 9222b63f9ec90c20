"""`trishula sync`: one round of rsync with every peer, for a timer and for people."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from trishula.cli.main import DONE, FAILED
from trishula.cli.output import print_json, print_table, visible
from trishula.node.config import ConfigErrors, load
from trishula.node.courier import Courier, courier_to
from trishula.protocol.errors import ConfigError


def sync(arguments: argparse.Namespace) -> int:
    """`trishula sync`. The node reads what has come by itself: it is the store's only writer."""
    try:
        config = load(Path(arguments.config), secrets=False)
    except ConfigErrors as mistakes:
        for mistake in mistakes.errors:
            print(f"trishula: {visible(str(mistake), lines=True)}", file=sys.stderr)
        return FAILED
    if config.fallback is None:
        raise ConfigError(f"{arguments.config} has no table [fallback]", key="fallback", fix="run site.yml")
    couriers = [courier for peer in config.peers.values() if (courier := courier_to(config, peer)) is not None]
    rounds = asyncio.run(_rounds(couriers))
    if arguments.json:
        print_json({"peers": rounds})
    elif rounds:
        print_table(("PEER", "PUSH", "PULL"), [(row["peer"], _said(row["push"]), _said(row["pull"])) for row in rounds])
    else:
        print(f"{config.node} runs rsync with nobody: its peers do")
    return FAILED if any(row["push"] or row["pull"] for row in rounds) else DONE


async def _rounds(couriers: list[Courier]) -> list[dict[str, Any]]:
    return await asyncio.gather(*(_round(courier) for courier in couriers))


async def _round(courier: Courier) -> dict[str, Any]:
    """What went wrong, by direction: nothing where all went well, None where it is not ours to do."""
    return {"peer": courier.peer, "push": await courier.push(), "pull": await courier.pull() if courier.pulls else None}


def _said(problem: str | None) -> str:
    return "-" if problem is None else problem or "done"
