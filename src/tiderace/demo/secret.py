"""The demo's signing key: made once, kept beside the database.

A key written in the source would be known to everyone, and a key made at every
start would log everybody out at each restart. It knows no Django settings.
"""

from __future__ import annotations

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

__all__ = ["kept_secret"]


def kept_secret(path: Path) -> str:
    """Return the key stored at ``path``, making it first when there is none.

    The file is readable by its owner only. Two processes that start at the same
    moment agree on one key: the file appears whole or not at all.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        try:
            draft.write_text(get_random_secret_key(), encoding="utf-8")
            os.link(draft, path)
        except FileExistsError:
            pass  # the other process was first; its key is read below
        finally:
            draft.unlink()
    return path.read_text(encoding="utf-8")
