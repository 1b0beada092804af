"""One topic client being served: its commands in, its publications out, its end.

It knows the protocol's session, the topic's policy by way of ``commands``, and a
transport as something that receives and sends messages. Everything here belongs to the
event loop of the connection.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from tiderace import conf, metrics
from tiderace.asgi import Scope, describe, serving
from tiderace.delivery.outbox import TooSlow
from tiderace.history import Publication
from tiderace.protocol import codes
from tiderace.protocol.codes import Close, Unsubscription
from tiderace.protocol.messages import (
    ClientInfo,
    Empty,
    InfoPush,
    MessagePush,
    Push,
    Reply,
    UnsubscribePush,
)
from tiderace.protocol.session import (
    ConnectionEnded,
    Limits,
    PositionLost,
    Refused,
    Session,
    State,
    Subscription,
    publication_frame,
)
from tiderace.ratelimit import Rate
from tiderace.revocation import signals
from tiderace.revocation.signals import Reason, Registration
from tiderace.runtime import threads
from tiderace.runtime.connections import (
    ConnectionInfo,
    DrainNotice,
    process_connections,
)
from tiderace.topics.api import control_layer
from tiderace.topics.client.commands import Commands
from tiderace.topics.client.outbox import ClientOutbox
from tiderace.topics.client.served import (
    ActiveSubscription,
    StreamSubscriber,
    Transport,
)
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import TopicHub, current
from tiderace.topics.identity import Identity
from tiderace.topics.names import topic_group, user_group
from tiderace.topics.topic import Topic

__all__ = ["TopicClient", "serve_client"]

logger = logging.getLogger("tiderace.topics")


async def serve_client(hooks: TopicHooks, scope: Scope, transport: Transport) -> None:
    """Serve a client over ``transport`` until it ends."""
    await TopicClient(hooks, scope, transport, current()).run()


class TopicClient:
    """Serves one client of the topics' protocol until it ends, and cleans up after it."""

    def __init__(
        self,
        endpoint: TopicHooks,
        scope: Scope,
        transport: Transport,
        process: TopicHub,
    ) -> None:
        settings = conf.current().topics
        self.endpoint = endpoint
        self._process = process
        self.scope = scope
        self.transport = transport
        self.settings = settings
        # Ids are never reused: presence is a set of them.
        self.client = secrets.token_hex(16)
        # Whoever knows it may say commands in this connection's name.
        self.secret = secrets.token_urlsafe(24)
        self.identity = Identity()
        self.session = Session(transport.codec, _limits(settings))
        self.joined: dict[str, ActiveSubscription] = {}
        self.out = ClientOutbox(
            transport.codec,
            transport.send,
            frames=transport.frames,
            limit=conf.current().outbox_limit,
            slow=lambda: self.end(codes.CLOSE_SLOW),
        )
        self.user_ear: StreamSubscriber | None = None
        self._watched: Registration | None = None
        self._commands = Commands(self, process)
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._ending: Close | None = None
        # Whether the task waits for the client, so that it may be interrupted.
        self._reading = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # Its life

    async def run(self) -> None:
        """Serve the client until it leaves or is closed."""
        self._task = asyncio.current_task()
        serving.set(self.scope)
        metrics.TOPIC_CONNECTIONS.add()
        self._process.add(self)
        process_connections.add(self)
        self.alarm("stale", self.settings.connect_timeout, self._stale)
        self.out.start()
        try:
            async with threads.isolated():
                try:
                    await self._serve()
                finally:
                    await self._clean_up()
        finally:
            process_connections.discard(self)
            metrics.TOPIC_CONNECTIONS.add(-1)

    async def _serve(self) -> None:
        close: Close | None
        try:
            await self._read()
            close = self._ending
        except ConnectionEnded as ended:
            close = ended.close
            logger.info(
                "a topic client is closed with %d: %s (%s)",
                close.code,
                ended,
                describe(self.scope),
            )
        except TooSlow:
            close = codes.CLOSE_SLOW
        except asyncio.CancelledError:
            task = self._task
            if self._ending is None or task is None or task.uncancel() > 0:
                raise
            close = self._ending
        except Exception:
            logger.exception("a topic client failed (%s)", describe(self.scope))
            close = codes.CLOSE_SERVER_ERROR
        if close is not None:
            await self._close(close)

    async def _read(self) -> None:
        while self._ending is None:
            self._reading = True
            try:
                message = await self.transport.receive()
            finally:
                self._reading = False
            if message is None:
                return
            await self.take(message)

    async def take(self, message: bytes) -> None:
        """Carry out the commands of a message, in order.

        Raises:
            Ended: when the connection has to end because of it.
        """
        for command in self.session.receive(message):
            if self._ending is not None:
                return
            reply = Reply(id=command.id)
            try:
                name, request = self.session.check(command)
                metrics.TOPIC_COMMANDS.add()
                after = await self._commands.carry_out(name, request, reply)
            except Refused as refused:
                metrics.TOPIC_REFUSALS.add()
                reply, after = Reply(id=command.id, error=refused.failure), None
            if command.id:
                self.put(reply)
            if after is not None:
                after()

    def end(self, close: Close) -> None:
        """Close the connection, after the command that is being carried out."""
        if self._ending is not None:
            return
        self._ending = close
        if self._reading and self._task is not None:
            self._task.cancel()

    def drain(self, notice: DrainNotice) -> None:
        """See ``tiderace.runtime.connections.LiveConnection``."""
        self.end(codes.CLOSE_DRAIN)

    def cut(self) -> None:
        """See ``tiderace.runtime.connections.LiveConnection``."""
        if self._task is not None:
            self._task.cancel()

    @property
    def user(self) -> Any:
        return self.identity.user

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(self.joined)

    def describe(self) -> ConnectionInfo:
        """Return what monitoring lists of this client."""
        path = str(self.scope.get("path", ""))[:200]
        return ConnectionInfo(self.client, "topics", path)

    async def _close(self, close: Close) -> None:
        if close is codes.CLOSE_SLOW:
            metrics.SLOW_CLIENTS.add()
            logger.warning(
                "a topic client has left more than %d bytes unread and is closed with "
                "%d (%s)",
                conf.current().outbox_limit,
                close.code,
                describe(self.scope),
            )
            self.out.abandon()
        await self.out.finish()
        try:
            await self.transport.close(close)
        except Exception as error:
            logger.debug("could not close %s: %r", describe(self.scope), error)

    async def _clean_up(self) -> None:
        self.session.state = State.ENDED
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._process.discard(self)
        if self._watched is not None:
            self._watched.cancel()
        try:
            await self._commands.subscriptions.leave_all()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.out.abandon()

    # What it says

    def put(self, reply: Reply) -> None:
        """Send a reply or a push.

        Raises:
            TooSlow: when the client does not read.
        """
        self.out.put(self.session.codec.encode(reply))

    def push(self, push: Push) -> None:
        """Send a push from outside a command; a client that does not read is closed."""
        try:
            self.put(Reply(push=push))
        except TooSlow:
            self.end(codes.CLOSE_SLOW)

    # What it hears

    def join(self, subscription: Subscription, topic: Topic) -> ActiveSubscription:
        """Note what is subscribed to; what it hears is to be listened to next."""
        group = topic_group(topic.topic)
        joined = ActiveSubscription(subscription, topic, group)
        name = topic.topic

        def hear(heard_in: str, publication: Publication) -> None:
            try:
                if joined.untold is not None and subscription.answered:
                    joined.untold.append((heard_in, publication))
                elif heard_in != group:
                    self._hear_event(subscription, publication)
                elif subscription.heard(publication):
                    frame = publication_frame(
                        publication,
                        name,
                        self.session.codec,
                        offsets=subscription.granted.recoverable,
                    )
                    self.out.share(frame, publication)
            except PositionLost:
                self.lost(name)
            except TooSlow:
                self.end(codes.CLOSE_SLOW)

        joined.ear = StreamSubscriber(
            f"{self.client}:{name}", hear, lambda: self.lost(name)
        )
        self.joined[name] = joined
        return joined

    async def listen_as_user(self) -> None:
        """Hear what the application says to all connections of this user."""
        ear = StreamSubscriber(f"{self.client}:", self._hear_user, lambda: None)
        self.user_ear = ear
        await control_layer().stream_subscribe(user_group(self.identity.user_id), ear)

    def _pass_on(self, subscription: Subscription, publication: Publication) -> None:
        frame = publication_frame(
            publication,
            subscription.topic,
            self.session.codec,
            offsets=subscription.granted.recoverable,
        )
        self.out.put(frame, publication.encoded)

    def answered(
        self, joined: ActiveSubscription, later: Sequence[Publication]
    ) -> None:
        """The client knows that it is subscribed: pass on what has come meanwhile."""
        untold, joined.untold = joined.untold or (), None
        for publication in later:
            self._pass_on(joined.subscription, publication)
        for group, publication in untold:
            joined.ear.on_publication(group, publication)
        if joined.ended is not None:
            self.unsubscribe(joined.subscription.topic, joined.ended)

    def _hear_event(self, subscription: Subscription, publication: Publication) -> None:
        if not subscription.answered or not subscription.granted.joins:
            return
        key = ("join-leave", self.session.codec.name)
        frame = publication.encoded.get(key)
        if frame is None:
            event = msgspec.json.decode(publication.data, type=_Presence)
            push = event.push(subscription.topic)
            # Where fields have numbers ours has none, and an empty push says nothing.
            said = push.changed is None or not self.session.codec.binary
            frame = self.session.codec.encode(Reply(push=push)) if said else b""
            publication.encoded[key] = frame
        if frame:
            self.out.put(frame, publication.encoded)

    def lost(self, topic: str) -> None:
        """A subscription has missed something: have the client subscribe again."""
        joined = self.joined.get(topic)
        if joined is None:
            return
        if not joined.subscription.answered or (
            not joined.subscription.granted.recoverable
        ):
            # Being answered, it is read again; without a history there is nothing to
            # bring back, and nothing was promised.
            return
        metrics.TOPIC_RESUBSCRIPTIONS.add()
        if joined.subscription.server_side:
            self.end(codes.CLOSE_INSUFFICIENT_STATE)
        else:
            self.unsubscribe(topic, codes.UNSUBSCRIBED_INSUFFICIENT_STATE)

    def unsubscribe(self, topic: str, why: Unsubscription) -> None:
        """End a subscription and say so; the rest of it is done in the background."""
        joined = self.joined.get(topic)
        if joined is None:
            return
        if joined.untold is not None:
            # Not before the client knows that it was subscribed.
            joined.ended = why
            return
        push = UnsubscribePush(code=why.code, reason=why.reason)
        # At once: nothing may be passed on after the push.
        undone = self._commands.subscriptions.leave(topic)
        self.push(Push(channel=topic, unsubscribe=push))
        self.spawn(undone)

    def _hear_user(self, group: str, publication: Publication) -> None:
        """Do what the application says to all connections of this user."""
        event = msgspec.json.decode(publication.data)
        match event["type"]:
            case "topics.disconnect":
                if event.get("client", "") in ("", self.client):
                    self.end(Close(event["code"], event["reason"]))
            case "topics.message":
                data = Raw(event["data"].encode())
                self.push(Push(message=MessagePush(data=data)))
            case "topics.subscribe":
                self.spawn(
                    self._commands.subscriptions.subscribe_from_here(event["topic"])
                )
            case "topics.unsubscribe":
                why = Unsubscription(event["code"], codes.UNSUBSCRIBED_BY_SERVER.reason)
                self.unsubscribe(event["topic"], why)

    # Who it is

    def watch(self) -> None:
        """Be told when the user logs out, or may do other things than now."""
        identity = self.identity
        self._watched = signals.current_watch().register(
            identity.user, identity.session_key, self._auth_changed
        )

    def _auth_changed(self, reason: Reason) -> None:
        if reason.final:
            close = codes.CLOSE_KICKED
            self.end(Close(close.code, reason.value.replace("_", " ")))
        else:
            self.spawn(self._ask_permissions_again())

    async def _ask_permissions_again(self) -> None:
        for name, joined in list(self.joined.items()):
            if self._ending is not None:
                return
            if joined.by_policy and not await self._commands.subscriptions.permits(
                joined.topic
            ):
                self.unsubscribe(name, codes.UNSUBSCRIBED_PERMISSION_DENIED)

    # Time

    def alarm(self, name: str, seconds: float, act: Callable[[], None]) -> None:
        """Call ``act`` in so many seconds, instead of what was set under this name."""
        self.silence(name)
        self._timers[name] = self._loop.call_later(seconds, act)

    def silence(self, name: str) -> None:
        """Undo ``alarm``."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def alarm_at(self, name: str, when: float, act: Callable[[], None]) -> None:
        """The same at ``when``, in seconds since the epoch."""
        self.alarm(name, max(0.0, when - time.time()), act)

    def connected(self) -> None:
        """The client has said who it is."""
        self.session.state = State.CONNECTED
        self.silence("stale")
        self.watch()
        self.alarm("ping", self.settings.ping, self._ping)

    def _ping(self) -> None:
        try:
            self.out.put(self.session.pinged())
        except ConnectionEnded as ended:
            self.end(ended.close)
        except TooSlow:
            self.end(codes.CLOSE_SLOW)
        else:
            self.alarm("pong", self.settings.pong_timeout, self._no_pong)
            self.alarm("ping", self.settings.ping, self._ping)

    def _no_pong(self) -> None:
        if self.session.pong_due:
            self.end(codes.CLOSE_NO_PONG)

    def _stale(self) -> None:
        self.end(codes.CLOSE_STALE)

    def spawn(self, work: Any) -> None:
        """Carry on with ``work`` in the background, until the connection ends."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(
                "background work of a topic client failed (%s)",
                describe(self.scope),
                exc_info=error,
            )


class _Presence(msgspec.Struct):
    """What is said in a topic's events."""

    type: str
    # With its own JSON as it came, which nobody here reads; of nobody for "changed".
    info: ClientInfo | None = None

    def push(self, topic: str) -> Push:
        """The same as clients are told it."""
        push = Push(channel=topic)
        if self.info is None:
            push.changed = Empty()
        elif self.type == "topic.joined":
            push.join = InfoPush(info=self.info)
        else:
            push.leave = InfoPush(info=self.info)
        return push


def _limits(settings: conf.TopicSettings) -> Limits:
    return Limits(
        frame_size=settings.frame_size,
        subscriptions=settings.subscriptions,
        name_length=settings.name_length,
        commands=Rate.parse(settings.commands),
        recovered=settings.recovered,
    )
