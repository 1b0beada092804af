"""Conversions between the JSON of a message and Python values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, Raw, UnsetType

from tiderace.json_compat import loads, to_json
from tiderace.layers.encoding import find_fault
from tiderace.protocol import codes
from tiderace.protocol.messages import ClientInfo
from tiderace.protocol.session import Refused


def checked_tags(tags: Mapping[str, str] | None, topic: str) -> dict[str, str]:
    """Return a copy of the tags of a publication to a topic.

    Raises:
        TypeError: for a name or a value that is no string: filters compare strings.
    """
    copy = dict(tags or ())
    for name, value in copy.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError(
                f"the tag {name!r} of {topic!r} is {value!r}, not a string; tags are "
                f"strings by name, such as {{{str(name)!r}: {str(value)!r}}}"
            )
    return copy


def data_as_json(data: Any, target: str) -> str:
    """Return data for ``target`` as JSON text.

    Raises:
        TypeError: for what JSON cannot express, with its place in ``data``.
    """
    try:
        return to_json(data)
    except TypeError as error:
        try:
            where, value = find_fault(data, "data", to_json)
        except RecursionError:
            where, value = "data", data
        raise TypeError(
            f"the data for {target} cannot be sent: {where} is a "
            f"{type(value).__qualname__} ({error}); send plain data instead, such as an "
            "object's primary key"
        ) from None


def read_fields(data: bytes, kind: Any) -> Any:
    """Decode JSON as a value of type ``kind``.

    Raises:
        Refused: 107, bad request, for other data.
    """
    try:
        return loads(data, kind)
    except ValueError as error:
        raise Refused(codes.BAD_REQUEST, str(error)) from None


def as_bytes(data: Raw | UnsetType) -> bytes:
    """Return the JSON text; empty for none."""
    return b"" if isinstance(data, UnsetType) else bytes(data)


def as_python(data: Raw | UnsetType) -> Any:
    """Decode JSON as plain Python; None for none.

    Raises:
        Refused: 107, bad request, for other data.
    """
    text = as_bytes(data)
    return read_fields(text, Any) if text else None


def as_raw(value: Any, *, always: bool = False) -> Raw | UnsetType:
    """Encode a value of the application; return UNSET for None, unless ``always``."""
    if value is None and not always:
        return UNSET
    return Raw(to_json(value).encode())


def join_info(conn_info: str | None, chan_info: str | None) -> str | None:
    """Return the information about a connection and its subscription as one text.

    Args:
        conn_info: JSON, which has no line breaks; None for none.
        chan_info: likewise.
    """
    return conn_info if chan_info is None else f"{conn_info or ''}\n{chan_info}"


def client_info(user: str, client: str, info: str | None) -> ClientInfo:
    """Return what others see of a client; ``info`` is that of ``join_info``."""
    conn_info, _, chan_info = (info or "").partition("\n")
    return ClientInfo(
        user,
        client,
        conn_info=Raw(conn_info.encode()) if conn_info else UNSET,
        chan_info=Raw(chan_info.encode()) if chan_info else UNSET,
    )


# The largest integer that fits into the integers of all client languages.
_MAX_TTL = 2**31 - 1


def ttl_of(expires_at: float | None) -> int:
    """Return the seconds until ``expires_at``, 1 to 2**31 - 1; 0 for None."""
    if expires_at is None:
        return 0
    return max(1, round(min(expires_at - time.time(), _MAX_TTL)))
