"""What a topic client may ask for, command by command: who does it, and what goes wrong.

It knows who a client is; its subscriptions and what it does with them have rooms of
their own. Checks come before effects: a command that is refused has changed nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from tiderace.asgi import describe
from tiderace.exceptions import LayerUnavailable, TokenExpired, TokenInvalid
from tiderace.protocol import codes
from tiderace.protocol.messages import (
    ConnectRequest,
    ConnectResult,
    Empty,
    RefreshRequest,
    RefreshResult,
    Reply,
    SendRequest,
    SubscribeRequest,
    SubscribeResult,
)
from tiderace.protocol.session import ConnectionEnded, Refused, State
from tiderace.topics.client.participation import Participating
from tiderace.topics.client.served import Served
from tiderace.topics.client.subscriptions import GRACE, After, Subscribing
from tiderace.topics.hub import TopicHub
from tiderace.topics.identity import identity_of
from tiderace.topics.json_fields import as_python, as_raw, ttl_of
from tiderace.topics.topic import Refuse, UnknownTopic, declared, to_json
from tiderace.topics.user_code import call_hook

__all__ = ["Commands"]

logger = logging.getLogger("tiderace.topics")


class Commands:
    """Carries out the commands of one client, one at a time."""

    def __init__(self, conductor: Served, process: TopicHub) -> None:
        self._conductor = conductor
        self._process = process
        self._session = conductor.session
        self.subscriptions = Subscribing(conductor, process)
        taking_part = Participating(conductor, process)
        self._by_name: dict[str, Callable[[Any, Reply], Coroutine[Any, Any, Any]]] = {
            "connect": self._connect,
            "subscribe": self.subscriptions.subscribe,
            "unsubscribe": self.subscriptions.unsubscribe,
            "publish": taking_part.publish,
            "history": taking_part.history,
            "presence": taking_part.presence,
            "presence_stats": taking_part.presence_stats,
            "rpc": taking_part.rpc,
            "send": self._send,
            "refresh": self._refresh,
            "sub_refresh": self.subscriptions.refresh,
            "ping": self._ping,
        }

    async def carry_out(self, name: str, request: Any, reply: Reply) -> After | None:
        """Do what ``request`` asks for and write the answer into ``reply``.

        Returns:
            What is to be done right after the answer was sent.

        Raises:
            Refused: when it is answered with an error.
            Ended: when the connection is to be closed.
        """
        try:
            after: After | None = await self._by_name[name](request, reply)
        except Refuse as refuse:
            raise Refused(refuse.failure) from None
        except UnknownTopic as unknown:
            logger.info("%s (%s)", unknown, describe(self._conductor.scope))
            raise Refused(codes.UNKNOWN_TOPIC) from None
        except LayerUnavailable as error:
            logger.warning("a command %s failed: %s", name, error)
            raise Refused(codes.INTERNAL) from None
        except (Refused, ConnectionEnded, asyncio.CancelledError):
            raise
        except Exception:
            # The application's own mistake: the client learns that there was one.
            logger.exception(
                "a command %s failed (%s)", name, describe(self._conductor.scope)
            )
            raise Refused(codes.INTERNAL) from None
        return after

    # Connect

    async def _connect(self, request: ConnectRequest, reply: Reply) -> After | None:
        conductor, session = self._conductor, self._session
        endpoint, settings = conductor.endpoint, conductor.settings
        try:
            self._process.admit()
            _merge_headers(conductor.scope, request.headers)
            try:
                identity = await identity_of(conductor.scope, request.token)
            except TokenExpired:
                raise Refused(codes.TOKEN_EXPIRED) from None
            except TokenInvalid as invalid:
                raise ConnectionEnded(
                    codes.CLOSE_INVALID_TOKEN, f"token: {invalid}"
                ) from None
            if not identity.user_id and not settings.anonymous:
                raise Refused(codes.UNAUTHORIZED)
            if identity.info is None:
                info = await call_hook(
                    endpoint.user_info, identity.user, conductor.scope
                )
                if info is not None:
                    identity = dataclasses.replace(identity, info=to_json(info))
            conductor.identity = identity
            data = await call_hook(
                endpoint.on_connect, identity.user, as_python(request.data)
            )
            if identity.user_id:
                await conductor.listen_as_user()
            subs, afters = await self._subscribe_on_connect(request.subs or {})
        except Refused:
            session.state = State.NEW
            raise
        reply.connect = ConnectResult(
            client=conductor.client,
            version=endpoint.version,
            data=as_raw(data),
            subs=subs or None,
            ping=max(1, round(settings.ping)),
            pong=True,
            expires=identity.expires_at is not None,
            ttl=ttl_of(identity.expires_at),
            session=conductor.secret if conductor.transport.emulated else "",
            node=self._process.node if conductor.transport.emulated else "",
        )
        self._set_expiry(identity.expires_at)

        def after() -> None:
            conductor.connected()
            for each in afters:
                each()

        return after

    async def _subscribe_on_connect(
        self, asked: dict[str, SubscribeRequest]
    ) -> tuple[dict[str, SubscribeResult], list[After]]:
        identity = self._conductor.identity
        topics: dict[str, bool] = dict.fromkeys(identity.topics, True)
        for kind in declared:
            for name in await call_hook(kind.topics_for, identity.user):
                topics.setdefault(name, False)
        results: dict[str, SubscribeResult] = {}
        afters: list[After] = []
        for name, by_token in topics.items():
            request = asked.get(name, SubscribeRequest())
            request.channel, request.token = name, ""
            try:
                results[name], after = await self.subscriptions.begin(
                    request, server_side=True, trusted=by_token
                )
            except (Refused, UnknownTopic) as error:
                logger.info("no subscription to %s on connect: %s", name, error)
            else:
                afters.append(after)
        return results, afters

    def _set_expiry(self, expires_at: float | None) -> None:
        conductor = self._conductor
        if expires_at is None:
            conductor.silence("expiry")
            return
        conductor.alarm_at(
            "expiry", expires_at + GRACE, lambda: conductor.end(codes.CLOSE_EXPIRED)
        )

    async def _refresh(self, request: RefreshRequest, reply: Reply) -> None:
        conductor = self._conductor
        if not request.token:
            raise Refused(codes.BAD_REQUEST)
        try:
            identity = await identity_of(conductor.scope, request.token)
        except TokenExpired:
            raise Refused(codes.TOKEN_EXPIRED) from None
        except TokenInvalid as invalid:
            raise ConnectionEnded(
                codes.CLOSE_INVALID_TOKEN, f"token: {invalid}"
            ) from None
        if identity.user_id != conductor.identity.user_id:
            raise ConnectionEnded(codes.CLOSE_INVALID_TOKEN, "a token of another user")
        conductor.identity = dataclasses.replace(
            conductor.identity, expires_at=identity.expires_at
        )
        self._set_expiry(identity.expires_at)
        reply.refresh = RefreshResult(
            client=conductor.client,
            version=conductor.endpoint.version,
            expires=identity.expires_at is not None,
            ttl=ttl_of(identity.expires_at),
        )

    async def _send(self, request: SendRequest, reply: Reply) -> None:
        conductor = self._conductor
        await call_hook(
            conductor.endpoint.on_message,
            conductor.identity.user,
            as_python(request.data),
        )

    async def _ping(self, request: Empty, reply: Reply) -> None:
        reply.ping = Empty()


def _merge_headers(scope: Any, headers: dict[str, str] | None) -> None:
    """Let some headers that a client sends in connect count as the request's.

    A browser cannot set any on a WebSocket. Only those of which no proxy says anything,
    and only where the request has none: a page may not claim another origin or address.
    """
    present = scope.get("headers", ())
    known = {name for name, _ in present}
    more = [
        (name.lower().encode("latin1", "replace"), value.encode("latin1", "replace"))
        for name, value in (headers or {}).items()
    ]
    scope["headers"] = [
        *present,
        *(each for each in more if each[0] in _HEADERS and each[0] not in known),
    ]


_HEADERS = frozenset({b"accept-language", b"authorization"})
