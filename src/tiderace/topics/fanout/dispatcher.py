"""The fan-out of a topic: from one publication to the sockets of all its subscribers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from tiderace.delivery.outbox import FrameWriter
from tiderace.delivery.stream_hub import ListenerBatch
from tiderace.history import Position, Publication
from tiderace.protocol.codec import Codec
from tiderace.protocol.codes import Unsubscription
from tiderace.protocol.messages import (
    ClientInfo,
    Data,
    Empty,
    InfoPush,
    Pub,
    Push,
    Reply,
    WhisperPush,
)
from tiderace.protocol.session import (
    PositionLost,
    Subscription,
)
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.fanout.outbox import (
    ClientOutbox,
    write_all,
    write_wrapped,
    writers_of,
)
from tiderace.topics.identity import Grant
from tiderace.topics.names import topic_group


class ActiveSubscription(Subscription):
    """A client's subscription, as a listener to the topic's stream and to its events.

    Args:
        topic: the topic.
        outbox: of the client.
        on_lost: called when publications are missing.
        client_id: of the client, so that it does not get its own whispers.
        server_side: whether the server has subscribed the client.
    """

    __slots__ = (
        "_on_lost",
        "asks_joins",
        "client_id",
        "codec",
        "end_reason",
        "grant",
        "group",
        "groups",
        "joins_checks",
        "may_whisper",
        "occupies",
        "outbox",
        "present",
        "publisher",
        "seen",
        "topic",
    )

    def __init__(
        self,
        topic: Topic,
        outbox: ClientOutbox,
        on_lost: Callable[[ActiveSubscription], None],
        *,
        client_id: str = "",
        server_side: bool = False,
    ) -> None:
        super().__init__(topic.topic, server_side=server_side)
        self.topic = topic
        self.client_id = client_id
        self.group = topic_group(topic.topic)
        self.outbox = outbox
        self.codec = outbox.codec
        self.groups: Collection[str] = ()
        self._on_lost = on_lost
        # What a token or the server grants; None where the topic's permissions allow the
        # subscription: they are checked again when the user's permissions change.
        self.grant: Grant | None = None
        # Whether the client requests joins and leaves, and how often the permission for
        # them was checked.
        self.asks_joins = False
        self.joins_checks = 0
        # The client's info in its own publications: JSON, after the identity and grant
        # that it was made of.
        self.publisher: tuple[tuple[Any, Any], str] | None = None
        # Whether the client was added to presence.
        self.present = False
        # Whether it counts as a subscriber, for ``topic_opened`` and ``topic_closed``.
        self.occupies = False
        # Whether its client was found to be allowed to whisper.
        self.may_whisper = False
        # The offset up to which it has everything, where the topic delivers the newest.
        self.seen = 0
        # Why it ends as soon as it is active; None unless it was ended before that.
        self.end_reason: Unsubscription | None = None

    @staticmethod
    def dispatch(
        group: str,
        publication: Publication,
        listeners: Sequence[ActiveSubscription],
    ) -> None:
        """Send a publication to all ``listeners``, which are subscribed to one topic.

        It is encoded once for each codec, and written to all sockets in one go.
        """
        if group != listeners[0].group:
            _dispatch_event(publication, listeners)
            return
        if len(listeners) == 1:
            listeners[0].send_alone(publication)
            return
        receivers: defaultdict[Codec, list[ClientOutbox]] = defaultdict(list)
        # Most subscriptions share one position object, that of the publication before: it
        # is compared once for all of them. A call of ``advance`` for each took a third of
        # the fan-out's time.
        last, place = listeners[0].position, publication.position
        moved = None if last is None else place
        follows = last is None or (
            place.epoch == last.epoch and publication.before == last.offset
        )
        if (
            follows
            and type(listeners) is ListenerBatch
            and (shared := listeners.derived) is not None
            and _advance_together(listeners, last, moved)
        ):
            shared.send(publication, listeners)
            return
        codec = listeners[0].codec
        outboxes: list[ClientOutbox] = []
        for subscription in listeners:
            if (
                follows
                and subscription.position is last
                and subscription.buffered is None
            ):
                subscription.position = moved
            else:
                try:
                    if not subscription.advance(publication):
                        continue
                except PositionLost:
                    subscription.on_gap(group)
                    continue
            if subscription.codec is codec:
                outboxes.append(subscription.outbox)
            else:
                receivers[subscription.codec].append(subscription.outbox)
        if outboxes:
            receivers[codec] = outboxes
        send_publication(listeners[0].topic, publication, receivers)
        if type(listeners) is ListenerBatch and len(outboxes) == len(listeners):
            listeners.derived = _SharedWriters.of(listeners[0].topic, outboxes)

    def on_publication(self, group: str, publication: Publication) -> None:
        """Send a publication to this client alone."""
        self.dispatch(group, publication, [self])

    def send_alone(self, publication: Publication) -> None:
        """Send a publication of the topic to this client alone."""
        try:
            if self.advance(publication):
                self.outbox.push(self.encode(publication))
        except PositionLost:
            self.on_gap(self.group)

    @property
    def encoding(self) -> Codec:
        """Equal for all subscribers that get the same bytes."""
        return self.codec

    def encode(self, publication: Publication) -> bytes:
        """Return a publication as a frame."""
        offsets = self.topic.history is not None
        return self.codec.encode_publication(self.channel, publication, offsets=offsets)

    def on_gap(self, group: str) -> None:
        """Report lost publications, where the topic has positions."""
        if self.position is not None:
            self._on_lost(self)

    def send_after_reply(self, publications: Iterable[Pub]) -> None:
        """Send publications as pushes, before those that are buffered already."""
        pushes = [Push(channel=self.channel, pub=each) for each in publications]
        self.buffered = [*pushes, *(self.buffered or ())]

    def send_buffered(self) -> None:
        """Activate the subscription after the reply, and send what was buffered."""
        for each in self.commit():
            if isinstance(each, Push):
                send_push(each, [self])
            else:
                self.on_publication(self.group, each)


def _advance_together(
    subscriptions: Iterable[Subscription], last: Position | None, moved: Position | None
) -> bool:
    """Move all positions from ``last`` on; return False, and move none, if one differs."""
    for each in subscriptions:
        if each.position is not last or each.buffered is not None:
            return False
    if moved is not None:
        for each in subscriptions:
            each.position = moved
    return True


class _SharedWriters:
    """The writers of subscribers that all get the same bytes.

    They are kept with the subscribers. With one message in flight nothing of a thousand
    subscribers is in the processor's cache, so a publication takes as long as it reads
    objects: this leaves the outboxes and most of each subscription out.
    """

    __slots__ = ("_codec", "_topic", "_wrap", "_writers")

    @classmethod
    def of(
        cls, topic: Topic, outboxes: Sequence[ClientOutbox]
    ) -> _SharedWriters | None:
        """Return what writes to all ``outboxes``; None unless their writers are alike."""
        wrap, writers = outboxes[0].wrap, writers_of(outboxes)
        if wrap is None or writers is None:
            return None
        return cls(topic, outboxes[0].codec, wrap, writers)

    def __init__(
        self,
        topic: Topic,
        codec: Codec,
        wrap: Callable[[bytes], bytes],
        writers: Sequence[FrameWriter],
    ) -> None:
        self._topic = topic
        self._codec = codec
        self._wrap = wrap
        self._writers = writers

    def send(
        self, publication: Publication, subscriptions: Iterable[ActiveSubscription]
    ) -> None:
        """Send a publication to the subscribers, in one go."""
        topic = self._topic
        frame = self._codec.encode_publication(
            topic.topic, publication, offsets=topic.history is not None
        )
        outboxes = (each.outbox for each in subscriptions)
        write_wrapped(self._writers, self._wrap(frame), outboxes)


def send_publication(
    topic: Topic,
    publication: Publication,
    receivers: Mapping[Codec, Sequence[ClientOutbox]],
) -> None:
    """Send a publication to clients by their codec."""
    if not receivers:
        return
    name, offsets = topic.topic, topic.history is not None
    for codec, outboxes in receivers.items():
        frame = codec.encode_publication(name, publication, offsets=offsets)
        write_all(outboxes, frame)


WHISPER = "topic.whisper"
"""The type of a whisper in a topic's events group."""


