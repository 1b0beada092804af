"""One topic client: its session, its timers, its outbox, and the order of its replies.

Everything here belongs to the event loop of the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Any

import msgspec
from django.conf import settings
from msgspec import Raw

from tiderace import conf, metrics
from tiderace.asgi import describe, printable
from tiderace.delivery.outbox import TooSlow
from tiderace.history import Publication
from tiderace.protocol import codes
from tiderace.protocol.codes import Close, Unsubscription
from tiderace.protocol.messages import (
    Command,
    ConnectRequest,
    ConnectResult,
    DataMessage,
    Push,
    RefreshRequest,
    RefreshResult,
    Reply,
    SubscribeRequest,
    SubscribeResult,
)
from tiderace.protocol.session import (
    ConnectionEnded,
    Refused,
    Session,
)
from tiderace.ratelimit import Rate
from tiderace.revocation.account_state import Reason
from tiderace.revocation.auth_changed import current_watcher
from tiderace.revocation.registrations import Registration
from tiderace.runtime.connections import ConnectionInfo, DrainNotice
from tiderace.topics.client.authentication import (
    authenticate,
    refresh,
    server_side_topics,
)
from tiderace.topics.client.commands import COMMANDS
from tiderace.topics.client.context import ClientContext
from tiderace.topics.client.reader import ClientReader
from tiderace.topics.client.refusals import (
    as_refusal,
    errors_as_refusals,
    log_refusal,
)
from tiderace.topics.client.subscriptions import ClientSubscriptions
from tiderace.topics.client.timers import Timers
from tiderace.topics.declaration.topic import UnknownTopic
from tiderace.topics.fanout.outbox import ClientOutbox
from tiderace.topics.identity import Identity
from tiderace.topics.json_fields import as_raw, ttl_of
from tiderace.topics.names import user_group
from tiderace.topics.streams import control_layer
from tiderace.topics.transports.base import Transport

logger = logging.getLogger("tiderace.topics")


class TopicClient:
    """Serves one client, and listens to the events of its user.

    Args:
        context: the context of its commands.
        transport: carries its messages.
        node: the name of this process; empty unless the transport is emulated.
        secret: authorizes HTTP requests with commands of this client; empty unless the
            transport is emulated.
    """

    __slots__ = (
        "_ending",
        "_left",
        "_node",
        "_reader",
        "_registration",
        "_session",
        "_task",
        "_timers",
        "context",
        "groups",
        "outbox",
        "secret",
        "subscriptions",
        "transport",
    )

    def __init__(
        self, context: ClientContext, transport: Transport, node: str, secret: str
    ) -> None:
        self.context = context
        self.transport = transport
        self.secret = secret
        # Those that it listens to; the stream hub sets them.
        self.groups: Collection[str] = ()
        self._node = node
        self._session = Session(
            transport.codec,
            frame_size=context.settings.frame_size,
            commands=Rate.parse(context.settings.commands),
        )
        self.outbox = ClientOutbox(
            transport.codec,
            transport.send,
            writer=transport.writer,
            limit=conf.current().outbox_limit,
            on_slow=self._end_slow,
        )
        self._timers = Timers()
        self.subscriptions = ClientSubscriptions(
            context, self.outbox, self._timers, self.end
        )
        self._registration: Registration | None = None
        self._task = asyncio.current_task()
        self._ending: Close | None = None
        if transport.writer is not None:
            transport.writer.on_text = self._session.take_pong
        self._reader = ClientReader(transport, self._release)
        # Whether the client left while a command was running.
        self._left = False

    # Beginning and end

    async def run(self) -> None:
        """Serve the client until it leaves or is closed."""
        self._timers.start_deadline(
            "answer", self.context.settings.connect_timeout, self._check_answer
        )
        self.outbox.start()
        close: Close | None
        try:
            while self._ending is None:
                message = self._reader.take(await self._reader.read())
                if message is None:
                    break
                commands = self._session.receive(message)
                del message  # which may hold a token, and would be kept while idle
                await self._run_commands(commands)
                del commands
            close = self._ending
        except ConnectionEnded as ended:
            close = ended.close
            logger.log(
                logging.WARNING if settings.DEBUG else logging.INFO,
                "a topic client is closed with %d: %s (%s)",
                close.code,
                ended,
                describe(self.context.scope),
            )
        except TooSlow:
            close = codes.CLOSE_SLOW
        except asyncio.CancelledError:
            task = self._task
            expected = self._left or self._ending is not None
            if not expected or task is None or task.uncancel() > 0:
                raise
            close = self._ending
        except Exception:
            logger.exception("a topic client failed (%s)", describe(self.context.scope))
            close = codes.CLOSE_SERVER_ERROR
        finally:
            self._reader.close()
        if close is not None:
            await self._close(close)

    def end(self, close: Close) -> None:
        """Close the connection, after the command that is running."""
        if self._ending is not None:
            return
        self._ending = close
        # A command that is running is not cancelled.
        if self._reader.waiting and self._task is not None:
            self._task.cancel()

    def _end_slow(self) -> None:
        self.end(codes.CLOSE_SLOW)

    def drain(self, notice: DrainNotice) -> None:
        """Close the connection for a restart."""
        self.end(codes.CLOSE_DRAIN)

    def cut(self) -> None:
        """End at once, without a close frame."""
        if self._task is not None:
            self._task.cancel()

    @property
    def user(self) -> Any:
        return self.context.identity.user

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(self.context.subscriptions)

    def describe(self) -> ConnectionInfo:
        """Return this client's entry in the list of connections."""
        path = printable(str(self.context.scope.get("path", "")))[:200]
        return ConnectionInfo(self.context.client_id, "topics", path)

    async def _close(self, close: Close) -> None:
        scope = self.context.scope
        if close is codes.CLOSE_SLOW:
            metrics.SLOW_CLIENTS.add()
            logger.warning(
                "a topic client has left more than %d bytes unread and is closed with "
                "%d (%s)",
                conf.current().outbox_limit,
                close.code,
                describe(scope),
            )
            self.outbox.abandon()
        await self.outbox.finish()
        try:
            await self.transport.close(close)
        except Exception as error:
            logger.debug("could not close %s: %r", describe(scope), error)

    async def clean_up(self) -> None:
        """End the client's timers, subscriptions and presence."""
        self._stop_listening()
        await self._end_subscriptions()

    def _stop_listening(self) -> None:
        self._timers.cancel_all()
        if self._registration is not None:
            self._registration.cancel()
        self._leave_groups()

    async def _end_subscriptions(self) -> None:
        try:
            await self.subscriptions.close()
            await self.context.streams.close()
        finally:
            self.outbox.abandon()

    def _leave_groups(self) -> None:
        for group in list(self.groups):
            control_layer().stream_unsubscribe(group, self)

    # Commands

    async def _release(self) -> None:
        """Clean up after a client that left during a command, and limit the command."""
        self._left = True
        self._stop_listening()
        limit = conf.current().disconnect_timeout
        self._timers.start_timer("command", limit, lambda: self._cancel_command(limit))
        await self._end_subscriptions()

    def _cancel_command(self, limit: float) -> None:
        logger.warning(
            "a command of a topic client goes on %g s after the client has left, and is "
            "cancelled; shorten its hook, or raise TIDERACE['DISCONNECT_TIMEOUT'] (%s)",
            limit,
            describe(self.context.scope),
        )
        self.cut()

    async def _run_commands(self, commands: Iterable[Command]) -> None:
        for command in commands:
            if self._ending is not None:
                return
            reply = Reply(id=command.id)
            request: Any = None
            try:
                name, request = self._session.check(command)
                metrics.TOPIC_COMMANDS.add()
                result = await self.run_command(name, request)
                if result is not None:
                    setattr(reply, name, result)
            except Refused as refused:
                metrics.TOPIC_REFUSALS.add()
                reply = Reply(id=command.id, error=refused.failure)
            if command.id:
                self.outbox.put(self._session.codec.encode(reply))
            if reply.connect is not None:
                self._start(reply.connect)
            elif reply.subscribe is not None:
                self.subscriptions.commit(request.channel)

    async def run_command(self, name: str, request: Any) -> Any:
        """Run a command and return the result for the reply, if it has any.

        Raises:
            Refused: to answer with an error.
            ConnectionEnded: to close the connection.
        """
        if name == "connect":
            return await self._connect(request)
        try:
            match name:
                case "refresh":
                    return await self._refresh(request)
                case "subscribe":
                    return await self.subscriptions.prepare(request)
                case "sub_refresh":
                    return await self.subscriptions.refresh(request)
                case "unsubscribe":
                    return await self.subscriptions.unsubscribe(request)
                case _:
                    return await COMMANDS[name](self.context, request)
        except Exception as error:
            topic = getattr(request, "channel", "")
            raise as_refusal(error, name, self.context.scope, topic) from None

    async def _connect(self, request: ConnectRequest) -> ConnectResult:
        context = self.context
        headers = context.scope.get("headers", ())
        try:
            with errors_as_refusals("connect", context.scope):
                data = await authenticate(context, request)
                if context.identity.user_id:
                    group = user_group(context.identity.user_id)
                    await control_layer().stream_subscribe(group, self)
                subs = await self._prepare_server_side(request.subs or {})
        except Refused as refused:
            self._session.refuse_connect(temporary=refused.failure.temporary)
            self._leave_groups()
            await self.subscriptions.close()
            context.scope["headers"] = headers
            context.identity = Identity()
            raise
        expires_at = context.identity.expires_at
        return ConnectResult(
            client=context.client_id,
            version=context.hooks.version,
            data=as_raw(data),
            subs=subs or None,
            ping=max(1, round(context.settings.ping)),
            pong=True,
            expires=expires_at is not None,
            ttl=ttl_of(expires_at),
            session=self.secret,
            node=self._node,
        )

    async def _prepare_server_side(
        self, requests: dict[str, SubscribeRequest]
    ) -> dict[str, SubscribeResult]:
        results: dict[str, SubscribeResult] = {}
        for name, grant in (await server_side_topics(self.context)).items():
            request = requests.get(name, SubscribeRequest())
            request.channel, request.token = name, ""
            try:
                results[name] = await self.subscriptions.prepare(
                    request, server_side=True, grant=grant
                )
            except (Refused, UnknownTopic) as error:
                command = "the subscription on connect to"
                log_refusal(command, name, error, self.context.scope)
        return results

    def _start(self, result: ConnectResult) -> None:
        """Start timers and subscriptions, after the reply to connect."""
        self._session.connected = True
        self._timers.cancel_timer("answer")
        self._restart_expiry()
        identity = self.context.identity
        self._registration = current_watcher().register(
            identity.user, identity.session_key, self._on_revocation
        )
        for channel in result.subs or ():
            self.subscriptions.commit(channel)

    async def _refresh(self, request: RefreshRequest) -> RefreshResult:
        await refresh(self.context, request.token)
        self._restart_expiry()
        expires_at = self.context.identity.expires_at
        return RefreshResult(
            client=self.context.client_id,
            version=self.context.hooks.version,
            expires=expires_at is not None,
            ttl=ttl_of(expires_at),
        )

    def _restart_expiry(self) -> None:
        expires_at = self.context.identity.expires_at
        self._timers.start_expiry(
            "expiry", expires_at, lambda: self.end(codes.CLOSE_EXPIRED)
        )

    # Events of the user, and changes of their permissions

    def on_publication(self, group: str, publication: Publication) -> None:
        """Handle an event that the application sent to all connections of this user."""
        event = msgspec.json.decode(publication.data)
        match event["type"]:
            case "topics.disconnect":
                if event.get("client", "") in ("", self.context.client_id):
                    self.end(Close(event["code"], event["reason"]))
            case "topics.message":
                message = DataMessage(data=Raw(event["data"].encode()))
                reply = Reply(push=Push(message=message))
                self.outbox.push(self._session.codec.encode(reply))
            case "topics.subscribe":
                self.subscriptions.subscribe_from_server(event["topic"])
            case "topics.unsubscribe":
                text = codes.UNSUBSCRIBED_BY_SERVER.reason
                reason = Unsubscription(event["code"], text)
                self.subscriptions.end(event["topic"], reason)

    def on_gap(self, group: str) -> None:
        """Ignore a loss: events of users are not kept."""

    def _on_revocation(self, reason: Reason) -> None:
        if reason.final:
            close = codes.CLOSE_KICKED
            self.end(Close(close.code, reason.value.replace("_", " ")))
        else:
            self.subscriptions.check_permissions()

    # Pings

    def next_ping(self) -> bytes | None:
        """Return the ping to send now; None for a client that has not connected."""
        session = self._session
        if not session.connected:
            return None
        if not session.pong_due:
            self._timers.cancel_timer("answer")
        return session.next_ping()

    def await_pong(self, timeout: float) -> None:
        """Close the connection if its ping is not answered within ``timeout`` seconds."""
        if self._session.pong_due and "answer" not in self._timers:
            self._timers.start_deadline("answer", timeout, self._check_answer)

    def _check_answer(self) -> None:
        """End the connection of a client that has not connected, or sent no pong."""
        session = self._session
        if not self._reader.waiting:
            # A command runs, and what the client sends is not read meanwhile.
            self._timers.start_deadline(
                "answer", self.context.settings.pong_timeout, self._check_answer
            )
        elif not session.connected:
            self.end(codes.CLOSE_STALE)
        elif session.pong_due:
            self.end(codes.CLOSE_NO_PONG)
