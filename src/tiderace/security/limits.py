"""Limits the connections of an address or user, and the messages of a connection.

::

    application = ConnectionLimiter(
        MessageRateLimiter(AuthMiddlewareStack(URLRouter(routes)), "20/s"), per_ip=50
    )

Both limit the clients of this process; other processes count their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Literal

from tiderace import conf, metrics
from tiderace.asgi import (
    ASGIApp,
    Event,
    Receive,
    Scope,
    Send,
    describe,
    refuse,
    websocket_close,
)
from tiderace.ratelimit import Rate, TokenBucket
from tiderace.security.addresses import Address, Proxies, client_ip, limit_key
from tiderace.security.origins import header

__all__ = ["CLOSE_TOO_MANY", "ConnectionLimiter", "MessageRateLimiter"]

logger = logging.getLogger("tiderace.security")

CLOSE_TOO_MANY = 4429
"""The close code of a socket over the limit of connections or messages."""

# Seconds between two log lines about the same limit: an attack must not fill the disk.
_LOG_INTERVAL = 60.0
# The extension of `tiderace.server` that takes a limit of bytes for one socket, and the
# bytes that a character may have in UTF-8.
_EXTENSION = "tiderace.max_size"
_BYTES_PER_CHARACTER = 4
# Seconds after which a refused client may try again.
_RETRY_AFTER = b"10"


class ConnectionLimiter:
    """Limits the open connections of one address and of one user.

    A connection over the limit is refused with HTTP 429. A server without a response
    for WebSockets accepts it and closes it with 4429, so that the client learns why. It
    costs no query and no task.

    The limits hold for one process: of ``n`` processes, a client may have up to ``n``
    times as many connections.

    Args:
        inner: the application.
        per_ip: connections of one client address (one IPv6 /64 network); None for no
            limit. Offices and mobile networks share an address: 50 to 100 is not too
            many. Connections with an unknown address are not limited.
        per_user: connections of one user; None for no limit. Anonymous visitors are not
            limited by it. It must be inside the middleware that sets ``scope["user"]``.
        proxies: the trusted proxies, as ``client_ip`` takes them; by default
            ``TIDERACE["TRUSTED_PROXIES"]``. Behind a proxy that is not named there, all
            clients have one address, or none over a Unix socket; that is logged once.
        kinds: the types of scope that count. HTTP requests count while they are served,
            since topics serve clients over HTTP, too; around a site's ordinary pages
            ``("websocket",)`` leaves them out.
    """

    def __init__(
        self,
        inner: ASGIApp,
        *,
        per_ip: int | None = None,
        per_user: int | None = None,
        proxies: Proxies | None = None,
        kinds: Collection[str] = ("websocket", "http"),
    ) -> None:
        for name, limit in (("per_ip", per_ip), ("per_user", per_user)):
            if limit is not None and limit < 1:
                raise ValueError(
                    f"{name}={limit} lets nobody in; use 1 or more, or None"
                )
        self.inner = inner
        self.per_ip = per_ip
        self.per_user = per_user
        self.proxies = proxies
        self.kinds = frozenset(kinds)
        self._open: Counter[str] = Counter()
        self._log = _ThrottledLog()
        self._has_warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve or refuse the connection.

        Raises:
            ValueError: ``per_user`` is set and the scope has no user.
        """
        if scope["type"] not in self.kinds:
            return await self.inner(scope, receive, send)
        limits = [*self._of_address(scope), *self._of_user(scope)]
        for key, limit, owner in limits:
            if self._open[key] >= limit:
                metrics.CONNECTIONS_LIMITED.add()
                self._log.warning(
                    f"refused {describe(scope)}: {owner} has {limit} open already"
                )
                return await refuse(
                    scope,
                    receive,
                    send,
                    429,
                    "Too many connections",
                    headers=[(b"retry-after", _RETRY_AFTER)],
                    close=(CLOSE_TOO_MANY, "too many connections"),
                )
        keys = [key for key, _, _ in limits]
        self._open.update(keys)
        try:
            return await self.inner(scope, receive, send)
        finally:
            for key in keys:
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]

    def open(self, key: str) -> int:
        """Return the number of open connections of ``"ip:10.0.0.1"`` or ``"user:7"``."""
        return self._open[key]

    def _of_address(self, scope: Scope) -> list[tuple[str, int, str]]:
        if self.per_ip is None:
            return []
        address = client_ip(scope, self.proxies)
        if not self._has_warned and self._is_behind_unnamed_proxy(scope, address):
            self._has_warned = True
            logger.warning(
                "ConnectionLimiter cannot tell clients apart: %s comes through a proxy "
                "that is not named; name it in TIDERACE['TRUSTED_PROXIES']",
                describe(scope),
            )
        if address is None:
            return []
        key = limit_key(address)
        return [(f"ip:{key}", self.per_ip, f"the address {key}")]

    def _is_behind_unnamed_proxy(self, scope: Scope, address: Address | None) -> bool:
        trusted = self.proxies
        if trusted or (trusted is None and conf.current().trusted_proxies):
            return False
        forwarded = header(scope, b"x-forwarded-for")
        if address is None:  # a Unix socket
            return True
        # Where the server itself has read the header, the address is in it.
        return (
            forwarded is not None
            and address.is_private
            and str(address) not in forwarded
        )

    def _of_user(self, scope: Scope) -> list[tuple[str, int, str]]:
        if self.per_user is None:
            return []
        if "user" not in scope:
            raise ValueError(
                "ConnectionLimiter(per_user=...) cannot find user in scope; put it "
                "inside AuthMiddlewareStack, or another middleware that sets the user"
            )
        user = scope["user"]
        if user is None or not user.is_authenticated:
            return []
        return [(f"user:{user.pk}", self.per_user, f"the user {user.pk}")]


