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

# Bytes of two values whose difference is kept for other subscribers, and how many are: at
# most 32 MB of values, and 1 MB where they have 1 kB.
_COMPARED = 65_536
_DIFFERENCES = 512


def wants_deltas(topic: Topic, kind: str) -> bool:
    """Return whether a client that asks for differences of a kind gets them."""
    return topic.delta and kind == _FOSSIL


class DeltaSubscription(ActiveSubscription):
    """A subscription with the value that its client got last, which is its base.

    The first publication after each subscribe command is sent whole. The arguments are
    those of ``ActiveSubscription``.
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

        Its difference is made once for each base, which mostly is the same for all.
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
        """Have the publications of a reply be differences, and tell the client."""
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
    """Return the difference of ``data``, or ``data`` where that is shorter; and which."""
    if base is None:
        return data, False
    make = _difference if len(base) + len(data) <= _COMPARED else fossil.delta
    difference = make(base, data, text=text)
    return (difference, True) if len(difference) < len(data) else (data, False)


# Clients that return after a deploy have missed the same publications: 300 differences
# of 16 kB each would take half a second for every one of them.
@lru_cache(_DIFFERENCES)
def _difference(base: bytes, data: bytes, *, text: bool) -> bytes:
    return fossil.delta(base, data, text=text)


def _carried(content: bytes, codec: Codec) -> Raw:
    """Return what a codec carries as data: bytes, or in JSON a string of the text."""
    return Raw(content if codec.binary else msgspec.json.encode(content.decode()))
