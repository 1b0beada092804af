"""Streams with a memory: positions, publications, and what somebody who was away missed.

Pure values and functions. It knows no broker, no client and no wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["Merged", "Position", "Publication", "merge"]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a stream.

    Offsets count up by one from 1 within an epoch; where a broker may have lost its last
    messages, as after a failover, it leaps, so that no offset is given twice. Another
    epoch means that the broker has lost the stream, or forgotten it since nobody used
    it: what stood between is unknown.
    """

    epoch: str
    offset: int


class Publication:
    """One message of a stream, read-only and shared by all who get it.

    Args:
        position: where it stands.
        data: what was published, as JSON text.
        topic: the name under which it was published; empty for a group message.
        info: who published it, as JSON text, when a client did.
        tags: labels of the publisher's, for filters; not for the data's own fields.
        time: seconds since the epoch, by the publisher's clock.
    """

    __slots__ = ("data", "info", "position", "tags", "time", "topic")

    def __init__(
        self,
        position: Position,
        data: str,
        *,
        topic: str = "",
        info: str | None = None,
        tags: Mapping[str, str] | None = None,
        time: float = 0.0,
    ) -> None:
        self.position = position
        self.data = data
        self.topic = topic
        self.info = info
        self.tags = tags
        self.time = time

    @classmethod
    def of_record(cls, position: Position, record: Mapping[str, Any]) -> Publication:
        """The publication that ``record`` describes; see ``as_record``."""
        return cls(
            position,
            record["data"],
            topic=record.get("topic", ""),
            info=record.get("info"),
            tags=record.get("tags"),
            time=record.get("time", 0.0),
        )

    @classmethod
    def of_message(
        cls, position: Position, message: Mapping[str, Any], *, time: float = 0.0
    ) -> Publication:
        """A group message, sent by ``group_send``, as those who listen see it.

        Raises:
            TypeError: when the message has something that JSON cannot say.
        """
        return cls(position, msgspec.json.encode(message).decode(), time=time)

    def as_event(self) -> dict[str, Any]:
        """What a consumer's handler ``topic_publication`` gets."""
        return {
            "type": "topic.publication",
            "topic": self.topic,
            "data": msgspec.json.decode(self.data),
            "info": None if self.info is None else msgspec.json.decode(self.info),
            "tags": dict(self.tags or {}),
            "epoch": self.position.epoch,
            "offset": self.position.offset,
            "time": self.time,
        }

    def __repr__(self) -> str:
        place = f"{self.position.epoch}:{self.position.offset}"
        return f"<Publication {self.topic or 'group message'} {place}>"


@dataclass(frozen=True, slots=True)
class Merged:
    """What somebody who comes back is told."""

    recovered: bool
    """Whether nothing is missing between where they were and the stream's end."""
    missed: Sequence[Publication]
    """What lay between, in order, each once; empty when it is not recovered."""
    later: Sequence[Publication]
    """What came after the end as it was read, in order, each once."""


def merge(
    since: Position | None,
    top: Position,
    kept: Sequence[Publication],
    held: Iterable[Publication] = (),
) -> Merged | None:
    """Join what a stream kept with what came while it was read.

    Args:
        since: where the reader was; None for one who only wants to go on from here.
            An empty epoch stands for any: who has heard nothing yet does not know it.
        top: the end of the stream when it was read.
        kept: what the stream still has after ``since.offset``, in order.
        held: what was heard since the reader began to listen, in the order in which it
            came, perhaps also part of ``kept``.

    Returns:
        None when ``held`` does not follow ``top`` without a hole: something was lost on
        its way here, and the stream must be read again.
    """
    later: list[Publication] = []
    position = top
    for publication in held:
        place = publication.position
        if place.epoch == position.epoch and place.offset <= position.offset:
            continue
        if place.epoch != position.epoch or place.offset != position.offset + 1:
            return None
        later.append(publication)
        position = place
    recovered = since is not None and _is_whole(since, top, kept)
    return Merged(recovered, list(kept) if recovered else [], later)


def _is_whole(since: Position, top: Position, kept: Sequence[Publication]) -> bool:
    """Whether ``kept`` is exactly what lies between ``since`` and ``top``."""
    if since.epoch and since.epoch != top.epoch:
        return False
    if since.offset > top.offset:
        # Nobody has been where the stream has not: it has lost its end.
        return False
    offsets = [publication.position.offset for publication in kept]
    return offsets == list(range(since.offset + 1, top.offset + 1))
