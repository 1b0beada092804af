"""The secret key of the demo, stored in a file beside the database.

A key in the source would be public; a new key at each start would end all sessions.
"""

from __future__ import annotations

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key


def load_or_create_secret_key(path: Path) -> str:
    """Return the key stored at ``path``; create it if there is none.

    The file is readable by its owner only, and created atomically: two processes that
    start at the same time use one key.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        try:
            draft.write_text(get_random_secret_key(), encoding="utf-8")
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first; its key is read below
        finally:
            draft.unlink()
    return path.read_text(encoding="utf-8")
