"""The protocol's rules for one client (``spec/protocol.md``), without input or output.

A session takes messages and returns commands; a subscription keeps a client's position in
a topic's stream. Nothing here awaits, reads a clock of its own or checks permissions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from tiderace.history import Position, Publication, merge
from tiderace.protocol import codes
from tiderace.protocol.codec import Codec, MalformedFrame
from tiderace.protocol.codes import Close, Failure
from tiderace.protocol.messages import (
    ClientInfo,
    Command,
    MalformedCommand,
    Pub,
    Push,
    Reply,
    SubscribeRequest,
    SubscribeResult,
)
from tiderace.ratelimit import Rate, TokenBucket

# The flag of a client that prefers an error to an incomplete recovery.
_REJECT_UNRECOVERED = 2

# Commands in a row that are refused as too many, before the connection is closed (3013).
_MAX_REFUSALS = 100


class Refused(Exception):
    """A command is answered with an error.

    Args:
        failure: the error.
        why: added to its message.
        reason: for the server's log; not sent to the client.
    """

    def __init__(self, failure: Failure, why: str = "", *, reason: str = "") -> None:
        if why:
            message = f"{failure.message}: {why}"
            failure = Failure(failure.code, message, failure.temporary)
        super().__init__(f"{failure.code} {failure.message}")
        self.failure = failure
        self.reason = reason


class ConnectionEnded(Exception):
    """The server closes the connection."""

    def __init__(self, close: Close, why: str = "") -> None:
        super().__init__(why or close.reason)
        self.close = close


class PositionLost(Exception):
    """A publication is missing; the client has to subscribe again to get it."""


class Subscription:
    """One client's subscription to a topic, and its position in the topic's stream.

    From the start until ``commit``, everything for the client is buffered, because none
    of it may be sent before the reply to its subscribe command.
    """

    __slots__ = ("buffered", "channel", "joins", "position", "server_side")

    def __init__(self, channel: str, *, server_side: bool = False) -> None:
        self.channel = channel
        self.server_side = server_side
        # Whether the client gets join and leave pushes.
        self.joins = False
        # What came before the reply was sent; None after that.
        self.buffered: list[Publication | Push] | None = []
        # The position of the last publication passed on; None without a history.
        self.position: Position | None = None

    @property
    def active(self) -> bool:
        """Whether the reply was sent."""
        return self.buffered is None

    def advance(self, publication: Publication) -> bool:
        """Return whether to send ``publication`` now, and move the position on if so.

        Raises:
            PositionLost: when it does not follow the one before.
        """
        if self.buffered is not None:
            self.buffered.append(publication)
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
        elif publication.before != position.offset:
            raise PositionLost
        self.position = place
        return True

    def build_reply(
        self,
        request: SubscribeRequest,
        top: Position,
        kept: Sequence[Publication] = (),
        *,
        limit: int = 300,
        newest: Sequence[Publication] | None = None,
    ) -> SubscribeResult | None:
        """Return the reply for a topic with a history; what follows it stays buffered.

        Args:
            request: the client's request.
            top: the end of the topic's stream when it was read.
            kept: the stream's publications after ``request.offset``; empty when none
                are to be recovered.
            limit: the most publications to recover.
            newest: the stream's last publications, in order, for a subscriber that
                recovers nothing and gets these; None for one that recovers.

        Returns:
            None when the buffer does not follow ``top``: read the stream again.

        Raises:
            Refused: when the missed publications cannot be recovered and the client
                prefers an error then.
        """
        buffered = self.buffered or []
        recovers = request.recover and newest is None
        since = Position(request.epoch, request.offset) if recovers else None
        publications = [each for each in buffered if isinstance(each, Publication)]
        merged = merge(since, top, kept if len(kept) <= limit else (), publications)
        if merged is None:
            self.buffered = [each for each in buffered if isinstance(each, Push)]
            return None
        if since and not merged.recovered and request.flag & _REJECT_UNRECOVERED:
            raise Refused(codes.UNRECOVERABLE)
        self.position = top
        start = request.offset if merged.recovered else top.offset
        if newest:
            start = newest[0].before
        return SubscribeResult(
            recoverable=True,
            positioned=True,
            epoch=top.epoch,
            # The client advances from here with each publication of the reply.
            offset=start,
            was_recovering=request.recover,
            recovered=merged.recovered,
            publications=[to_pub(each) for each in newest or merged.missed] or None,
        )

    def commit(self) -> Sequence[Publication | Push]:
        """Return what was buffered, now that the reply was sent.

        Pass each publication through ``advance``: some may be in the reply already.
        """
        buffered, self.buffered = self.buffered or (), None
        return buffered


class Session:
    """Reads one connection's messages and checks the order and rate of its commands.

    Args:
        codec: encodes and decodes its frames.
        frame_size: the most bytes of a message.
        commands: how often commands may come; beyond it they are refused with 111.
        clock: monotonic seconds.
    """

    __slots__ = (
        "_bucket",
        "_frame_size",
        "_refusals",
        "_unconnected",
        "codec",
        "connected",
        "pong_due",
    )

    def __init__(
        self,
        codec: Codec,
        *,
        frame_size: int,
        commands: Rate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.codec = codec
        # Whether a connect has succeeded; until then there are no other commands.
        self.connected = False
        # Whether a ping has not been answered yet.
        self.pong_due = False
        self._frame_size = frame_size
        self._bucket = TokenBucket(commands, clock=clock)
        self._refusals = 0
        # The reply to other commands, after a connect that was refused.
        self._unconnected: Failure | None = None

    def receive(self, message: bytes) -> list[Command]:
        """Return the commands in a message, to be run one after the other.

        Raises:
            ConnectionEnded: when it is malformed or too long, or when pongs without a
                ping come too often.
        """
        if len(message) > self._frame_size:
            raise ConnectionEnded(
                Close(1009, "message too big"),
                f"a message of {len(message)} bytes is longer than {self._frame_size}",
            )
        try:
            commands = self.codec.decode(message)
        except MalformedFrame as error:
            raise ConnectionEnded(codes.CLOSE_BAD_REQUEST, str(error)) from None
        if len(commands) == 1 and commands[0].id:
            return commands
        return [each for each in commands if each.id or not self._is_pong(each)]

    def check(self, command: Command) -> tuple[str, Any]:
        """Return the name and the request of ``command``, if it may run now.

        Raises:
            Refused: when commands come too often, when this one is malformed, or when it
                follows a connect that was refused.
            ConnectionEnded: when the command is empty or out of order, or when commands
                go on coming too often.
        """
        name, request = request_of(command)
        unconnected = not self.connected and name != "connect"
        problem = ""
        if not name:
            problem = "a command without a request"
        elif command.id == 0 and name != "send":
            problem = f"{name} without an id"
        elif self.connected and name == "connect":
            problem = "connect came twice"
        elif unconnected and self._unconnected is None:
            problem = "connect must come first"
        if problem:
            raise ConnectionEnded(codes.CLOSE_BAD_REQUEST, problem)
        if self._bucket.take():
            self._count_refusal()
            raise Refused(codes.TOO_MANY_REQUESTS)
        if isinstance(command, MalformedCommand):
            if not self.connected:
                self.refuse_connect(temporary=False)
            raise Refused(codes.BAD_REQUEST, command.why)
        if unconnected and self._unconnected is not None:
            raise Refused(self._unconnected)
        self._refusals = 0
        return name, request

    def refuse_connect(self, *, temporary: bool) -> None:
        """Refuse commands until another connect.

        Args:
            temporary: whether the client may try again, as with the other commands.
        """
        denied = codes.PERMISSION_DENIED
        message = f"{denied.message}: connect was refused"
        self._unconnected = Failure(denied.code, message, temporary)

    def next_ping(self) -> bytes:
        """Return the ping to send now."""
        self.pong_due = True
        ping = _pings.get(self.codec)
        if ping is None:
            ping = _pings[self.codec] = self.codec.encode(Reply())
        return ping

    def take_pong(self, text: str) -> bool:
        """Return whether a message is the pong that is due, and needs nothing else."""
        if text != "{}" or not self.pong_due:
            return False
        self.pong_due = False
        return True

    def _is_pong(self, command: Command) -> bool:
        if request_of(command)[0]:
            return False
        # Without a ping it is an empty command, and those have no limit of their own.
        if not self.pong_due and self._bucket.take():
            self._count_refusal()
        self.pong_due = False
        return True

    def _count_refusal(self) -> None:
        self._refusals += 1
        if self._refusals > _MAX_REFUSALS:
            raise ConnectionEnded(
                codes.CLOSE_TOO_MANY_REQUESTS, "commands came too often"
            )


# The frame of a ping, which is the same for all clients of a codec.
_pings: dict[Codec, bytes] = {}


_NAMES = Command.__struct_fields__[1:]


def request_of(command: Command) -> tuple[str, Any]:
    """Return the name of the first request in a command, and the request if it is read."""
    if isinstance(command, MalformedCommand):
        return command.name, None
    for name in _NAMES:
        request = getattr(command, name)
        if request is not None:
            return name, request
    return "", None


def to_pub(publication: Publication, *, offsets: bool = True) -> Pub:
    """Return a publication as the message that clients get."""
    info = publication.info
    return Pub(
        data=Raw(publication.raw),
        info=None if info is None else msgspec.json.decode(info, type=ClientInfo),
        offset=publication.position.offset if offsets else 0,
        tags=dict(publication.tags) if publication.tags else None,
        time=int(publication.time * 1000),
    )
