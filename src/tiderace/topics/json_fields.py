"""Small conversions between the wire, the application and the clock.

It knows raw JSON, and nothing of commands.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tiderace.protocol import codes
from tiderace.protocol.codes import Failure
from tiderace.protocol.session import Refused
from tiderace.topics.topic import to_json

__all__ = ["as_bytes", "as_python", "as_raw", "read_fields", "ttl_of"]


def read_fields(data: bytes, kind: Any) -> Any:
    """JSON as a value of type ``kind``; a bad request if it is none."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise Refused(Failure(107, f"bad request: {error}")) from None


def as_bytes(data: Raw | UnsetType) -> bytes:
    """JSON as it came; empty where there is none."""
    return b"" if isinstance(data, UnsetType) else bytes(data)


def as_python(data: Raw | UnsetType) -> Any:
    """JSON as plain Python; None where there is none."""
    text = as_bytes(data)
    try:
        return msgspec.json.decode(text) if text else None
    except msgspec.MsgspecError:
        raise Refused(codes.BAD_REQUEST) from None


def as_raw(value: Any, *, always: bool = False) -> Raw | UnsetType:
    """What the application returned as JSON; None is left out, unless ``always``."""
    if value is None and not always:
        return UNSET
    return Raw(to_json(value).encode())


def ttl_of(expires_at: float | None) -> int:
    """Seconds until ``expires_at``, 1 at the least; 0 for None."""
    return 0 if expires_at is None else max(1, round(expires_at - time.time()))
