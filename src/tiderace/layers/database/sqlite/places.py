"""Checks whether a path suits a SQLite file that processes share."""

from __future__ import annotations

import os
import re
from pathlib import Path

# File systems of other machines, on which SQLite's locks and its shared memory fail.
_NETWORK = re.compile(
    r"(nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|lustre|beegfs|gfs2?|ocfs2|glusterfs)$"
    r"|fuse\.(sshfs|glusterfs|s3fs|rclone|ceph|gcsfuse|blobfuse2?|mount-s3)"
)

_MOUNTS = Path("/proc/self/mountinfo")


def access_problem(path: Path) -> str | None:
    """Return why this user cannot use or create the file at ``path``; None if they can."""
    folder = path.parent
    if not folder.is_dir():
        return f"its folder {folder} does not exist; create it"
    if not os.access(folder, os.W_OK | os.X_OK):
        # SQLite has its log and its shared memory in files beside it.
        return f"its folder {folder} is not writable for this user; change its owner"
    if path.is_dir():
        return "it is a folder; name a file in it"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return "it is not readable and writable for this user; change its owner"
    return None


def network_file_system(path: Path) -> str | None:
    """Return the type of the network file system that ``path`` is on; None for none.

    Only on Linux; elsewhere always None.
    """
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = path.resolve()
    found, kind = Path("/"), ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mounted = Path(_unescape(fields.split()[4]))
        # The last one mounted hides those before it at the same place.
        if place.is_relative_to(mounted) and mounted.is_relative_to(found):
            found, kind = mounted, rest.split()[0]
    return kind if _NETWORK.match(kind) else None


def _unescape(text: str) -> str:
    """Return the path of a mount, in which a blank is written as ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
