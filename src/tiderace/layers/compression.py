"""Compression of payloads, in a form that needs no setting to be recognised.

A compressed payload starts with the byte 0xC1, which begins neither msgpack (reserved
there), nor UTF-8 and so JSON (never legal there), nor a Fernet token (Base64). The second
byte names the algorithm. A payload of another format that begins with 0xC1 is wrapped as
"not compressed". So processes that compress and processes that do not can read each
other's messages during a deployment.
"""

from __future__ import annotations

import importlib
import zlib
from types import ModuleType

from tiderace.conf import nearest

_MARK = b"\xc1"
_STORED, _ZLIB, _ZSTD = b"\x00", b"\x01", b"\x02"

ALGORITHMS = ("zlib", "zstd")
"""zlib is always available, zstd from Python 3.14 or with a package."""


def compress(data: bytes, algorithm: str) -> bytes:
    """Return ``data`` compressed, or as ``wrap`` does when that is not smaller.

    Args:
        data: any bytes.
        algorithm: one of ``ALGORITHMS``.
    """
    if algorithm == "zlib":
        # Level 1: higher ones save 5% of chat-sized JSON and take half as long again.
        smaller = _MARK + _ZLIB + zlib.compress(data, 1)
    else:
        smaller = _MARK + _ZSTD + _zstd().compress(data)
    return smaller if len(smaller) < len(data) else wrap(data)


def wrap(data: bytes) -> bytes:
    """Return uncompressed ``data`` in the form that ``decompress`` takes."""
    return _MARK + _STORED + data if data[:1] == _MARK else data


def decompress(data: bytes) -> bytes:
    """Undo ``compress`` or ``wrap``.

    Raises:
        ValueError: for an algorithm that this version does not have.
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
        f"a message is compressed with algorithm {algorithm.hex() or 'none'}, which this "
        "version of tiderace does not have; bring all processes to one version before "
        "a new compression is switched on"
    )


def require_algorithm(algorithm: str) -> None:
    """Check that ``algorithm`` is available.

    Raises:
        ValueError: for a name that is not in ``ALGORITHMS``.
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
