"""ASGI's types, its events, the refusal of a connection, and names for log lines.

After the ASGI specification: HTTP & WebSocket message format 2.5, lifespan 2.0.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, unquote_plus

from asgiref.sync import markcoroutinefunction
from django.utils.functional import LazyObject

from tiderace import conf
from tiderace.json_compat import well_formed_text

__all__ = [
    "ASGIApp",
    "Event",
    "EventQueue",
    "Receive",
    "Scope",
    "Secret",
    "Send",
    "abort_if_stalled",
    "can_deny_with_response",
    "client_address",
    "connection_id",
    "describe",
    "fill_lazy",
    "hide_commands",
    "known_user_id",
    "log_fields",
    "mark_application",
    "path_below_prefix",
    "redacted_query",
    "refuse",
    "serving",
    "take_query_parameter",
    "unwrap_lazy",
    "websocket_accept",
    "websocket_close",
    "websocket_send",
]

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[Any]]

A = TypeVar("A", bound=ASGIApp)


def mark_application(application: A) -> A:
    """Return an application that is no coroutine function, so that servers recognise it.

    Such an application returns the coroutine of another one.
    """
    markcoroutinefunction(application)
    if sys.version_info < (3, 12):
        # hypercorn reads Python's own mark, which exists since 3.12. Where it finds neither
        # that nor a coroutine function, it looks at this attribute, before it takes an
        # application for one of WSGI.
        async def call(scope: Scope, receive: Receive, send: Send) -> Any:
            return await application(scope, receive, send)

        vars(application)["__call__"] = call
    return application


class EventQueue:
    """The events of a client of Tiderace's own server; its ``get`` is ASGI's ``receive``.

    A subclass is the queue of the server, so an application finds this in the ``receive``
    that middleware has not replaced.

    Attributes:
        on_event: called with an event of the client when none is queued; returns whether it
            has taken the event, which is not queued then. So no task has to wake up to pass
            it on.
    """

    __slots__ = ("on_event",)

    def __init__(self) -> None:
        self.on_event: Callable[[Event], bool] | None = None

    @staticmethod
    def of(receive: Receive) -> EventQueue | None:
        """Return the queue whose ``get`` is ``receive``, or None."""
        queue = getattr(receive, "__self__", None)
        return queue if isinstance(queue, EventQueue) else None


Header: TypeAlias = "tuple[bytes, bytes] | list[bytes]"

_DENIAL_EXTENSION = "websocket.http.response"
# The query parameters whose values no log shows.
_CREDENTIALS = frozenset({"access_token", "cf_connect", "jwt", "ticket", "token"})
# Seconds in which a client has to read some of the rest of a response.
_READ_TIMEOUT = 20.0
# Characters of a client's path that a log line shows.
_SHOWN_PATH = 200
# Iterations of the loop left to the server after a refusal (one is enough for uvicorn).
_ITERATIONS_TO_CLOSE = 5


def websocket_accept(
    subprotocol: str | None = None, headers: Iterable[Header] | None = None
) -> dict[str, Any]:
    """Build ``websocket.accept``; the key ``subprotocol`` is always present."""
    event: dict[str, Any] = {"type": "websocket.accept", "subprotocol": subprotocol}
    if headers:
        event["headers"] = list(headers)
    return event


def websocket_send(
    text_data: str | None = None, bytes_data: bytes | None = None
) -> dict[str, Any]:
    """Build ``websocket.send``; text wins when both are given.

    Raises:
        ValueError: when neither is given.
    """
    if text_data is not None:
        return {"type": "websocket.send", "text": text_data}
    if bytes_data is not None:
        return {"type": "websocket.send", "bytes": bytes_data}
    raise ValueError("You must pass one of bytes_data or text_data")


def websocket_close(
    code: int | bool | None = None, reason: str | None = None
) -> dict[str, Any]:
    """Build ``websocket.close``.

    ``code`` None or True leaves the code to the server (1000); 0 is passed on.
    An empty reason is left out; lone surrogates become U+FFFD.
    """
    event: dict[str, Any] = {"type": "websocket.close"}
    if code is not None and code is not True:
        event["code"] = code
    if reason:
        event["reason"] = well_formed_text(reason)
    return event


def can_deny_with_response(scope: Scope) -> bool:
    """Whether the server has ASGI's WebSocket Denial Response extension.

    It takes an HTTP response as the answer to a WebSocket handshake.
    """
    return _DENIAL_EXTENSION in (scope.get("extensions") or {})


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    body: str,
    *,
    headers: Iterable[Header] = (),
    close: tuple[int, str] | None = None,
) -> bool:
    """Refuse an HTTP request or a WebSocket handshake with a plain-text response.

    A server without ASGI's WebSocket Denial Response extension sends a refused
    WebSocket 403.

    Args:
        status: the HTTP status.
        body: the text of the response.
        headers: further headers of the response.
        close: for a WebSocket of a server without the extension: accept it and close it
            with this code and reason, since 403 sounds final.

    Returns:
        False when the client of a WebSocket had given up before.
    """
    if scope["type"] == "http":
        await _respond(send, "http.response", status, body, headers)
        return True
    if (await receive())["type"] != "websocket.connect":
        return False
    if can_deny_with_response(scope):
        await _respond(send, _DENIAL_EXTENSION, status, body, headers)
        # uvicorn (seen in 0.54) logs an error about any app that returns before the
        # refused connection is gone, which takes a few iterations of the loop.
        for _ in range(_ITERATIONS_TO_CLOSE):
            await asyncio.sleep(0)
    elif close is None:
        await send(websocket_close())
    else:
        await send(websocket_accept())
        await send(websocket_close(*close))
    return True


async def _respond(
    send: Send, prefix: str, status: int, body: str, headers: Iterable[Header]
) -> None:
    data = body.encode()
    every = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(data)).encode()),
        *headers,
    ]
    await send({"type": f"{prefix}.start", "status": status, "headers": every})
    await send({"type": f"{prefix}.body", "body": data})


class Secret:
    """A client's credential, which no ``repr`` in a log or traceback shows."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value


