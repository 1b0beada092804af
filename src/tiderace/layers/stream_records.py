"""A layer's messages as those see them who listen to a group's stream.

It knows how messages are addressed and marked on their way, and neither a broker nor
who listens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from tiderace.delivery.outbox import PreparedMessage
from tiderace.history import Position, Publication
from tiderace.layers.local import ENVELOPE

__all__ = ["RECORD", "is_record", "of_message", "of_stored", "stored"]

logger = logging.getLogger("tiderace.layers")

RECORD = "record"
"""Where the envelope of a message holds what was published with a position."""


def stored(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as the message that travels; see ``BaseChannelLayer.stream_publish``."""
    return {ENVELOPE: {RECORD: dict(record)}}


def is_record(message: Any) -> bool:
    """Whether ``stored`` made this message."""
    return isinstance(message, dict) and RECORD in message.get(ENVELOPE, ())


def of_stored(position: Position, message: Any, *, time: float) -> Publication:
    """The publication that a message which has travelled is to listeners.

    Args:
        position: where it stands.
        message: what ``stored`` made, or a group message with its envelope.
        time: for a group message, when it was published.
    """
    envelope = message.get(ENVELOPE) if isinstance(message, dict) else None
    if envelope is None:
        return of_message(position, message, time=time)
    if RECORD in envelope:
        return Publication.of_record(position, envelope[RECORD])
    if envelope.get("ready"):
        ready = PreparedMessage(message.get("text"), message.get("bytes"))
        return of_message(position, ready, time=time)
    rest = {key: value for key, value in message.items() if key != ENVELOPE}
    return of_message(position, rest, time=time)


def of_message(position: Position, message: Any, *, time: float) -> Publication:
    """The publication that a group message, or a broadcast, is to listeners.

    Every message is one, so that positions follow each other without a hole: text that
    is broadcast is the data where it is JSON, other text a string, bytes a string of
    base64. A message that JSON cannot say is logged, and its data is null.
    """
    if isinstance(message, PreparedMessage):
        text = message.event.get("text")
        if text is not None and _is_json(text):
            return Publication(position, text, time=time)
        message = message.event["bytes"] if text is None else text
    try:
        return Publication.of_message(position, message, time=time)
    except (TypeError, ValueError, RecursionError) as error:
        logger.warning(
            "a group message has something that JSON cannot say, so that listeners to "
            "the group get null instead: %s",
            error,
        )
        return Publication(position, "null", time=time)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return False
    return True
