"""`trishula bounced`: what was not sent or did not arrive, and why."""

from __future__ import annotations

import argparse

import trishula
from trishula.cli.main import DONE
from trishula.cli.output import clock, print_json, visible
from trishula.cli.reach import with_node
from trishula.client.client import MOST_LISTED


def bounced(arguments: argparse.Namespace) -> int:
    """List it, or put one file back into the outbox."""

    async def work(mesh: trishula.Client) -> int:
        if arguments.retry is not None:
            found = await mesh.retry(arguments.retry)
            if arguments.json:
                print_json(found)
            else:
                print(visible(f"{found['file']} is in the outbox again"))
            return DONE
        found = await mesh.bounced(limit=min(arguments.limit, MOST_LISTED))
        if arguments.json:
            print_json(found)
        elif not found["files"]:
            print(f"{mesh.agent} has nothing in bounced/")
        for item in [] if arguments.json else found["files"]:
            print(visible(f"{item['file']}  {item['state']}, {clock(item['at'])}"))
            print(visible(f"  reason: {item['reason']}"))
            if item["fix"]:
                print(visible(f"  fix:    {item['fix']}"))
        if found["more"] and not arguments.json:
            print("and more: --limit shows them")
        return DONE

    return with_node(arguments, work)
