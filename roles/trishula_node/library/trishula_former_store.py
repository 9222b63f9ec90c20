"""Puts back the copy of a store that the node made before its format changed, if nothing was accepted since.

    store/former.db ──► store/trishula.db

It runs on the host's own Python: the release that is to be left may not run at all, and the one before it knows nothing
of the new format. It needs to know one thing of any format: rows that are accepted are numbered by AUTOINCREMENT.
"""

# ruff: noqa: INP001
from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: trishula_former_store
short_description: Put back a store of the former format
description:
  - Does nothing where there is no copy.
  - Where the store has accepted something since the copy was made, it stays. What lies in it would be lost.
options:
  path:
    description: The folder of the store.
    type: path
    required: true
author: TRISHULA contributors
"""
EXAMPLES = r"""
- name: Put back the store of the former format
  trishula_former_store:
    path: /var/lib/trishula/store
"""
RETURN = r"""
stays:
  description: Whether the store has to stay as it is.
  returned: always
  type: bool
accepted:
  description: How many rows it has accepted since the copy was made.
  returned: always
  type: int
"""


def accepted(path: Path) -> int:
    """How many rows of mail a store has ever accepted, whatever became of them."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT total(seq) FROM sqlite_sequence").fetchone()[0])


def life_of(path: Path) -> str | None:
    """The name of the store's last life, by which a copy is told from the store itself; older formats have none."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT value FROM meta WHERE key = 'life'").fetchone()
    return None if found is None else str(found[0])


def put_back(folder: Path) -> None:
    """The copy becomes the store. Its name of life does, too: nothing was accepted since, so it is the same store."""
    former, store, mark = folder / "former.db", folder / "trishula.db", folder.with_suffix(".life")
    life = life_of(former)
    for name in ("trishula.db-wal", "trishula.db-shm", "former.db-wal", "former.db-shm"):
        (folder / name).unlink(missing_ok=True)
    former.replace(store)
    if life is not None and mark.exists():
        mark.write_text(life)


def main() -> None:
    """Run the module."""
    module = AnsibleModule({"path": {"type": "path", "required": True}}, supports_check_mode=True)
    folder = Path(module.params["path"])
    if not (folder / "former.db").exists():
        module.exit_json(changed=False, stays=False, accepted=0)
    with (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            since = accepted(folder / "trishula.db") - accepted(folder / "former.db")
            if since == 0 and not module.check_mode:
                put_back(folder)
        except BlockingIOError:
            module.fail_json(msg=f"a node runs on {folder}: stop it first")
        except (OSError, sqlite3.Error) as error:
            module.fail_json(msg=f"the store in {folder} can't be put back: {error}")
    module.exit_json(changed=since == 0, stays=since != 0, accepted=since)


if __name__ == "__main__":
    main()
