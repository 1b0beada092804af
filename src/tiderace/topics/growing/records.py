"""The records of a growth stream, and the messages that they describe.

Pure values: no ``await``, no layer. Positions in a text are counted in UTF-16 code units,
as ``String.length`` does in JavaScript, Java, C# and Dart.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Raw

from tiderace.protocol.messages import Pub

TEXT = "text"
"""The field of a message's data that grows."""

ID_TAG = "grow"
POSITION_TAG = "grow_position"
STATE_TAG = "grow_state"
REASON_TAG = "grow_reason"
TAGS = frozenset({ID_TAG, POSITION_TAG, STATE_TAG, REASON_TAG})
"""The tags with which clients get appends and messages."""

_encode = msgspec.json.Encoder().encode

# Ids of closed messages that are remembered, so that their late records are ignored.
_REMEMBERED = 1024


class State(StrEnum):
    """Whether a message grows, and how it has ended."""

    GROWING = "growing"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Record(msgspec.Struct, omit_defaults=True):
    """An entry of a growth stream.

    With ``data`` it is a whole message: ``text`` is all of it. Without, ``text`` is
    appended at position ``at``; an empty text shows that the writer is alive.
    """

    id: str
    writer: str
    at: int = 0
    text: str = ""
    data: dict[str, Raw] | None = None
    tags: dict[str, str] | None = None
    state: State = State.GROWING
    reason: str = ""
    closed: bool = False
    """Whether the message is published in the topic's own stream."""


def length(text: str) -> int:
    """Return the number of UTF-16 code units of ``text``."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def after(text: str, units: int) -> str:
    """Return ``text`` without its first ``units``."""
    if text.isascii():
        return text[units:]
    return text.encode("utf-16-le")[units * 2 :].decode("utf-16-le", "replace")


class Message:
    """A message as the records of its stream describe it."""

    __slots__ = (
        "_growing_tags",
        "_parts",
        "asked_at",
        "data",
        "id",
        "length",
        "reason",
        "seen_at",
        "state",
        "tags",
        "writer",
    )

    def __init__(self, record: Record) -> None:
        self.id = record.id
        self.writer = record.writer
        self.data = record.data or {}
        self.tags = record.tags
        self.state = State.GROWING
        self.reason = ""
        self.length = length(record.text)
        # When the last record came, and when a request was sent to the writer since.
        self.seen_at = 0.0
        self.asked_at: float | None = None
        self._parts = [record.text]
        # The tags of all appends, made once.
        self._growing_tags = tags_of(self.id, State.GROWING, self.tags)

    @property
    def text(self) -> str:
        """The text so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    def append(self, text: str) -> None:
        """Add to the text."""
        self._parts.append(text)
        self.length += length(text)

    def as_json(self) -> bytes:
        """Return the data that clients get: the fields, and the text so far."""
        fields: dict[str, Any] = {**self.data, TEXT: self.text}
        return msgspec.json.encode(fields)

    def fields(self) -> dict[str, Any]:
        """Return the fields without the text, as plain Python."""
        return {name: msgspec.json.decode(raw) for name, raw in self.data.items()}

    def all_tags(self) -> dict[str, str]:
        """Return the tags of the whole message."""
        if self.state is State.GROWING:
            return self._growing_tags.copy()
        return tags_of(self.id, self.state, self.tags, self.reason)

    def as_pub(self) -> Pub:
        """Return the whole message for a client, without a place in the history."""
        return Pub(data=Raw(self.as_json()), tags=self.all_tags())


def tags_of(
    message_id: str, state: State, tags: Mapping[str, str] | None, reason: str = ""
) -> dict[str, str]:
    """Return the tags of a message: the application's, and those of its growth."""
    all_tags = {**(tags or {}), ID_TAG: message_id, STATE_TAG: state.value}
    if reason:
        all_tags[REASON_TAG] = reason
    return all_tags


class Change(msgspec.Struct, frozen=True):
    """The change of a message by a record."""

    message: Message
    at: int = 0
    added: str | None = None
    """The text that was appended at position ``at``; None where the whole message is new."""

    def as_pub(self) -> Pub:
        """Return the change for a client that has the message as it was before."""
        if self.added is None:
            return self.message.as_pub()
        tags = self.message.all_tags()
        tags[POSITION_TAG] = str(self.at)
        return Pub(data=Raw(_encode({TEXT: self.added})), tags=tags)


class MissingText(Exception):
    """A record appends to a text whose beginning is not known."""


class MessageLog:
    """The messages of a topic that are growing, or have ended and are not closed."""

    def __init__(self) -> None:
        self.messages: dict[str, Message] = {}
        self._closed: dict[str, None] = {}

    def apply(self, record: Record, now: float) -> Change | None:
        """Apply a record; return what it has changed, or None.

        If a message has two writers, the records of the one that began first are ignored
        after the other has begun. After the first end all further ones are ignored. A
        record that was applied already changes nothing.

        Raises:
            MissingText: when the beginning of the text is not known.
        """
        if record.closed:
            self.close(record.id)
            return None
        message = self.messages.get(record.id)
        if record.id in self._closed or (
            message is not None and message.state is not State.GROWING
        ):
            return None
        if record.data is not None:
            change = self._replace(message, record)
        elif message is None:
            raise MissingText
        elif message.writer != record.writer:
            return None
        else:
            change = _append(message, record)
        message = self.messages[record.id]
        message.seen_at, message.asked_at = now, None
        message.state, message.reason = record.state, record.reason
        if change is None and record.state is not State.GROWING:
            return Change(message, message.length, "")
        return change

    def close(self, message_id: str) -> None:
        """Remove a message, and ignore later records of it."""
        self.messages.pop(message_id, None)
        self._closed[message_id] = None
        if len(self._closed) > _REMEMBERED:
            del self._closed[next(iter(self._closed))]

    def _replace(self, message: Message | None, record: Record) -> Change | None:
        """Apply a record with a whole message."""
        if message is None or message.writer != record.writer:
            message = self.messages[record.id] = Message(record)
            return Change(message)
        if length(record.text) < message.length:
            return None  # it is older than the appends
        before = message.text
        is_same = message.data == record.data and record.text.startswith(before)
        at, added = message.length, record.text[len(before) :]
        new = self.messages[record.id] = Message(record)
        if not is_same:
            return Change(new)
        return Change(new, at, added) if added else None


def _append(message: Message, record: Record) -> Change | None:
    if record.at > message.length:
        raise MissingText
    # A writer whose publish failed repeats it, and the stream may have it already.
    added = after(record.text, message.length - record.at)
    at = message.length
    message.append(added)
    return Change(message, at, added) if added else None