class MessageRateLimiter:
    """Limits the rate and size of the messages of each WebSocket.

    Args:
        inner: the application.
        rate: ``"20/s"``, ``"100/m"``, ``"30/10s"``; a burst may have as many.
        policy: how a message over the rate is treated. ``"close"`` closes the socket
            with 4429. ``"wait"`` delays it until the rate allows it, and reads nothing
            meanwhile, which slows the client down. ``"drop"`` drops, counts and logs it.
        max_size: bytes (characters of a text) of one message; a larger one closes the
            socket with 1009. None leaves that to the server. ``tiderace.server`` stops
            reading a message at four times this size.
        clock: seconds that never run backwards.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        inner: ASGIApp,
        rate: str | Rate,
        *,
        policy: Literal["close", "wait", "drop"] = "close",
        max_size: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if policy not in ("close", "wait", "drop"):
            raise ValueError(f"{policy!r} is no policy; use 'close', 'wait' or 'drop'")
        self.inner = inner
        self.rate = Rate.parse(rate)
        self.policy = policy
        self.max_size = max_size
        self._clock = clock
        self._sleep = sleep
        self._log = _ThrottledLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection; the application receives what the limits allow."""
        if scope["type"] != "websocket":
            return await self.inner(scope, receive, send)
        gate = _Gate(self._bounded(scope, send))
        bucket = TokenBucket(self.rate, clock=self._clock)

        async def limited() -> Event:
            while True:
                event = await receive()
                if event["type"] != "websocket.receive":
                    return event
                if gate.closed:
                    continue  # it was read before the socket was closed
                if self.max_size is not None and _size(event) > self.max_size:
                    await gate.close(1009, "message too big")
                    continue
                if await self._admit(bucket, gate, scope):
                    return event

        return await self.inner(scope, limited, gate.send)

    def _bounded(self, scope: Scope, send: Send) -> Send:
        """Return a ``send`` whose accept limits what the server reads of a message."""
        if self.max_size is None or _EXTENSION not in (scope.get("extensions") or {}):
            return send
        most = self.max_size * _BYTES_PER_CHARACTER

        async def bounded(event: Event) -> None:
            if event["type"] == "websocket.accept":
                own = event.get("max_size")
                event = {**event, "max_size": most if own is None else min(own, most)}
            await send(event)

        return bounded

    async def _admit(self, bucket: TokenBucket, gate: _Gate, scope: Scope) -> bool:
        wait = bucket.take()
        if not wait:
            return True
        if self.policy == "wait":
            while wait:
                await self._sleep(wait)
                wait = bucket.take()
            return True
        metrics.MESSAGES_LIMITED.add()
        self._log.warning(
            f"{describe(scope)} sends more than {self.rate}: "
            + ("closed" if self.policy == "close" else "messages are dropped")
        )
        if self.policy == "close":
            await gate.close(CLOSE_TOO_MANY, "too many messages")
        return False


class _Gate:
    """A ``send`` that sends nothing after the limiter has closed the socket."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.closed = False

    async def send(self, event: Event) -> None:
        if not self.closed:
            await self._send(event)

    async def close(self, code: int, reason: str) -> None:
        self.closed = True
        await self._send(websocket_close(code, reason))


class _ThrottledLog:
    """Logs one warning a minute, with the number of those that it left out."""

    def __init__(self) -> None:
        self._next = float("-inf")
        self._left_out = 0

    def warning(self, text: str) -> None:
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return
        self._next = now + _LOG_INTERVAL
        more, self._left_out = self._left_out, 0
        logger.warning("%s%s", text, f" (and {more} others before)" if more else "")


def _size(event: Event) -> int:
    text = event.get("text")
    return len(text) if text is not None else len(event.get("bytes") or b"")
