"""Tells the addresses of a connection's two ends, also behind a proxy."""

from __future__ import annotations

import asyncio
import copy
from functools import cache, lru_cache
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from tiderace.asgi import Receive, Scope, Send


def addresses_of(transport: asyncio.Transport) -> tuple[Any, Any]:
    """Return the addresses of the server and of the client, None where unknown.

    During an upgrade by uvicorn its HTTP protocol is still that of the transport, and has
    read both.
    """
    protocol = transport.get_protocol()
    if isinstance(protocol, AutoHTTPProtocol):
        http: Any = protocol
        # It and its parser hold each other, which uvicorn ends only where a connection
        # ends as HTTP: garbage of twenty objects per WebSocket for the cyclic collector.
        http.parser = None
        return http.server, http.client
    # Not of the socket: uvloop makes an object of it, which takes four times as long.
    server = transport.get_extra_info("sockname")
    client = transport.get_extra_info("peername")
    return (
        # A Unix socket has a path, and its clients have no address.
        _shared((server, None) if isinstance(server, str) else _host_and_port(server)),
        _host_and_port(client),
    )


def _host_and_port(address: Any) -> Any:
    return address[:2] if isinstance(address, tuple) else None


@lru_cache(maxsize=64)
def _shared(address: Any) -> Any:
    """Return one object for equal addresses of the server, which takes 0.15 KB."""
    return address


async def behind_proxies(app: Any, scope: Scope) -> Any:
    """Set client and scheme of ``scope`` as uvicorn's middleware; return the app in it.

    As long as a socket is open, the middleware's coroutine would take 0.4 KB and hold
    the scope of the server, 0.5 KB more.
    """
    if type(app) is not ProxyHeadersMiddleware:
        return app
    await _without_application(app)(scope, None, None)
    return app.app


@cache
def _without_application(middleware: ProxyHeadersMiddleware) -> Any:
    alone: Any = copy.copy(middleware)
    alone.app = _no_application
    return alone


async def _no_application(scope: Scope, receive: Receive, send: Send) -> None:
    """Do nothing: the application of a middleware that is called for its changes alone."""
