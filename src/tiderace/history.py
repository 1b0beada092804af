"""Positions and publications of streams, and the recovery of missed publications.

Pure values and functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["Merged", "Position", "Publication", "merge"]


# A struct is created in a fifth of the time of a frozen dataclass, and each publication
# has one.
class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in a stream.

    Offsets count up by one from 1 within an epoch; where a broker may have lost its last
    messages, as after a failover, it skips some, so that no offset is used twice. A new
    epoch means that the broker has lost the stream, or deleted it after a time without
    use: which publications lie between positions of two epochs is unknown.
    """

    epoch: str
    offset: int


class Publication:
    """One message of a stream, read-only and shared by all who get it.

    Args:
        position: its place in the stream.
        data: what was published, as JSON text, or bytes of a topic with bytes.
        topic: the name under which it was published; empty for a group message.
        info: about the client that published it, as JSON text; None for a server's.
        tags: labels for filters, set by the publisher.
        time: Unix time in seconds, by the publisher's clock.
    """

    __slots__ = ("before", "data", "info", "position", "tags", "time", "topic")

    def __init__(
        self,
        position: Position,
        data: str | bytes,
        *,
        topic: str = "",
        info: str | None = None,
        tags: Mapping[str, str] | None = None,
        time: float = 0.0,
    ) -> None:
        self.position = position
        # The offset of the publication before it; one less, unless offsets were skipped.
        self.before = position.offset - 1
        self.data = data
        self.topic = topic
        self.info = info
        self.tags = tags
        self.time = time

    @classmethod
    def of_record(cls, position: Position, record: Mapping[str, Any]) -> Publication:
        """Return the publication that a record describes, as for ``stream_publish``."""
        return cls(
            position,
            record["data"],
            topic=record.get("topic", ""),
            info=record.get("info"),
            tags=record.get("tags"),
            time=record.get("time", 0.0),
        )

    @property
    def raw(self) -> bytes:
        """The data as clients get it."""
        data = self.data
        return data if isinstance(data, bytes) else data.encode()

    @property
    def value(self) -> Any:
        """The data as plain Python."""
        data = self.data
        return data if isinstance(data, bytes) else msgspec.json.decode(data)

    def as_event(self) -> dict[str, Any]:
        """Return the message for a consumer's handler ``topic_publication``."""
        return {
            "type": "topic.publication",
            "topic": self.topic,
            "data": self.value,
            "info": None if self.info is None else msgspec.json.decode(self.info),
            "tags": dict(self.tags or {}),
            "epoch": self.position.epoch,
            "offset": self.position.offset,
            "time": self.time,
        }

    def __repr__(self) -> str:
        place = f"{self.position.epoch}:{self.position.offset}"
        return f"<Publication {self.topic or 'group message'} {place}>"


class Merged(msgspec.Struct, frozen=True):
    """The publications for a subscriber that comes back."""

    recovered: bool
    """Whether ``missed`` has every publication between its position and the stream's end."""
    missed: Sequence[Publication]
    """These publications, in order, each once; empty when they are not recovered."""
    later: Sequence[Publication]
    """The publications after that end, in order, each once."""


def merge(
    since: Position | None,
    top: Position,
    kept: Sequence[Publication],
    buffered: Iterable[Publication] = (),
) -> Merged | None:
    """Merge publications read from a stream with those received while it was read.

    Args:
        since: the subscriber's position; None for one that recovers nothing. An empty
            epoch matches any: it is that of a subscriber without a publication yet.
        top: the end of the stream when it was read.
        kept: the publications that the stream still has after ``since.offset``, in order.
        buffered: those received since the subscriber began to listen, in the order of
            their arrival; some may also be in ``kept``.

    Returns:
        None when ``buffered`` does not follow ``top`` without a gap: a publication was
        lost in transit, and the stream must be read again.
    """
    later: list[Publication] = []
    position = top
    for publication in buffered:
        place = publication.position
        if place.epoch == position.epoch and place.offset <= position.offset:
            continue
        if place.epoch != position.epoch or publication.before != position.offset:
            return None
        later.append(publication)
        position = place
    recovered = since is not None and _is_complete(since, top, kept)
    return Merged(recovered, list(kept) if recovered else [], later)


def _is_complete(since: Position, top: Position, kept: Sequence[Publication]) -> bool:
    """Return whether ``kept`` is exactly what lies between ``since`` and ``top``."""
    if since.epoch and since.epoch != top.epoch:
        return False
    if since.offset > top.offset:
        # The subscriber has been further than the stream, which has lost its end.
        return False
    last = since.offset
    for publication in kept:
        if publication.before != last:
            return False
        last = publication.position.offset
    return last == top.offset
