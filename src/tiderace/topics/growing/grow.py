"""Begins messages that grow: ``async with agrow("room:1") as answer``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from django.core.exceptions import ImproperlyConfigured

from tiderace.topics.declaration.topic import declared
from tiderace.topics.growing.records import TAGS, TEXT
from tiderace.topics.growing.writer import AsyncGrowingMessage
from tiderace.topics.json_fields import checked_tags, data_as_json


def agrow(
    topic: str,
    data: Mapping[str, Any] | None = None,
    *,
    id: str = "",  # noqa: A002 (the name that clients see)
    tags: Mapping[str, str] | None = None,
) -> AsyncGrowingMessage:
    """Publish a message to ``topic`` that grows until the block ends::

        async with agrow("room:1", {"by": "assistant"}) as answer:
            async for token in tokens:
                await answer.append(token)

    Subscribers get the beginning at once, and then the appends, several together. A new
    subscriber gets the text so far, and then the appends. When the block ends, the
    message is published once to the topic's own stream, with the whole text as the field
    ``text``: as ``finished``; as ``failed`` after an exception, which propagates; as
    ``cancelled`` after ``cancel_message``, which ends the block without an error. If the
    writing process is killed, a process with subscribers marks the message failed after
    the topic's lease.

    Open transactions are not waited for.

    Args:
        topic: its name; its class has ``growing = Growing()``.
        data: the other fields of the message, an object. Its field ``text``, if it has
            one, is the beginning of the text.
        id: of the message, unique in the topic; by default a random one.
        tags: labels that subscribers get with the message and all its appends.

    Raises:
        UnknownTopic: when no declared topic has this name.
        ImproperlyConfigured: when its class has no growing messages.
        TypeError: for data that is no JSON object, and for tags that are no strings or
            are reserved.
        LayerUnavailable: from the block's beginning, when the broker could not be
            reached in time.
    """
    resolved = declared.resolve(topic)
    options = resolved.growing
    if options is None:
        kind = type(resolved).__name__
        raise ImproperlyConfigured(
            f"{kind} has no growing messages; give the class growing = Growing()"
        )
    if reserved := TAGS & set(tags or ()):
        raise TypeError(
            f"the tags {sorted(reserved)} are set by Tiderace; rename yours"
        )
    checked_tags(tags, topic)
    fields = msgspec.json.decode(data_as_json(data or {}, f"topic {topic!r}"))
    if not isinstance(fields, dict) or not isinstance(fields.get(TEXT, ""), str):
        raise TypeError(
            f"the data of a growing message is an object whose {TEXT!r} is a string, "
            f"such as {{'by': 'assistant'}}, not {data!r}"
        )
    text = fields.pop(TEXT, "")
    message = AsyncGrowingMessage(resolved, options, fields, id, tags)
    message.add(text)
    return message
