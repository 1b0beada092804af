"""A topic client over server-sent events, with commands in requests of their own.

::

    GET connection/sse?cf_connect=<first commands>     for EventSource
    POST connection/sse     <first commands>
"""

from __future__ import annotations

from tiderace import conf
from tiderace.asgi import hide_commands
from tiderace.protocol.codec import JSON, MalformedFrame
from tiderace.protocol.session import request_of
from tiderace.protocol.stream_codecs import EVENTS
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected
from tiderace.topics.transports.http_stream import (
    HttpStreamTransport,
    refuse_while_draining,
)

EVENT_STREAM = b"text/event-stream"

# Commands that may be in a URL. They only read: a page of another site can make a browser
# fetch the URL.
_READ_COMMANDS = frozenset(
    {"connect", "subscribe", "history", "presence", "presence_stats", "ping"}
)


async def serve(hooks: TopicHooks, exchange: HttpExchange) -> None:
    """Serve a client whose first commands are in the URL or the body."""
    exchange.require_method("GET", "POST")
    refuse_while_draining()
    # The prelude makes proxies pass the beginning of the response on at once.
    user_id = await exchange.user_id()
    transport = HttpStreamTransport(exchange, EVENTS, user_id, prelude=b"\r\n")
    transport.feed(await _first_commands(exchange))
    await transport.run(hooks, EVENT_STREAM)


async def _first_commands(exchange: HttpExchange) -> bytes:
    limit = conf.current().topics.frame_size
    if exchange.method == "GET":
        hide_commands(exchange.scope)
        hidden = exchange.scope.get("tiderace.commands")
        first = b"" if hidden is None else hidden.value.encode("utf-8", "replace")
        if len(first) > limit:
            raise Rejected(414, f"cf_connect is longer than {limit} bytes")
        _require_read_commands(first)
    else:
        if exchange.content_type != "application/json":
            raise Rejected(415, "the content type must be application/json")
        first = await exchange.body(limit)
    if not first:
        raise Rejected(400, "the first commands are missing; send them as cf_connect")
    return first


def _require_read_commands(first: bytes) -> None:
    try:
        commands = JSON.decode(first)
    except (MalformedFrame, RecursionError):
        return  # the stream ends with a code after which clients do not reconnect
    for command in commands:
        name, _ = request_of(command)
        if name and name not in _READ_COMMANDS:
            raise Rejected(
                400, f"{name} cannot be in the address; POST it to emulation"
            )
