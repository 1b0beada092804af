"""The growth stream of a topic in its layer, and the end of a message in the topic's own."""

from __future__ import annotations

import msgspec

from tiderace.history import Position, Publication
from tiderace.layers.broker import Retention
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.growing.records import Message, Record
from tiderace.topics.names import growth_group, publication_key, topic_group
from tiderace.topics.streams import layer_of, record_of

KEEP = Retention(4096, 120.0)
"""The retention of a growth stream. Its seconds are fewer than the 300 for which layers
keep idempotency keys, so that no record of a message outlasts the key of its end."""

_decoder = msgspec.json.Decoder(Record)


def record_in(publication: Publication) -> Record:
    """Return the record that a publication of a growth stream carries."""
    return _decoder.decode(publication.data)


async def publish_record(topic: Topic, record: Record) -> Position:
    """Append a record to the topic's growth stream.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    position: Position = await layer_of(topic).stream_publish(
        growth_group(topic.topic),
        {"data": msgspec.json.encode(record).decode()},
        keep=KEEP,
    )
    return position


async def read_records(
    topic: Topic, since: Position | None
) -> tuple[Position, list[Publication]]:
    """Return the end of the topic's growth stream, and its records after ``since``.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    read: tuple[Position, list[Publication]] = await layer_of(topic).stream_read(
        growth_group(topic.topic), keep=KEEP, since=since
    )
    return read


async def delete_records(topic: Topic) -> None:
    """Delete the records of a topic in which no message grows.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    await layer_of(topic).stream_delete(growth_group(topic.topic))


async def is_published(topic: Topic, message_id: str) -> bool:
    """Return whether this message was published in the topic's own stream already."""
    found = await layer_of(topic).stream_find_published(
        topic_group(topic.topic), _key(message_id)
    )
    return found is not None


async def publish_end(topic: Topic, message: Message) -> None:
    """Publish a message that has ended, and close it in the growth stream.

    Of several calls for one message, in whatever process, only the first publishes.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    await layer_of(topic).stream_publish(
        topic_group(topic.topic),
        record_of(topic.topic, message.as_json().decode(), tags=message.all_tags()),
        keep=topic.keep(),
        key=_key(message.id),
    )
    await publish_record(topic, Record(message.id, message.writer, closed=True))


def _key(message_id: str) -> str:
    return publication_key(f"grow:{message_id}")
