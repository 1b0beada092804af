"""Authenticates clients without a session cookie by a ticket or token.

    application = TicketAuthMiddleware(AuthMiddlewareStack(URLRouter(routes)))

The credential is in the handshake or the first message. It is removed from the scope, so
that neither the application nor the access log shows it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from typing import Any

from tiderace import conf
from tiderace.asgi import (
    ASGIApp,
    Event,
    Receive,
    Scope,
    Send,
    describe,
    hide_commands,
    refuse,
    take_query_parameter,
    websocket_accept,
    websocket_close,
)
from tiderace.auth import anonymous_user
from tiderace.exceptions import TokenInvalid
from tiderace.runtime.tasks import wait_in_time
from tiderace.security.credentials import ConnectionToken, read_connection_token
from tiderace.security.keys import MAX_TOKEN_LENGTH
from tiderace.security.tickets import PREFIX as TICKET_PREFIX
from tiderace.security.tickets import find_user, looks_like_a_ticket, redeem

__all__ = [
    "CLOSE_FORBIDDEN",
    "CLOSE_UNAUTHORIZED",
    "PROTOCOL",
    "TOKEN_PREFIX",
    "TicketAuthMiddleware",
    "TokenAuthMiddleware",
]

logger = logging.getLogger("tiderace.security")

PROTOCOL = "tiderace"
"""The subprotocol to offer beside a ticket, which the server selects in its answer."""

TOKEN_PREFIX = "tiderace.token."  # noqa: S105 (no password)
"""The prefix of a JSON Web Token in a subprotocol."""

CLOSE_UNAUTHORIZED = 4401
"""The close code of an accepted socket without a valid credential, or whose token ended."""
CLOSE_FORBIDDEN = 4403
"""The close code of an authenticated socket, accepted before, that the consumer refused."""

# Seconds for sending the end of a response to a client that does not read.
_END_TIMEOUT = 2.0

_PROTOCOL_HEADER = b"sec-websocket-protocol"


class TicketAuthMiddleware:
    """Puts the user of a ticket into ``scope["user"]``.

    A ticket may be, in this order of precedence,

    - a WebSocket subprotocol, ``new WebSocket(url, ["tiderace", ticket])``: for
      browsers; no log shows it;
    - the header ``Authorization: Ticket <ticket>``: for other clients;
    - a query parameter, ``?ticket=<ticket>``, for a one-time ticket only, since proxies
      write URLs to their logs;
    - the first message, if ``first_message`` is set.

    A connection with an invalid ticket is refused with 401, or 403 from servers without
    a response for WebSockets. One without a ticket is passed on, so that a session can
    authenticate it; an ``AuthMiddleware`` inside keeps the ticket's user.

    It must be outermost, or at least outside middleware that copies the scope: only then
    does the server's access log not show the query parameter.

    Args:
        inner: the application.
        required: whether to refuse connections without a ticket.
        first_message: whether a WebSocket without a ticket is accepted and may send it
            as its first message: ``{"ticket": "..."}``, or the bare text. The
            consumer's ``connect()`` runs after that, too late for a subprotocol and
            headers of its own.
        timeout: seconds to wait for the first message.
    """

    schemes: tuple[str, ...] = ("ticket",)
    """The schemes of the header ``Authorization``."""
    message_keys: tuple[str, ...] = ("ticket",)
    """The keys of a credential in the first message."""
    prefixes: tuple[str, ...] = (TICKET_PREFIX,)
    """The prefixes of subprotocols that are credentials."""

    def __init__(
        self,
        inner: ASGIApp,
        *,
        required: bool = False,
        first_message: bool = False,
        timeout: float = 10.0,
    ) -> None:
        self.inner = inner
        self.required = required
        self.first_message = first_message
        self.timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection with the user of its credential in the scope."""
        if scope["type"] not in ("websocket", "http"):
            return await self.inner(scope, receive, send)
        hide_commands(scope)
        taken = _take(scope, self.schemes, self.prefixes)
        inside = dict(scope)
        if taken is None:
            if self.first_message and scope["type"] == "websocket":
                return await self._serve_after_message(inside, receive, send)
            if self.required:
                return await _refuse(scope, receive, send, "it came without a ticket")
            return await self.inner(inside, receive, send)
        text, from_query = taken
        try:
            user, auth = await self.authenticate(text, only_once=from_query)
        except TokenInvalid as error:
            return await _refuse(scope, receive, send, str(error))
        # An error of the application shows the variables of this frame.
        del text, taken
        inside.update(user=user, auth=auth)
        if scope["type"] == "websocket":
            send = _select_protocol(scope, send)
        return await self._serve(inside, receive, send, auth)

    async def authenticate(
        self, text: str, *, only_once: bool
    ) -> tuple[Any, ConnectionToken | None]:
        """Return the user of a credential, and the token if it was one.

        Args:
            text: the credential.
            only_once: whether to accept one-time credentials only.

        Raises:
            TokenInvalid: it is invalid, or (``TokenExpired``) has expired.
        """
        return await redeem(text, only_once=only_once), None

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, auth: ConnectionToken | None
    ) -> Any:
        if auth is None or auth.expires_at is None:
            return await self.inner(scope, receive, send)
        left = auth.expires_at - time.time()
        if left <= 0:  # accepted within the leeway, so it lasts as long
            left += conf.current().token_leeway
        left = max(left, 0.0)
        if scope["type"] == "http":
            return await self._serve_request(scope, receive, send, left)
        expiry = _Expiry(send)
        timer = asyncio.get_running_loop().call_later(left, expiry.close)
        try:
            return await self.inner(scope, receive, expiry.send)
        finally:
            timer.cancel()
            await expiry.closed()

    async def _serve_request(
        self, scope: Scope, receive: Receive, send: Send, left: float
    ) -> Any:
        """Serve a request for ``left`` seconds; then cancel the application."""
        last: Event | None = None

        async def until_expiry(event: Event) -> None:
            nonlocal last
            if deadline.expired():
                raise OSError("the token of the request has expired")
            last = event
            await send(event)

        result: Any = None
        try:
            async with asyncio.timeout(left) as deadline:
                result = await self.inner(scope, receive, until_expiry)
        except OSError:  # the deadline's TimeoutError, or that of ``until_expiry``
            if not deadline.expired():
                raise
        if not deadline.expired():
            return result
        with suppress(OSError):
            async with asyncio.timeout(_END_TIMEOUT):
                if last is None:
                    await refuse(scope, receive, send, 401, "Unauthorized")
                elif last["type"] == "http.response.start" or last.get("more_body"):
                    await send({"type": "http.response.body", "body": b""})
        return None

    async def _serve_after_message(
        self, scope: Scope, receive: Receive, send: Send
    ) -> Any:
        """Accept the socket, authenticate its first message, then run the inner app."""
        if (await receive())["type"] != "websocket.connect":
            return None
        offered = scope.get("subprotocols") or ()
        await send(websocket_accept(PROTOCOL if PROTOCOL in offered else None))
        try:
            event = await wait_in_time(receive(), self.timeout)
            if event["type"] == "websocket.disconnect":
                return None
            text = _credential_in(event, self.message_keys)
            user, auth = await self.authenticate(text, only_once=False)
        except TimeoutError:
            return await _close(scope, send, "its first message did not come in time")
        except TokenInvalid as error:
            return await _close(scope, send, str(error))
        del event, text  # kept out of tracebacks, as in ``__call__``
        scope.update(user=user, auth=auth)
        # An accepted socket can no longer be denied with a response.
        scope["extensions"] = {
            name: value
            for name, value in (scope.get("extensions") or {}).items()
            if name != "websocket.http.response"
        }
        return await self._serve(
            scope, _with_connect(receive), _without_accept(send), auth
        )


