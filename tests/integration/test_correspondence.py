"""The checker of the fault tests sees what it is there to see."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from integration.correspondence import Correspondence
from trishula.cli.sandbox import Sandbox


def test_mail_that_is_lost_doubled_altered_or_from_nobody_is_seen_and_archived_mail_is_fine(tmp_path: Path) -> None:
    async def story(mesh: Sandbox) -> None:
        mesh.start()
        await mesh.linked()
        async with Correspondence(mesh, seed=1, most_each=0) as mail:
            for name in ("lost", "doubled", "altered", "archived", "unsent"):
                await mail.send("mac", ["agni"], name)
            await mail.ended()
            assert await mail.mistakes() == []
            mailbox = mesh.home("agni").mailbox("agni")
            file = {path.stem: path for path in (mailbox / "inbox").iterdir()}
            file["lost"].unlink()
            (mailbox / "archive" / "again.json").write_bytes(file["doubled"].read_bytes())
            file["altered"].write_bytes(file["altered"].read_bytes() + b"\n")
            file["archived"].rename(mailbox / "archive" / "done.json")
            (mailbox / "inbox" / "forged.json").write_text(json.dumps({"id": "forged", "from": "mac"}))
            (mesh.home("mac").mailbox("mac") / "outbox" / "unsent.json").unlink()
            assert sorted(await mail.mistakes()) == [
                "altered to agni, delivered: its file is not what its sender's outbox holds",
                "doubled to agni, delivered: 2 files",
                "forged from mac to agni: nobody sent it",
                "lost to agni, delivered: 0 files",
                "unsent to agni, delivered: its file is not what its sender's outbox holds",
                "unsent: 0 outbox files, or not what was stored",
            ]

    with Sandbox(tmp_path) as mesh:
        asyncio.run(story(mesh))
