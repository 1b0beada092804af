"""The envelope that a message may carry between processes, beside its content."""

from __future__ import annotations

import base64
import time
from collections.abc import Collection, Mapping
from typing import Any

from tiderace.delivery.outbox import PreparedMessage
from tiderace.history import Publication
from tiderace.layers.broker import StreamMessage
from tiderace.layers.messages import (
    CHANNEL_KEY,
    ENVELOPE_KEY,
    Message,
    publication_of,
)


def wrap_for_groups(
    message: Message, groups: Collection[str], exclude: Collection[str]
) -> Message:
    """Return ``message`` for several groups, or without some of their channels."""
    envelope = {"groups": list(groups), "exclude": list(exclude)}
    return {**message, ENVELOPE_KEY: envelope}


def wrap_broadcast(
    message: PreparedMessage, groups: Collection[str], exclude: Collection[str]
) -> Message:
    """Return a WebSocket message for the clients of ``groups``."""
    envelope = {"groups": list(groups), "exclude": list(exclude), "ready": True}
    return {**message.event, ENVELOPE_KEY: envelope}


def wrap_record(record: Mapping[str, Any], *, carries_bytes: bool) -> Message:
    """Return a publication that is published with ``stream_publish``.

    Args:
        record: the publication.
        carries_bytes: whether the layer's serializer takes bytes; else they are sent as
            base64.
    """
    content: dict[str, Any] = {"record": dict(record)}
    data = record.get("data")
    if isinstance(data, bytes) and not carries_bytes:
        content["record"]["data"] = base64.b64encode(data).decode()
        content["base64"] = True
    return {ENVELOPE_KEY: content}


def wrap_for_channel(message: Message, channel: str) -> Message:
    """Return ``message`` for a channel of the process whose inbox it is sent to."""
    return {**message, CHANNEL_KEY: channel}


def group_request(verb: str, group: str, channel: str) -> Message:
    """Return a request to another process: let its channel "join" or "leave" a group."""
    return {ENVELOPE_KEY: verb, "group": group, CHANNEL_KEY: channel}


def is_record(message: Any) -> bool:
    """Return whether ``wrap_record`` made this message."""
    return isinstance(message, dict) and "record" in message.get(ENVELOPE_KEY, ())


def unwrap(
    message: Any,
) -> tuple[Message | PreparedMessage, Collection[str], Collection[str]]:
    """Take the envelope off a group message or broadcast.

    Returns:
        The message, the groups it was sent to, and the channels it is not for; both
        are empty for a message to one group.
    """
    envelope = message.pop(ENVELOPE_KEY, None) if isinstance(message, dict) else None
    if envelope is None:
        return message, (), ()
    if envelope.get("ready"):
        message = PreparedMessage(message.get("text"), message.get("bytes"))
    return message, envelope["groups"], envelope["exclude"]


def publication_from(item: StreamMessage, message: Any) -> Publication:
    """Return a message as listeners to the group's stream get it.

    Args:
        item: as it was received.
        message: the message with its envelope; not changed.
    """
    if is_record(message):
        content = message[ENVELOPE_KEY]
        publication = Publication.of_record(item.position, content["record"])
        if "base64" in content:
            publication.data = base64.b64decode(publication.data)
    else:
        content, _, _ = unwrap(dict(message) if isinstance(message, dict) else message)
        # A record has its own time.
        publication = publication_of(
            item.position, content, time=time.time() - item.age
        )
    publication.before = item.before
    return publication
