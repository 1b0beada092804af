"""Signs the positions of topics whose history not every subscriber may read.

A client recovers from the position that it sends. Where a topic's permissions may refuse
the history, the epoch that clients get contains the offset of the position that the server
gave, and a signature: ``<epoch>.<offset>.<signature>``. The client counts its offset up by
itself, so it may continue from any offset at or after the signed one; from an earlier one
it may only continue with the permission to read the history. SDKs treat an epoch as opaque
text and send it back unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

from tiderace.history import Position
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.permissions import may_refuse_history

UNKNOWN_EPOCH = "?"
"""The epoch of a position that no stream has: nothing is recovered from it."""

_SALT = "tiderace.topics.positions"
_OFFSET_LENGTH = 14  # the most hexadecimal digits of an offset, which is below 2**53


def is_signed(topic: Topic) -> bool:
    """Return whether clients get the positions of a topic with a signature."""
    return topic.history is not None and may_refuse_history(topic)


def client_position(topic: Topic, position: Position) -> Position:
    """Return a position in the form for clients: signed where the topic needs it."""
    if not is_signed(topic):
        return position
    mac = _mac(topic.topic, position.epoch, position.offset, settings.SECRET_KEY)
    epoch = f"{position.epoch}.{position.offset:x}.{mac}"
    return Position(epoch, position.offset)


def layer_position(topic: Topic, position: Position) -> Position:
    """Return the layer's position for one of a client; the signature is not required."""
    return _read(topic, position)[0]


async def recoverable_position(
    topic: Topic, position: Position, may_read_history: Callable[[], Awaitable[bool]]
) -> Position:
    """Return the position from which a client may continue.

    Args:
        topic: the topic, whose positions are signed.
        position: from the client.
        may_read_history: awaited only for a position that the server has not given.

    Returns:
        The position as the layer counts it; with ``UNKNOWN_EPOCH`` where the client may
        not continue from it.
    """
    place, given = _read(topic, position)
    if given or await may_read_history():
        return place
    return Position(UNKNOWN_EPOCH, 0)


def _read(topic: Topic, position: Position) -> tuple[Position, bool]:
    """Return a client's position for the layer, and whether the server has given it."""
    head, _, mac = position.epoch.rpartition(".")
    epoch, dot, first = head.rpartition(".")
    if not dot or len(first) > _OFFSET_LENGTH or not position.epoch.isascii():
        return position, False
    try:
        start = int(first, 16)
    except ValueError:
        return position, False
    matches = [
        constant_time_compare(mac, _mac(topic.topic, epoch, start, secret))
        for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    ]
    if not any(matches):
        return position, False
    return Position(epoch, position.offset), position.offset >= start


def _mac(topic: str, epoch: str, offset: int, secret: str | bytes) -> str:
    # JSON, so that two sets of values never give the same text.
    text = json.dumps([topic, epoch, offset])
    return salted_hmac(_SALT, text, secret=secret, algorithm="sha256").hexdigest()[:32]
