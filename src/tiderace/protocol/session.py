"""One client's side of the conversation: what it may say next, what it hears.

Frames in, decisions out: no socket, no clock of its own, no ``await``. It knows the
protocol's rules (``spec/protocol.md``) and nothing of users, permissions or brokers,
whose answers are handed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from tiderace.history import Position, Publication, merge
from tiderace.protocol import codes
from tiderace.protocol.codec import Codec, MalformedFrame
from tiderace.protocol.codes import Close, Failure
from tiderace.protocol.messages import (
    ClientInfo,
    Command,
    ConnectRequest,
    Data,
    Pub,
    Push,
    Reply,
    SubscribeRequest,
    SubscribeResult,
)
from tiderace.ratelimit import Rate, TokenBucket

__all__ = [
    "ConnectionEnded",
    "Limits",
    "PositionLost",
    "Refused",
    "Session",
    "State",
    "Subscription",
    "SubscriptionOptions",
    "publication_frame",
    "request_of",
    "to_pub",
]

# The client is willing to be refused instead of being told that it missed something.
_REJECT_UNRECOVERED = 2


class Refused(Exception):
    """A command is answered with an error."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.code} {failure.message}")
        self.failure = failure


class ConnectionEnded(Exception):
    """The connection is to be closed by the server."""

    def __init__(self, close: Close, why: str = "") -> None:
        super().__init__(why or close.reason)
        self.close = close


class PositionLost(Exception):
    """A subscriber has missed a publication; it must subscribe again to get it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask of a server; see the settings of the same names."""

    frame_size: int = 65_536
    """Bytes of one message from a client."""
    subscriptions: int = 128
    """Topics that one connection hears at a time."""
    name_length: int = 255
    """Characters of a topic's name."""
    commands: Rate = Rate(200, 1.0)  # noqa: RUF009 (it is frozen)
    """Commands of one connection; beyond it they are refused with 111."""
    patience: int = 100
    """Refusals for that reason in a row after which the connection is closed (3013)."""
    recovered: int = 300
    """Publications that a subscription brings back at the most."""


class State(Enum):
    """How far a connection has come."""

    NEW = "nothing was said yet"
    CONNECTING = "connect is being answered"
    CONNECTED = "it may say anything"
    ENDED = "it is over"


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """What a subscriber is allowed; decided by whoever knows the topic and the user."""

    recoverable: bool = False
    """Whether the topic has a history, so publications carry offsets."""
    joins: bool = False
    """Whether it hears who comes and goes."""
    data: Data = UNSET
    """What the application says with the answer, as JSON."""
    expires_at: float | None = None
    """When the permission ends, in seconds since the epoch."""


class Subscription:
    """One topic as one client hears it."""

    __slots__ = ("granted", "held", "position", "server_side", "topic")

    def __init__(self, topic: str, *, server_side: bool = False) -> None:
        self.topic = topic
        self.server_side = server_side
        self.granted = SubscriptionOptions()
        # What has come while the subscription is being answered; None after that.
        self.held: list[Publication] | None = []
        # The last publication that was passed on, where there is a history.
        self.position: Position | None = None

    @property
    def answered(self) -> bool:
        """Whether the client knows that it is subscribed."""
        return self.held is None

    def heard(self, publication: Publication) -> bool:
        """Whether to pass ``publication`` on now.

        Raises:
            Lost: when it does not follow the one before.
        """
        if self.held is not None:
            self.held.append(publication)
            return False
        position = self.position
        if position is None:
            return True
        place = publication.position
        if place.epoch != position.epoch:
            if position.epoch:
                raise PositionLost
        elif place.offset <= position.offset:
            return False
        elif place.offset != position.offset + 1:
            raise PositionLost
        self.position = place
        return True

    def answer(
        self,
        asked: SubscribeRequest,
        granted: SubscriptionOptions,
        top: Position,
        kept: Sequence[Publication] = (),
        *,
        limit: int = 300,
    ) -> tuple[SubscribeResult, Sequence[Publication]] | None:
        """What the client is told, and what it is to be passed on right after that.

        Args:
            asked: the request.
            granted: what it may.
            top: where the topic's stream ended when it was read.
            kept: what it holds after ``asked.offset``; empty when nothing is asked for.
            limit: publications that are brought back at the most.

        Returns:
            None when what came meanwhile does not follow ``top``: read it again.

        Raises:
            Refused: when what was missed cannot be brought back and the client would
                rather be refused then.
        """
        held = self.held or ()
        since = Position(asked.epoch, asked.offset) if asked.recover else None
        if not granted.recoverable:
            result, later = SubscribeResult(), list(held)
        else:
            merged = merge(since, top, kept if len(kept) <= limit else (), held)
            if merged is None:
                if self.held is not None:
                    self.held.clear()
                return None
            if since and not merged.recovered and asked.flag & _REJECT_UNRECOVERED:
                raise Refused(codes.UNRECOVERABLE)
            result = SubscribeResult(
                recoverable=True,
                positioned=True,
                epoch=top.epoch,
                # Each publication that is brought back moves the client on from here.
                offset=asked.offset if merged.recovered else top.offset,
                was_recovering=asked.recover,
                recovered=merged.recovered,
                publications=[to_pub(each) for each in merged.missed] or None,
            )
            later = list(merged.later)
            self.position = later[-1].position if later else top
        result.data = granted.data
        self.granted = granted
        self.held = None
        return result, later


