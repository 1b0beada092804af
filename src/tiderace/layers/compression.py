"""Large payloads made smaller, in a form that every reader recognises.

It knows bytes; what is in them, and whether they are encrypted later, it does not know.

A compressed payload starts with the byte 0xC1, which begins neither msgpack (reserved
there), nor UTF-8 and so JSON (never legal there), nor a Fernet token (Base64). A second
byte says how. A payload of another format that happens to begin with 0xC1 is wrapped as
"not compressed". So ``expand`` needs no setting, and processes that compress and
processes that do not understand each other while a deploy is under way.
"""

from __future__ import annotations

import importlib
import zlib
from types import ModuleType

from tiderace.conf import nearest

__all__ = ["ALGORITHMS", "compress", "expand", "plain", "require"]

_MARK = b"\xc1"
_STORED, _ZLIB, _ZSTD = b"\x00", b"\x01", b"\x02"

ALGORITHMS = ("zlib", "zstd")
"""What ``compress`` can do: zlib everywhere, zstd from Python 3.14 or with a package."""


def compress(data: bytes, algorithm: str) -> bytes:
    """``data`` in fewer bytes, or as it is when they would not be fewer.

    Args:
        data: any bytes.
        algorithm: one of ``ALGORITHMS``.
    """
    if algorithm == "zlib":
        # Level 1: on chat-sized JSON the higher ones save 5% and cost half as much again.
        smaller = _MARK + _ZLIB + zlib.compress(data, 1)
    else:
        smaller = _MARK + _ZSTD + _zstd().compress(data)
    return smaller if len(smaller) < len(data) else plain(data)


def plain(data: bytes) -> bytes:
    """``data`` as ``expand`` has to find it when it is not compressed."""
    return _MARK + _STORED + data if data[:1] == _MARK else data


def expand(data: bytes) -> bytes:
    """What ``compress`` or ``plain`` was given.

    Raises:
        ValueError: for a compression this version does not know.
        ImportError: for zstd on a Python without it.
    """
    if data[:1] != _MARK:
        return data
    algorithm, rest = data[1:2], data[2:]
    if algorithm == _STORED:
        return rest
    if algorithm == _ZLIB:
        return zlib.decompress(rest)
    if algorithm == _ZSTD:
        content: bytes = _zstd().decompress(rest)
        return content
    raise ValueError(
        f"a message is compressed in way {algorithm.hex() or 'none'}, which this version "
        "of tiderace does not know; bring all processes to one version before switching "
        "a new compression on"
    )


def require(algorithm: str) -> None:
    """Check that ``compress`` can do ``algorithm`` here.

    Raises:
        ValueError: for a name that is none of ``ALGORITHMS``.
        ImportError: when it needs a package that is not installed.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"compression is {algorithm!r}{nearest(str(algorithm), ALGORITHMS)} "
            f"(known: {', '.join(ALGORITHMS)})"
        )
    if algorithm == "zstd":
        _zstd()


def _zstd() -> ModuleType:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(
        "compression 'zstd' needs Python 3.14 or the package backports.zstd; "
        "run: python -m pip install backports.zstd, or use 'zlib'"
    )