def take_query_parameter(scope: Scope, name: bytes) -> str | None:
    """Remove a parameter from the query string in place; return its first value.

    Servers write their access logs from the same dict, so the value is in none of them.
    """
    parts = bytes(scope.get("query_string") or b"").split(b"&")
    taken = [part for part in parts if part.partition(b"=")[0] == name]
    if not taken:
        return None
    scope["query_string"] = b"&".join(part for part in parts if part not in taken)
    return unquote_plus(taken[0].partition(b"=")[2].decode("latin1"), errors="replace")


def hide_commands(scope: Scope) -> None:
    """Move a topic client's first commands, which may have a token, out of the query.

    They are in ``scope["tiderace.commands"]`` then, as a ``Secret``. To be called with
    the server's own scope.
    """
    path = str(scope.get("path")).rstrip("/")
    if scope["type"] == "http" and path.endswith("/sse"):
        commands = take_query_parameter(scope, b"cf_connect")
        if commands is not None:
            scope["tiderace.commands"] = Secret(commands)


def redacted_query(scope: Scope) -> str:
    """Return ``?`` and the query string for an access log, without credentials' values."""
    query = bytes(scope.get("query_string") or b"").decode("latin1")
    parts = [part.partition("=") for part in query.split("&")]
    shown = [
        f"{name}=***" if name in _CREDENTIALS and value else f"{name}{equals}{value}"
        for name, equals, value in parts
    ]
    return f"?{'&'.join(shown)}" if query else ""