class Session:
    """What one connection has said and hears.

    Args:
        codec: how its frames are written.
        limits: what it may ask for.
        clock: seconds that never run backwards.
    """

    __slots__ = (
        "_bucket",
        "_limits",
        "_refusals",
        "codec",
        "pong_due",
        "state",
        "subscriptions",
    )

    def __init__(
        self,
        codec: Codec,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.codec = codec
        self.state = State.NEW
        self.subscriptions: dict[str, Subscription] = {}
        # Whether a ping was sent that the client has not answered yet.
        self.pong_due = False
        self._limits = limits
        self._bucket = TokenBucket(limits.commands, clock=clock)
        self._refusals = 0

    def receive(self, message: bytes) -> list[Command]:
        """The commands in a message, to be carried out one after the other.

        Raises:
            Ended: when it cannot be read, is too long, or breaks the order of things.
        """
        if len(message) > self._limits.frame_size:
            raise ConnectionEnded(
                Close(1009, "message too big"),
                f"a message of {len(message)} bytes is longer than "
                f"{self._limits.frame_size}",
            )
        try:
            commands = self.codec.decode(message)
        except MalformedFrame as error:
            raise ConnectionEnded(codes.CLOSE_BAD_REQUEST, str(error)) from None
        return [command for command in commands if not self._is_pong(command)]

    def check(self, command: Command) -> tuple[str, Any]:
        """The name and the request of ``command``, if it may be carried out now.

        Raises:
            Refused: when the client asks too often.
            Ended: when it says nothing, says it out of order, or goes on asking too
                often.
        """
        name, request = request_of(command)
        if not name:
            raise ConnectionEnded(
                codes.CLOSE_BAD_REQUEST, "a command without a request"
            )
        if command.id == 0 and name != "send":
            raise ConnectionEnded(codes.CLOSE_BAD_REQUEST, f"{name} without an id")
        if (name == "connect") is not (self.state is State.NEW):
            raise ConnectionEnded(
                codes.CLOSE_BAD_REQUEST,
                "connect must come first"
                if self.state is State.NEW
                else "connect came twice",
            )
        if self._bucket.take():
            self._refusals += 1
            if self._refusals > self._limits.patience:
                raise ConnectionEnded(
                    codes.CLOSE_TOO_MANY_REQUESTS, "commands came too often"
                )
            raise Refused(codes.TOO_MANY_REQUESTS)
        self._refusals = 0
        if isinstance(request, ConnectRequest):
            self.state = State.CONNECTING
        return name, request

    def subscribe(self, topic: str, *, server_side: bool = False) -> Subscription:
        """Begin a subscription: what comes for it is held until it is answered.

        Raises:
            Refused: when the name is too long or empty, when it is subscribed already,
                or when there are too many.
        """
        if not topic or len(topic) > self._limits.name_length:
            raise Refused(codes.BAD_REQUEST)
        if topic in self.subscriptions:
            raise Refused(codes.ALREADY_SUBSCRIBED)
        if len(self.subscriptions) >= self._limits.subscriptions:
            raise Refused(codes.LIMIT_EXCEEDED)
        subscription = Subscription(topic, server_side=server_side)
        self.subscriptions[topic] = subscription
        return subscription

    def unsubscribe(self, topic: str) -> Subscription | None:
        """End a subscription; nothing that comes after this is passed on."""
        return self.subscriptions.pop(topic, None)

    def pinged(self) -> bytes:
        """The ping to send now.

        Raises:
            Ended: when the client has not answered the one before.
        """
        if self.pong_due:
            raise ConnectionEnded(codes.CLOSE_NO_PONG)
        self.pong_due = True
        return self.codec.encode(Reply())

    def _is_pong(self, command: Command) -> bool:
        if command.id or request_of(command)[0]:
            return False
        self.pong_due = False
        return True


def request_of(command: Command) -> tuple[str, Any]:
    """The name and the request of the first one that a command holds."""
    for name in Command.__struct_fields__[1:]:
        request = getattr(command, name)
        if request is not None:
            return name, request
    return "", None


def to_pub(publication: Publication, *, offsets: bool = True) -> Pub:
    """A publication as clients see it."""
    info = publication.info
    return Pub(
        data=Raw(publication.data.encode()),
        info=None if info is None else msgspec.json.decode(info, type=ClientInfo),
        offset=publication.position.offset if offsets else 0,
        tags=dict(publication.tags) if publication.tags else None,
    )


def publication_frame(
    publication: Publication, topic: str, codec: Codec, *, offsets: bool
) -> bytes:
    """The push that a publication becomes, encoded once for all who hear it."""
    key = (codec.name, offsets)
    frame: bytes | None = publication.encoded.get(key)
    if frame is None:
        pub = to_pub(publication, offsets=offsets)
        frame = codec.encode(Reply(push=Push(channel=topic, pub=pub)))
        publication.encoded[key] = frame
    return frame
