"""Clients without a session cookie: a ticket or token in the handshake or first message.

    application = TicketAuthMiddleware(AuthMiddlewareStack(URLRouter(routes)))

It knows where a credential may stand in an ASGI scope, and takes it out of there, so that
nothing inside, and no access log, sees it. What proves what is ``credentials``' business.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any
from urllib.parse import unquote_to_bytes

from tiderace.asgi import (
    ASGIApp,
    Event,
    Receive,
    Scope,
    Send,
    describe,
    refuse,
    websocket_accept,
    websocket_close,
)
from tiderace.exceptions import TokenInvalid
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
"""The subprotocol to offer beside a ticket: the one that a server may name in its answer."""

TOKEN_PREFIX = "tiderace.token."  # noqa: S105 (no password)
"""What stands before a JSON Web Token in a subprotocol."""

CLOSE_UNAUTHORIZED = 4401
"""The close code of a socket that was accepted and did not, or no longer, prove itself."""
CLOSE_FORBIDDEN = 4403
"""That of one that proved itself after it was accepted, and was refused by the consumer."""

_PROTOCOL_HEADER = b"sec-websocket-protocol"


class TicketAuthMiddleware:
    """Puts the user of a ticket into ``scope["user"]``.

    A ticket may come, in this order, as

    - a WebSocket subprotocol, ``new WebSocket(url, ["tiderace", ticket])``: never in a
      log; the one for browsers;
    - the header ``Authorization: Ticket <ticket>``: for everything else;
    - a query parameter, ``?ticket=<ticket>``, if it is good for one use only, since
      proxies keep URLs in their logs;
    - the first message, if ``first_message`` is set.

    A ticket that is not good refuses the connection (401, or 403 from servers that can
    say nothing else). Without any the connection goes on as it is, so that a session may
    say who it is; an ``AuthMiddleware`` inside leaves the ticket's user alone.

    It must stand outermost, at least outside whatever copies scopes: only then does the
    server's access log not show a query parameter.

    Args:
        inner: the application.
        required: whether to refuse connections without a ticket.
        first_message: whether a WebSocket without one is accepted and may send it as its
            first message: ``{"ticket": "..."}``, or the bare text. The consumer's
            ``connect()`` runs after that; its subprotocol and headers come too late.
        timeout: seconds that the first message may take.
    """

    schemes: tuple[str, ...] = ("ticket",)
    """What may stand before it in the header ``Authorization``."""
    keys_of_message: tuple[str, ...] = ("ticket",)
    """What it may be called in the first message."""
    prefixes: tuple[str, ...] = (TICKET_PREFIX,)
    """What a subprotocol begins with that is a credential."""

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
        """Serve the connection by the inner app, with the credential's ``user``."""
        if scope["type"] not in ("websocket", "http"):
            return await self.inner(scope, receive, send)
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
            user, auth = await self.prove(text, only_once=from_query)
        except TokenInvalid as error:
            return await _refuse(scope, receive, send, str(error))
        inside.update(user=user, auth=auth)
        if scope["type"] == "websocket":
            send = _naming_protocol(scope, send)
        return await self._serve(inside, receive, send, auth)

    async def prove(
        self, text: str, *, only_once: bool
    ) -> tuple[Any, ConnectionToken | None]:
        """The user whom ``text`` proves, and the token that did, if it was one.

        Args:
            text: what the client showed.
            only_once: whether only what is used up by this may be taken.

        Raises:
            TokenInvalid: when it proves nothing; also ``TokenExpired``.
        """
        return await redeem(text, only_once=only_once), None

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, auth: ConnectionToken | None
    ) -> Any:
        if auth is None or auth.expires_at is None or scope["type"] != "websocket":
            return await self.inner(scope, receive, send)
        ending = _Ending(send)
        loop = asyncio.get_running_loop()
        left = max(auth.expires_at - time.time(), 0.0)
        timer = loop.call_later(left, ending.begin)
        try:
            return await self.inner(scope, receive, ending.send)
        finally:
            timer.cancel()
            await ending.over()

    async def _serve_after_message(
        self, scope: Scope, receive: Receive, send: Send
    ) -> Any:
        """Accept, read who it is, and only then let the inner app see the connection."""
        if (await receive())["type"] != "websocket.connect":
            return None  # it has given up
        offered = scope.get("subprotocols") or ()
        await send(websocket_accept(PROTOCOL if PROTOCOL in offered else None))
        try:
            async with asyncio.timeout(self.timeout):
                event = await receive()
            if event["type"] == "websocket.disconnect":
                return None
            text = _said(event, self.keys_of_message)
            user, auth = await self.prove(text, only_once=False)
        except TimeoutError:
            return await _close(scope, send, "its first message did not come in time")
        except TokenInvalid as error:
            return await _close(scope, send, str(error))
        scope.update(user=user, auth=auth)
        # It has been accepted: there is no response any more to deny it with.
        scope["extensions"] = {
            name: value
            for name, value in (scope.get("extensions") or {}).items()
            if name != "websocket.http.response"
        }
        return await self._serve(scope, _connecting(receive), _accepted(send), auth)