class TokenAuthMiddleware(TicketAuthMiddleware):
    """Accepts JSON Web Tokens beside tickets; needs the extra ``jwt``.

    A token may be a subprotocol (``"tiderace.token." + token``), ``Authorization: Bearer
    <token>``, or the first message ``{"token": "..."}``; it is refused in a URL. Its
    ``sub`` is the primary key of an active user, or empty for an anonymous visitor.
    ``scope["auth"]`` is the ``ConnectionToken``.

    When the token expires, a WebSocket is closed with 4401, and a response that is being
    streamed ends; a request without a response yet is answered with 401. Over HTTP the
    application is cancelled.
    """

    schemes = ("ticket", "bearer")
    message_keys = ("ticket", "token")
    prefixes = (TICKET_PREFIX, TOKEN_PREFIX)

    async def authenticate(
        self, text: str, *, only_once: bool
    ) -> tuple[Any, ConnectionToken | None]:
        if looks_like_a_ticket(text):
            return await super().authenticate(text, only_once=only_once)
        if only_once:
            raise TokenInvalid(
                "a token in a URL is refused; only a ticket may stand there"
            )
        auth = read_connection_token(text.removeprefix(TOKEN_PREFIX))
        if not auth.user_id:
            return anonymous_user(), auth
        user = await find_user(auth.user_id)
        if user is None:
            raise TokenInvalid("the token's user is gone or inactive")
        return user, auth


