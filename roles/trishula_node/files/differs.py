"""Ends well if all that is in a tar file is still so below /, as `tar --diff` does, which macOS' tar can't.

python3 differs.py FILE
"""

# ruff: noqa: INP001, T201 - it is handed to an interpreter
from __future__ import annotations

import sys
import tarfile
from pathlib import Path


def differs(kept: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    path = Path("/", member.name)
    try:
        if member.issym():
            return str(path.readlink()) != member.linkname
        if path.is_symlink() or path.is_dir() != member.isdir() or path.stat().st_mode & 0o7777 != member.mode:
            return True
        stream = kept.extractfile(member)
        return stream is not None and stream.read() != path.read_bytes()
    except OSError:
        return True


with tarfile.open(sys.argv[1]) as kept:
    changed = [member.name for member in kept if differs(kept, member)]
print("\n".join(changed), file=sys.stderr)
sys.exit(1 if changed else 0)