def abort_if_stalled(send: Send, unread: int = 0) -> None:
    """Abort the connection of a client that stops reading the rest of its response.

    The caller's application has ended: uvicorn then waits without limit until the client
    has read what is left. If the application has not finished the response, the
    connection is aborted at once. Without effect on servers whose ``send`` is not a method
    of an object with the transport.

    Args:
        send: the server's.
        unread: the bytes that were left at the last call.
    """
    response = getattr(send, "__self__", None)
    transport = getattr(response, "transport", None)
    if transport is None:
        return
    left = transport.get_write_buffer_size()
    begun = getattr(response, "response_started", False)
    given_up = begun and not getattr(response, "response_complete", True)
    if left and (given_up or left == unread):
        transport.abort()
    elif left:
        loop = asyncio.get_running_loop()
        loop.call_later(_READ_TIMEOUT, abort_if_stalled, send, left)


def path_below_prefix(scope: Scope) -> str | None:
    """Return the path that routes match, without the prefix that the site is served below.

    That is ``FORCE_SCRIPT_NAME``, as for Django's views, which a proxy may have removed;
    else the ``root_path`` of the scope, and None for a path outside it.
    """
    path: str = scope["path"]
    configured = conf.configured()
    prefix = str(conf.django_setting("FORCE_SCRIPT_NAME") or "") if configured else ""
    if prefix:
        prefix = prefix.rstrip("/")
        return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path
    root_path = scope.get("root_path") or ""
    return path.removeprefix(root_path) if path.startswith(root_path) else None


def printable(text: str) -> str:
    """Return a client's text, percent-encoded if it could forge a line of a log."""
    if text.isprintable():
        return text
    return quote(text, safe="/?%=&:+,;@!$'()*~", errors="replace")


def client_address(scope: Scope) -> str:
    """Return ``host:port`` of the peer as the server saw it, or ``"unknown"``.

    Behind a proxy this is the proxy unless the server rewrote it.
    """
    client = scope.get("client")
    if not client:
        return "unknown"
    # A server that trusts every proxy takes the host from a client's header.
    return printable(f"{client[0]}:{client[1]}")


# The scope of the connection that is being served, in its tasks and in the threads that
# they wait for.
serving: ContextVar[Scope | None] = ContextVar("tiderace_serving", default=None)


def connection_id(scope: Scope) -> str:
    """Return the connection's id for logs and traces, made at the first call."""
    if "tiderace.connection" not in scope:
        scope["tiderace.connection"] = secrets.token_hex(8)
    name: str = scope["tiderace.connection"]
    return name


def unwrap_lazy(value: Any) -> Any:
    """Return what Django's lazy object has loaded, ``empty`` before; else ``value``."""
    if not issubclass(type(value), LazyObject):
        return value
    # vars() would run Django's Python code for each attribute, which takes longer.
    return object.__getattribute__(value, "__dict__")["_wrapped"]


def fill_lazy(lazy: Any, value: Any) -> None:
    """Make ``value`` what Django's lazy object stands for, past its Python code."""
    object.__setattr__(lazy, "_wrapped", value)


def known_user_id(scope: Scope) -> Any:
    """Return the primary key of the connection's user, None if that takes a query."""
    # A lazy user that was not loaded stays so: no query for a line in a log.
    user = unwrap_lazy(scope.get("user"))
    try:
        return getattr(user, "pk", None)
    except Exception:  # the log line must not fail for it
        return None


def log_fields(scope: Scope, reason: str = "", **more: Any) -> dict[str, Any]:
    """Return the connection's fields for the ``extra`` of a log record.

    Args:
        scope: the connection's.
        reason: one word for what happened, the same each time it does.
        more: further fields.
    """
    return {
        "connection_id": connection_id(scope),
        "path": printable(str(scope.get("path", ""))),
        "client": client_address(scope),
        "user_id": known_user_id(scope),
        "reason": reason,
        **more,
    }


def describe(scope: Scope) -> str:
    """Return a phrase for log lines: the kind of connection, its path, its peer.

    The query string is left out, for it may carry a token.
    """
    if scope.get("type") == "channel":
        return f"channel {scope.get('channel')!r}"
    # Quoted, since a client may put a line break into the path.
    path = str(scope.get("path", ""))
    path = path if len(path) <= _SHOWN_PATH else f"{path[:_SHOWN_PATH]}…"
    return f"{scope.get('type')} {path!r} from {client_address(scope)}"
