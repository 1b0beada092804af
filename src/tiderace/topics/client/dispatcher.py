"""The fan-out of a topic: from one publication to the sockets of all its subscribers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from tiderace.history import Publication
from tiderace.protocol.codec import Codec
from tiderace.protocol.codes import Unsubscription
from tiderace.protocol.messages import ClientInfo, Empty, InfoPush, Pub, Push, Reply
from tiderace.protocol.session import (
    PositionLost,
    Subscription,
    to_pub,
)
from tiderace.topics.client.outbox import ClientOutbox, write_all
from tiderace.topics.identity import Grant
from tiderace.topics.names import topic_group
from tiderace.topics.topic import Topic


class ActiveSubscription(Subscription):
    """A client's subscription, as a listener to the topic's stream and to its events.

    Args:
        topic: the topic.
        outbox: of the client.
        on_lost: called when publications are missing.
        server_side: whether the server has subscribed the client.
    """

    __slots__ = (
        "_on_lost",
        "codec",
        "end_reason",
        "grant",
        "group",
        "groups",
        "outbox",
        "present",
        "topic",
    )

    def __init__(
        self,
        topic: Topic,
        outbox: ClientOutbox,
        on_lost: Callable[[ActiveSubscription], None],
        *,
        server_side: bool = False,
    ) -> None:
        super().__init__(topic.topic, server_side=server_side)
        self.topic = topic
        self.group = topic_group(topic.topic)
        self.outbox = outbox
        self.codec = outbox.codec
        self.groups: set[str] = set()
        self._on_lost = on_lost
        # Given by a token or the server; None where the topic's permissions allow it,
        # which are checked again later.
        self.grant: Grant | None = None
        # Whether the client was added to presence.
        self.present = False
        # Set where it has to end as soon as it is active.
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
        receivers: defaultdict[Codec, list[ClientOutbox]] = defaultdict(list)
        for subscription in listeners:
            try:
                if subscription.advance(publication):
                    receivers[subscription.codec].append(subscription.outbox)
            except PositionLost:
                subscription.on_gap(group)
        if not receivers:
            return
        channel, offsets = listeners[0].channel, listeners[0].topic.history is not None
        push = Push(channel=channel, pub=to_pub(publication, offsets=offsets))
        for codec, outboxes in receivers.items():
            write_all(outboxes, codec.encode(Reply(push=push)))

    def on_publication(self, group: str, publication: Publication) -> None:
        """Send a publication to this client alone."""
        self.dispatch(group, publication, [self])

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
                _send_push(each, [self])
            else:
                self.on_publication(self.group, each)


class _PresenceEvent(msgspec.Struct):
    """A message of a topic's events group."""

    type: str
    # Contains the application's JSON unchanged; None for "changed".
    info: ClientInfo | None = None

    def push(self, channel: str) -> Push:
        """Return the push that clients get."""
        push = Push(channel=channel)
        if self.info is None:
            push.changed = Empty()
        elif self.type == "topic.joined":
            push.join = InfoPush(info=self.info)
        else:
            push.leave = InfoPush(info=self.info)
        return push


def _dispatch_event(
    publication: Publication, subscriptions: Iterable[ActiveSubscription]
) -> None:
    """Send a join, a leave or a change of presence to subscribers with such pushes."""
    receivers: list[ActiveSubscription] = []
    wanted = [each for each in subscriptions if each.joins]
    if not wanted:
        return
    event = msgspec.json.decode(publication.data, type=_PresenceEvent)
    push = event.push(wanted[0].channel)
    for subscription in wanted:
        if subscription.buffered is None:
            receivers.append(subscription)
        else:
            subscription.buffered.append(push)
    _send_push(push, receivers)


def _send_push(push: Push, subscriptions: Iterable[ActiveSubscription]) -> None:
    receivers: defaultdict[Codec, list[ClientOutbox]] = defaultdict(list)
    for subscription in subscriptions:
        # Protobuf has no field for a change, and clients ignore an empty push.
        if push.changed is None or not subscription.codec.binary:
            receivers[subscription.codec].append(subscription.outbox)
    for codec, outboxes in receivers.items():
        write_all(outboxes, codec.encode(Reply(push=push)))
