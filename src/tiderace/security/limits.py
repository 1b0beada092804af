"""How many connections one user or address may have, and how many messages it may send.

    application = ConnectionLimiter(
        MessageRateLimiter(AuthMiddlewareStack(URLRouter(routes)), "20/s"), per_ip=50
    )

Counted in this process; it knows ASGI, addresses and a scope's user, and no consumer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Literal

from tiderace import metrics
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
from tiderace.security.addresses import Proxies, client_ip, limit_key

__all__ = ["CLOSE_TOO_MANY", "ConnectionLimiter", "MessageRateLimiter"]

logger = logging.getLogger("tiderace.security")

CLOSE_TOO_MANY = 4429
"""The close code of a socket that was too many, or said too much."""

# Seconds between two log lines about the same limit: an attack must not fill the disk.
_LOG_INTERVAL = 60.0
# By which our server takes a limit for one socket, in bytes, and how many of them a
# character may have.
_EXTENSION = "tiderace.max_size"
_CHARACTER = 4
# Seconds after which a refused client may try again.
_RETRY_AFTER = b"10"


class ConnectionLimiter:
    """Serves so many connections at a time of one address and of one user.

    What is more is refused with HTTP 429 before it is accepted; where the server can say
    no more than 403, it is accepted and closed with 4429 at once, so that a client knows
    why. It costs no query and no task.

    The limits are those of one process: behind ``n`` of them a client may have up to
    ``n`` times as many.

    Args:
        inner: the application.
        per_ip: connections of one client address (one IPv6 /64 network); None for any
            number. Offices and mobile networks share one: 50 to 100 is not too many.
            Connections whose address is not known are not limited.
        per_user: connections of one user; None for any number. Visitors without an
            account are not limited by it. It must stand inside what puts ``user`` into
            the scope.
        proxies: see ``client_ip``; by default ``TIDERACE["TRUSTED_PROXIES"]``. Behind a
            proxy that is not named there, all clients have one address.
        kinds: which types of scope count.
    """

    def __init__(
        self,
        inner: ASGIApp,
        *,
        per_ip: int | None = None,
        per_user: int | None = None,
        proxies: Proxies | None = None,
        kinds: Collection[str] = ("websocket",),
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
        self._log = _SparingLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection by the inner app, or refuse it.

        Raises:
            ValueError: when ``per_user`` is set and the scope has no user.
        """
        if scope["type"] not in self.kinds:
            return await self.inner(scope, receive, send)
        limits = [*self._of_address(scope), *self._of_user(scope)]
        for key, limit, whose in limits:
            if self._open[key] >= limit:
                metrics.CONNECTIONS_LIMITED.add()
                self._log.warning(
                    f"refused {describe(scope)}: {whose} has {limit} open already"
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
        """How many connections there are of ``"ip:10.0.0.1"`` or ``"user:7"``."""
        return self._open[key]

    def _of_address(self, scope: Scope) -> list[tuple[str, int, str]]:
        if self.per_ip is None:
            return []
        address = client_ip(scope, self.proxies)
        if address is None:
            return []
        key = limit_key(address)
        return [(f"ip:{key}", self.per_ip, f"the address {key}")]

    def _of_user(self, scope: Scope) -> list[tuple[str, int, str]]:
        if self.per_user is None:
            return []
        if "user" not in scope:
            raise ValueError(
                "ConnectionLimiter(per_user=...) cannot find user in scope; put it "
                "inside AuthMiddlewareStack, or whatever names the user"
            )
        user = scope["user"]
        if user is None or not user.is_authenticated:
            return []
        return [(f"user:{user.pk}", self.per_user, f"the user {user.pk}")]


class MessageRateLimiter:
    """Lets each WebSocket say so many messages in a time.

    Args:
        inner: the application.
        rate: ``"20/s"``, ``"100/m"``, ``"30/10s"``; as many may come at once.
        policy: what becomes of a message beyond it. ``"close"`` closes the socket with
            4429. ``"wait"`` hands it over when it is due; until then nothing more is
            read, so that a client which sends faster feels it. ``"drop"`` forgets it,
            counted and logged.
        max_size: bytes (characters of a text) of one message; a larger one closes the
            socket with 1009. None leaves that to the server. ``tiderace.server`` does
            not even gather one that is four times as large.
        clock: seconds that never run backwards.
        sleep: waits for so many seconds.
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
        self._log = _SparingLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection by the inner app, which gets what the rate allows."""
        if scope["type"] != "websocket":
            return await self.inner(scope, receive, send)
        gate = _Gate(self._bounded(scope, send))
        bucket = TokenBucket(self.rate, clock=self._clock)

        async def limited() -> Event:
            while True:
                event = await receive()
                if event["type"] != "websocket.receive" or gate.closed:
                    if event["type"] == "websocket.receive":
                        continue  # it was on its way when the socket was closed
                    return event
                if self.max_size is not None and _size(event) > self.max_size:
                    await gate.close(1009, "message too big")
                    continue
                if await self._admit(bucket, gate, scope):
                    return event

        return await self.inner(scope, limited, gate.send)

    def _bounded(self, scope: Scope, send: Send) -> Send:
        """``send`` that has our server hold little of what would be too large."""
        if self.max_size is None or _EXTENSION not in (scope.get("extensions") or {}):
            return send
        most = self.max_size * _CHARACTER

        async def bounded(event: Event) -> None:
            if event["type"] == "websocket.accept":
                wish = event.get("max_size")
                event = {**event, "max_size": most if wish is None else min(wish, most)}
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
            f"{describe(scope)} says more than {self.rate}: "
            + ("closed" if self.policy == "close" else "messages are dropped")
        )
        if self.policy == "close":
            await gate.close(CLOSE_TOO_MANY, "too many messages")
        return False


class _Gate:
    """``send`` until the socket was closed from here; after that nothing is sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.closed = False

    async def send(self, event: Event) -> None:
        if not self.closed:
            await self._send(event)

    async def close(self, code: int, reason: str) -> None:
        self.closed = True
        await self._send(websocket_close(code, reason))


class _SparingLog:
    """Warnings of one kind, of which many may come: one a minute, with their number."""

    def __init__(self) -> None:
        self._next = float("-inf")
        self._silent = 0

    def warning(self, text: str) -> None:
        now = time.monotonic()
        if now < self._next:
            self._silent += 1
            return
        self._next = now + _LOG_INTERVAL
        more, self._silent = self._silent, 0
        logger.warning("%s%s", text, f" (and {more} others before)" if more else "")


def _size(event: Event) -> int:
    text = event.get("text")
    return len(text) if text is not None else len(event.get("bytes") or b"")
