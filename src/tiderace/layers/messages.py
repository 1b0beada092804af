"""Messages of a layer: checks before they are sent, and their form as publications."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import msgspec

from tiderace.delivery.mailbox import Mailbox
from tiderace.delivery.outbox import PreparedMessage
from tiderace.history import Position, Publication
from tiderace.json_compat import to_json

logger = logging.getLogger("tiderace.layers")

Message = dict[str, Any]

ChannelMailbox = Mailbox[Message | PreparedMessage]

# Keys that layers between processes add to a message and remove on arrival.
CHANNEL_KEY = "__asgi_channel__"
ENVELOPE_KEY = "__tiderace__"


class Serializer(Protocol):
    """Turns messages into bytes and back."""

    def serialize(self, message: Any) -> bytes:
        """Return ``message`` as bytes."""

    def deserialize(self, message: bytes) -> Any:
        """Return the message that was serialized."""


def require_dict(message: object) -> None:
    """Raise AssertionError unless ``message`` is a dict."""
    if not isinstance(message, dict):
        raise AssertionError(
            f"message is not a dict but a {type(message).__qualname__}; "
            'send a dict with a "type", such as {"type": "chat.message"}'
        )


def require_unreserved(message: object) -> None:
    """Raise AssertionError if ``message`` is a dict with a key that layers use.

    Clients choose the keys where an application passes on what they sent.
    """
    if isinstance(message, dict) and (
        CHANNEL_KEY in message or ENVELOPE_KEY in message
    ):
        key = CHANNEL_KEY if CHANNEL_KEY in message else ENVELOPE_KEY
        raise AssertionError(
            f"a message may not hold the key {key!r}, which layers use "
            "themselves; leave it out"
        )


def publication_of(position: Position, message: Any, *, time: float) -> Publication:
    """Return a group message or broadcast as a publication of the group's stream.

    Every message becomes a publication, so that positions follow each other without a
    gap. The data of a broadcast is its text where that is JSON, else the text as a
    string, or its bytes as a string of base64. The data of a message that cannot be
    encoded as JSON is null, and a warning is logged.
    """
    if isinstance(message, PreparedMessage):
        text = message.event.get("text")
        if text is not None and _is_json(text):
            return Publication(position, text, time=time)
        message = message.event["bytes"] if text is None else text
    try:
        text = to_json(message)
    except TypeError as error:
        logger.warning(
            "a group message has something that JSON cannot say, so that listeners to "
            "the group get null instead: %s",
            error,
        )
        text = "null"
    return Publication(position, text, time=time)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return False
    return True
