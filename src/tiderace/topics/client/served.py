"""A topic client being served, as those see it who do something for it.

Types and small values, so that the conductor, its commands and the process need not
know each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tiderace import conf
from tiderace.asgi import Scope
from tiderace.history import Publication
from tiderace.protocol.codec import Codec
from tiderace.protocol.codes import Close, Unsubscription
from tiderace.protocol.messages import Push
from tiderace.protocol.session import Session, Subscription
from tiderace.topics.client.outbox import Frames
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.identity import Identity
from tiderace.topics.topic import Topic

__all__ = ["ActiveSubscription", "Served", "StreamSubscriber", "Transport"]


class Transport(Protocol):
    """How a client's messages come and go."""

    codec: Codec
    frames: Frames | None
    """The server's way for ready frames, where it has one."""
    emulated: bool
    """Whether commands come by requests of their own, for want of a way back."""

    async def receive(self) -> bytes | None:
        """The next message of the client; None when it is gone."""

    async def send(self, message: bytes) -> None:
        """Send a message; waits while the client reads slowly.

        Raises:
            OSError: when the client is gone.
        """

    async def close(self, close: Close) -> None:
        """Say why the server ends it, and end it."""


class StreamSubscriber:
    """What a connection hears of one topic, or of what is said to its user."""

    __slots__ = ("_hear", "_missed", "groups", "name")

    def __init__(
        self,
        name: str,
        hear: Callable[[str, Publication], None],
        missed: Callable[[], None],
    ) -> None:
        self.name = name
        self.groups: set[str] = set()
        self._hear = hear
        self._missed = missed

    def on_publication(self, group: str, publication: Publication) -> None:
        """See ``tiderace.delivery.stream_hub.Listener``."""
        self._hear(group, publication)

    def on_gap(self, group: str) -> None:
        """See ``tiderace.delivery.stream_hub.Listener``."""
        self._missed()


class ActiveSubscription:
    """A subscription together with what has to be undone when it ends."""

    __slots__ = (
        "by_policy",
        "ear",
        "ended",
        "group",
        "present",
        "subscription",
        "topic",
        "untold",
    )

    ear: StreamSubscriber

    def __init__(self, subscription: Subscription, topic: Topic, group: str) -> None:
        self.subscription = subscription
        self.topic = topic
        self.group = group
        # Whether its presence was entered.
        self.present = False
        # What was heard, and where, since it was decided what to answer; it must not
        # come before the answer. None after that.
        self.untold: list[tuple[str, Publication]] | None = []
        # Why it has to end as soon as it has begun.
        self.ended: Unsubscription | None = None
        # Whether the topic's permissions let it in, and may do so no longer.
        self.by_policy = False


class Served(Protocol):
    """One client, for its commands and its process."""

    client: str
    secret: str
    scope: Scope
    identity: Identity
    session: Session
    settings: conf.TopicSettings
    transport: Transport
    endpoint: TopicHooks
    joined: dict[str, ActiveSubscription]
    user_ear: StreamSubscriber | None

    def join(self, subscription: Subscription, topic: Topic) -> ActiveSubscription:
        """Note what is subscribed to; what it hears is to be listened to next."""

    async def listen_as_user(self) -> None:
        """Hear what the application says to all connections of this user."""

    def answered(
        self, joined: ActiveSubscription, later: Sequence[Publication]
    ) -> None:
        """The client knows that it is subscribed: pass on what has come meanwhile."""

    def connected(self) -> None:
        """The client has said who it is."""

    def push(self, push: Push) -> None:
        """Send a push from outside a command."""

    def unsubscribe(self, topic: str, why: Unsubscription) -> None:
        """End a subscription and say so."""

    def end(self, close: Close) -> None:
        """Close the connection, after the command that is being carried out."""

    def alarm_at(self, name: str, when: float, act: Callable[[], None]) -> None:
        """Call ``act`` at a time in seconds since the epoch."""

    def silence(self, name: str) -> None:
        """Undo ``alarm_at``."""
