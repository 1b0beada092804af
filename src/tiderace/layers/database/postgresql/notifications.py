"""The payloads of NOTIFY: new rows, with their data where it fits."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from tiderace.layers.database.vendor import FeedRow

CHANNEL = "tiderace"
"""The channel of all layers of a database, so that subscribing needs no statement."""

# PostgreSQL takes less than 8,000 bytes.
_MAX_PAYLOAD = 7_500

# Base64 turns three bytes into four; five bytes are for the length of the list.
_MAX_BYTES = _MAX_PAYLOAD * 3 // 4 - 5


class Announcement(NamedTuple):
    """A new row; its data is None when it did not fit."""

    id: int
    """The id of the entry; 0 for a queue."""
    subject: str
    epoch: str = ""
    offset: int | None = None
    before: int = 0
    data: bytes | None = b""
    published_ms: int = 0

    def as_row(self) -> FeedRow:
        """Return the row for the broker."""
        _, subject, epoch, offset, before, data, published_ms = self
        return FeedRow(subject, epoch, offset, before, data or b"", published_ms)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Announcement])


def encode(rows: Sequence[FeedRow], ids: Mapping[tuple[str, int], int]) -> list[str]:
    """Return the payloads that announce rows, as few as possible.

    Args:
        rows: entries and queues.
        ids: the ids of the entries, by stream and offset. An entry without one is found
            by polls.
    """
    payloads: list[str] = []
    batch: list[msgspec.Raw] = []
    size = 0
    for row in rows:
        row_id = ids.get((row.subject, row.offset or 0), 0)
        announcement = Announcement(row_id, *row)
        packed = _encoder.encode(announcement)
        if len(packed) > _MAX_BYTES:
            packed = _encoder.encode(announcement._replace(data=None))
        if size + len(packed) > _MAX_BYTES:
            payloads.append(_payload(batch))
            batch, size = [], 0
        batch.append(msgspec.Raw(packed))
        size += len(packed)
    if batch:
        payloads.append(_payload(batch))
    return payloads


def decode(payload: bytes) -> list[Announcement]:
    """Return what a payload announces.

    Raises:
        ValueError: it is not from a layer of this version.
    """
    return _decoder.decode(binascii.a2b_base64(payload, strict_mode=True))


def _payload(batch: list[msgspec.Raw]) -> str:
    return binascii.b2a_base64(_encoder.encode(batch), newline=False).decode()
