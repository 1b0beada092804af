"""Names of groups and channels; the rules are the same for all layers."""

from __future__ import annotations

import hashlib
import re

CLUSTER_GROUP = "tiderace-cluster"
"""The group in which every process that takes part in ``tiderace.cluster`` listens."""

MAX_NAME_LENGTH = 100
"""Names must be shorter than this many characters."""

_SAFE = re.compile(r"[a-zA-Z0-9\-_]+")
_DIGEST_LENGTH = 32


def group_name(*parts: object) -> str:
    """Return a legal group name for any values, such as ``group_name("user", user.email)``.

    Parts are converted to text and joined by dots. A part with characters that a name
    may not have (an ``@``, a space, a non-ASCII letter, a dot of its own), and a whole
    that is too long, is replaced by 32 hexadecimal digits of its SHA-256: different
    parts always make different names, and the same parts the same name.

    Raises:
        ValueError: without any part.
    """
    if not parts:
        raise ValueError("group_name() needs at least one part, such as 'user'")
    texts = [str(part) for part in parts]
    name = ".".join(
        text if _SAFE.fullmatch(text) and not _looks_hashed(text) else _digest(text)
        for text in texts
    )
    if len(name) >= MAX_NAME_LENGTH:
        # No other name begins with a dot, for no part is empty in one.
        return "." + _digest("".join(_digest(text) for text in texts))
    return name


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[
        :_DIGEST_LENGTH
    ]


def _looks_hashed(text: str) -> bool:
    # A part that could be mistaken for another part's digest is hashed itself.
    return len(text) == _DIGEST_LENGTH and all(c in "0123456789abcdef" for c in text)
