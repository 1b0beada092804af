"""Subscriptions whose client gets each publication as the difference from the one before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from tiderace.history import Publication
from tiderace.protocol import fossil
from tiderace.protocol.codec import Codec
from tiderace.protocol.messages import Pub, Push, Reply, SubscribeResult
from tiderace.protocol.session import PositionLost, to_pub
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.fanout.dispatcher import ActiveSubscription
from tiderace.topics.fanout.outbox import ClientOutbox, write_all
from tiderace.topics.json_fields import as_bytes

_FOSSIL = "fossil"

# A difference of two values that have at most _CACHED_SIZE bytes together is cached for
# other subscribers. The cache holds _CACHED_DIFFERENCES of them: 32 MB at most, 1 MB with
# values of 1 kB.
_CACHED_SIZE = 65_536
_CACHED_DIFFERENCES = 512


def serves_deltas(topic: Topic, kind: str) -> bool:
    """Return whether a topic serves differences of the kind that a client requests."""
    return topic.delta and kind == _FOSSIL


class DeltaSubscription(ActiveSubscription):
    """A subscription whose publications are differences from ``base``.

    ``base`` is the last value that the client got; None after each subscribe command, so
    that the first publication is sent whole. The arguments are those of
    ``ActiveSubscription``.
    """

    __slots__ = ("base",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.base: bytes | None = None

    @staticmethod
    def dispatch(
        group: str, publication: Publication, listeners: Sequence[Any]
    ) -> None:
        """Send a publication to all ``listeners``, which are subscribed to one topic.

        The difference is made once for each base; mostly all listeners have the same.
        """
        if group != listeners[0].group:
            ActiveSubscription.dispatch(group, publication, listeners)
            return
        receivers: defaultdict[bytes | None, list[DeltaSubscription]] = defaultdict(
            list
        )
        data = publication.raw
        for subscription in listeners:
            try:
                if subscription.advance(publication):
                    receivers[subscription.base].append(subscription)
                    subscription.base = data
            except PositionLost:
                subscription.on_gap(group)
        topic = listeners[0].topic
        pub = to_pub(publication, offsets=topic.history is not None)
        for base, subscriptions in receivers.items():
            content, pub.delta = _encoded(base, data, text=not topic.is_binary())
            outboxes: defaultdict[Codec, list[ClientOutbox]] = defaultdict(list)
            for subscription in subscriptions:
                outboxes[subscription.codec].append(subscription.outbox)
            for codec, some in outboxes.items():
                pub.data = _carried(content, codec)
                push = Push(channel=topic.topic, pub=pub)
                write_all(some, codec.encode(Reply(push=push)))

    def encode_result(self, result: SubscribeResult) -> None:
        """Replace the publications of a reply by differences, and set its delta flag."""
        result.delta = True
        for pub in result.publications or ():
            self._encode(pub)

    def _encode(self, pub: Pub) -> None:
        data = as_bytes(pub.data)
        text = not self.topic.is_binary()
        content, pub.delta = _encoded(self.base, data, text=text)
        pub.data = _carried(content, self.codec)
        self.base = data


def _encoded(base: bytes | None, data: bytes, *, text: bool) -> tuple[bytes, bool]:
    """Return the shorter of the difference and ``data``, and whether it is the former."""
    if base is None:
        return data, False
    make = _difference if len(base) + len(data) <= _CACHED_SIZE else fossil.delta
    difference = make(base, data, text=text)
    return (difference, True) if len(difference) < len(data) else (data, False)


# Clients that return after a deploy have missed the same publications: 300 differences
# of values of 16 kB would take half a second for each client.
@lru_cache(_CACHED_DIFFERENCES)
def _difference(base: bytes, data: bytes, *, text: bool) -> bytes:
    return fossil.delta(base, data, text=text)


def _carried(content: bytes, codec: Codec) -> Raw:
    """Return data for a codec: the bytes, or for JSON the text as a JSON string."""
    return Raw(content if codec.binary else msgspec.json.encode(content.decode()))