class TokenAuthMiddleware(TicketAuthMiddleware):
    """Takes JSON Web Tokens besides tickets; needs the extra ``jwt``.

    A token may come as a subprotocol (``"tiderace.token." + token``), as ``Authorization:
    Bearer <token>``, or as the first message ``{"token": "..."}``; never in a URL. Its
    ``sub`` is the primary key of an active user, or empty for a visitor.
    ``scope["auth"]`` is the ``ConnectionToken``. A WebSocket is closed with 4401 when
    its token's time is over.
    """

    schemes = ("ticket", "bearer")
    keys_of_message = ("ticket", "token")
    prefixes = (TICKET_PREFIX, TOKEN_PREFIX)

    async def prove(
        self, text: str, *, only_once: bool
    ) -> tuple[Any, ConnectionToken | None]:
        """See ``TicketAuthMiddleware.prove``."""
        if looks_like_a_ticket(text):
            return await super().prove(text, only_once=only_once)
        if only_once:
            raise TokenInvalid(
                "a token in a URL is refused; only a ticket may stand there"
            )
        auth = read_connection_token(text.removeprefix(TOKEN_PREFIX))
        if not auth.user_id:
            # Needs a loaded app registry, which this module's import must not.
            from django.contrib.auth.models import AnonymousUser

            return AnonymousUser(), auth
        user = await find_user(auth.user_id)
        if user is None:
            raise TokenInvalid("the token's user is gone or inactive")
        return user, auth


def _take(
    scope: Scope, schemes: tuple[str, ...], prefixes: tuple[str, ...]
) -> tuple[str, bool] | None:
    """Take credentials out of ``scope``; the best, and whether it was in the query."""
    # In the server's own dict: it writes its log from that.
    in_query = _take_from_query(scope)
    in_header = _in_authorization(scope, schemes)
    as_protocol = _take_subprotocol(scope, prefixes)
    if as_protocol is not None:
        return as_protocol, False
    if in_header is not None:
        return in_header, False
    return None if in_query is None else (in_query, True)


def _take_from_query(scope: Scope) -> str | None:
    parts = bytes(scope.get("query_string") or b"").split(b"&")
    kept = [part for part in parts if part.partition(b"=")[0] != b"ticket"]
    if len(kept) == len(parts):
        return None
    scope["query_string"] = b"&".join(kept)
    first = next(part for part in parts if part not in kept)
    return unquote_to_bytes(first.partition(b"=")[2]).decode("latin1")


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


def _said(event: Event, keys: tuple[str, ...]) -> str:
    """The credential in a first message.

    Raises:
        TokenInvalid: when there is none.
    """
    text = event.get("text")
    if not isinstance(text, str) or len(text) > MAX_TOKEN_LENGTH + 100:
        raise TokenInvalid("its first message is no text, or too long")
    if not text.lstrip().startswith("{"):
        return text.strip()
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise TokenInvalid("its first message is no JSON") from None
    found = [said[key] for key in keys if isinstance(said.get(key), str)]
    if not found:
        raise TokenInvalid(f"its first message has no {' or '.join(keys)}")
    return str(found[0])


def _naming_protocol(scope: Scope, send: Send) -> Send:
    """Have an accept that names no subprotocol name ours, where the client offered it.

    Browsers drop a connection to which they offered some and that names none of them.
    """
    if PROTOCOL not in (scope.get("subprotocols") or ()):
        return send

    async def naming(event: Event) -> None:
        if event["type"] == "websocket.accept" and not event.get("subprotocol"):
            event = {**event, "subprotocol": PROTOCOL}
        await send(event)

    return naming


def _connecting(receive: Receive) -> Receive:
    """``receive`` with the connect event in front, which was taken out of it."""
    first: list[Event] = [{"type": "websocket.connect"}]

    async def connecting() -> Event:
        return first.pop() if first else await receive()

    return connecting


def _accepted(send: Send) -> Send:
    """``send`` of a socket that was accepted before the inner app could do that."""
    accepted = False

    async def after(event: Event) -> None:
        nonlocal accepted
        if event["type"] == "websocket.accept":
            accepted = True
        elif event["type"] == "websocket.close" and not accepted:
            await send(websocket_close(CLOSE_FORBIDDEN, event.get("reason")))
        else:
            await send(event)

    return after


class _Ending:
    """The end of a socket at the time its token says; after it nothing is sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Close the socket; for a timer."""
        self._ended = True
        close = self._send(websocket_close(CLOSE_UNAUTHORIZED, "expired"))
        self._task = asyncio.ensure_future(_whole(close))

    async def send(self, event: Event) -> None:
        """Send what the inner app says, until the end."""
        if not self._ended:
            await self._send(event)

    async def over(self) -> None:
        """Wait until the close was sent, if it was begun."""
        if self._task is not None:
            await asyncio.wait([self._task])


async def _whole(work: Any) -> None:
    try:
        await work
    except Exception as error:
        logger.debug("could not close a socket whose token has expired: %r", error)


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    _log(scope, why)
    await refuse(scope, receive, send, 401, "Unauthorized")


async def _close(scope: Scope, send: Send, why: str) -> None:
    _log(scope, why)
    await send(websocket_close(CLOSE_UNAUTHORIZED, "unauthorized"))


def _log(scope: Scope, why: str) -> None:
    logger.warning("refused %s: %s", describe(scope), why)