class TopicEvent(msgspec.Struct):
    """A message of a topic's events group: a change of presence, or a whisper."""

    type: str
    # Contains the application's JSON unchanged; None for "changed".
    info: ClientInfo | None = None
    data: Data = UNSET

    def push(self, channel: str) -> Push:
        """Return the push that clients get."""
        push = Push(channel=channel)
        if self.type == WHISPER:
            push.whisper = WhisperPush(data=self.data, info=self.info)
        elif self.info is None:
            push.changed = Empty()
        elif self.type == "topic.joined":
            push.join = InfoPush(info=self.info)
        else:
            push.leave = InfoPush(info=self.info)
        return push


_event_decoder = msgspec.json.Decoder(TopicEvent)


def _dispatch_event(
    publication: Publication, subscriptions: Iterable[ActiveSubscription]
) -> None:
    """Send a change of presence to subscribers with such pushes, or a whisper to all."""
    receivers: list[ActiveSubscription] = []
    wanted = [each for each in subscriptions if each.joins or each.topic.whispers]
    if not wanted:
        return
    event = _event_decoder.decode(publication.data)
    push = event.push(wanted[0].channel)
    if push.whisper is not None:
        sender = None if event.info is None else event.info.client
        # Whispers are not stored: none is buffered for a subscription that begins.
        send_push(push, [e for e in wanted if e.active and e.client_id != sender])
        return
    wanted = [each for each in wanted if each.joins]
    for subscription in wanted:
        if subscription.buffered is None:
            receivers.append(subscription)
        else:
            subscription.buffered.append(push)
    send_push(push, receivers)


def send_push(push: Push, subscriptions: Iterable[ActiveSubscription]) -> None:
    """Send a push to all ``subscriptions``, encoded once for each codec."""
    receivers: defaultdict[Codec, list[ClientOutbox]] = defaultdict(list)
    is_extension = push.changed is not None or push.whisper is not None
    for subscription in subscriptions:
        # Protobuf has no field for these, and clients ignore an empty push.
        if not (is_extension and subscription.codec.binary):
            receivers[subscription.codec].append(subscription.outbox)
    for codec, outboxes in receivers.items():
        write_all(outboxes, codec.encode(Reply(push=push)))