def _take(
    scope: Scope, schemes: tuple[str, ...], prefixes: tuple[str, ...]
) -> tuple[str, bool] | None:
    """Remove credentials from ``scope``; return the first, and if it was in the query."""
    # The server's own dict is changed: its access log is written from that.
    in_query = take_query_parameter(scope, b"ticket")
    in_header = _in_authorization(scope, schemes)
    as_protocol = _take_subprotocol(scope, prefixes)
    if as_protocol is not None:
        return as_protocol, False
    if in_header is not None:
        return in_header, False
    return None if in_query is None else (in_query, True)


def _in_authorization(scope: Scope, schemes: tuple[str, ...]) -> str | None:
    for name, value in scope.get("headers", ()):
        if name == b"authorization":
            scheme, _, text = value.decode("latin1").partition(" ")
            if scheme.lower() in schemes:
                return str(text.strip())
    return None


def _take_subprotocol(scope: Scope, prefixes: tuple[str, ...]) -> str | None:
    offered = list(scope.get("subprotocols") or ())
    secret = [each for each in offered if each.startswith(prefixes)]
    if not secret:
        return None
    kept = [each for each in offered if each not in secret]
    scope["subprotocols"] = kept
    headers = [each for each in scope.get("headers", ()) if each[0] != _PROTOCOL_HEADER]
    if kept:
        headers.append((_PROTOCOL_HEADER, ", ".join(kept).encode("latin1")))
    scope["headers"] = headers
    if not kept and any(name == b"origin" for name, _ in headers):
        logger.warning(
            "a browser offered a ticket as its only subprotocol and will drop the "
            "connection, since no answer may name that one; offer %r too: "
            "new WebSocket(url, [%r, ticket])",
            PROTOCOL,
            PROTOCOL,
        )
    return str(secret[0])


def _credential_in(event: Event, keys: tuple[str, ...]) -> str:
    """Return the credential in a first message.

    Raises:
        TokenInvalid: there is none.
    """
    text = event.get("text")
    if not isinstance(text, str) or len(text) > MAX_TOKEN_LENGTH + 100:
        raise TokenInvalid("its first message is no text, or too long")
    if not text.lstrip().startswith("{"):
        return text.strip()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise TokenInvalid("its first message is no JSON") from None
    found = [content[key] for key in keys if isinstance(content.get(key), str)]
    if not found:
        raise TokenInvalid(f"its first message has no {' or '.join(keys)}")
    return str(found[0])


def _select_protocol(scope: Scope, send: Send) -> Send:
    """Return a ``send`` whose accept selects PROTOCOL if it was offered and no other is.

    A browser drops a connection that selects none of the subprotocols it has offered.
    """
    if PROTOCOL not in (scope.get("subprotocols") or ()):
        return send

    async def selecting(event: Event) -> None:
        if event["type"] == "websocket.accept" and not event.get("subprotocol"):
            event = {**event, "subprotocol": PROTOCOL}
        await send(event)

    return selecting


def _with_connect(receive: Receive) -> Receive:
    """Return a ``receive`` that first returns the connect event again."""
    first: list[Event] = [{"type": "websocket.connect"}]

    async def receiving() -> Event:
        return first.pop() if first else await receive()

    return receiving


def _without_accept(send: Send) -> Send:
    """Return a ``send`` for an inner app whose socket is accepted already."""
    accepted = False

    async def sending(event: Event) -> None:
        nonlocal accepted
        if event["type"] == "websocket.accept":
            accepted = True
        elif event["type"] == "websocket.close" and not accepted:
            await send(websocket_close(CLOSE_FORBIDDEN, event.get("reason")))
        else:
            await send(event)

    return sending


class _Expiry:
    """Closes a socket when its token expires; after that nothing is sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._task: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Begin to close the socket; called by a timer."""
        self._task = asyncio.ensure_future(self._close())

    async def send(self, event: Event) -> None:
        """Send an event, unless the token has expired."""
        if self._task is None:
            await self._send(event)

    async def closed(self) -> None:
        """Wait until the close was sent, if it was begun."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _close(self) -> None:
        try:
            await self._send(websocket_close(CLOSE_UNAUTHORIZED, "expired"))
        except Exception as error:
            logger.debug("could not close a socket whose token has expired: %r", error)


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    logger.warning("refused %s: %s", describe(scope), why)
    await refuse(scope, receive, send, 401, "Unauthorized")


async def _close(scope: Scope, send: Send, why: str) -> None:
    logger.warning("refused %s: %s", describe(scope), why)
    await send(websocket_close(CLOSE_UNAUTHORIZED, "unauthorized"))
