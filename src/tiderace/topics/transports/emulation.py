"""Receives the commands of clients whose transport is a response: a POST for each message.

::

    POST connection/emulation     {"session": ..., "node": ..., "data": "<commands>"}

Session and node are in the reply to the client's connect. Any process of the site takes
the request and passes the commands to the process that serves the client.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable
from typing import Any

import msgspec

from tiderace import cluster, conf
from tiderace.json_compat import loads
from tiderace.protocol.codec import MalformedFrame
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import hubs, is_session
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected

logger = logging.getLogger("tiderace.topics")

# The status when the commands will be carried out, when there is no such session, and
# when too many commands of the session are waiting.
ACCEPTED, GONE, FULL = 204, 404, 429

# Seconds in which another process has to answer.
_TIMEOUT = 5.0

# In a JSON string a byte of commands becomes at most six.
_GROWTH = 6
_OVERHEAD = 1024  # bytes for the rest of the body

_REASONS = {
    GONE: "no such session, connect again",
    FULL: "too many commands are waiting to be carried out",
}


class _Request(msgspec.Struct):
    session: str
    node: str
    data: str


async def serve(hooks: TopicHooks, exchange: HttpExchange) -> None:
    """Pass the commands in a POST to the process that serves their client."""
    exchange.require_method("POST")
    limit = conf.current().topics.frame_size
    codec = exchange.protobuf_codec()
    growth = 1 if codec is not None else _GROWTH
    body = await exchange.body(limit * growth + _OVERHEAD)
    try:
        if codec is not None:
            session, node, data = codec.decode_emulation(body)
        else:
            request = loads(body, _Request)
            session, node = request.session, request.node
            data = request.data.encode("utf-8", "replace")
    except (ValueError, MalformedFrame) as error:
        raise Rejected(400, f"the body cannot be decoded: {error}") from None
    if len(data) > limit:
        raise Rejected(413, f"the commands are longer than {limit} bytes")
    status = await deliver(node, session, await exchange.user_id(), data)
    if status in _REASONS:
        raise Rejected(status, _REASONS[status])
    await exchange.answer(status)


async def deliver(node: str, session: str, user_id: str, data: bytes) -> int:
    """Pass commands to the client of a session.

    Args:
        node: the process that serves the client, as the client names it.
        session: the client's secret.
        user_id: the user of the request, which has to be the user of the client.
        data: the commands.

    Returns:
        ``ACCEPTED``, ``GONE`` or ``FULL``; ``GONE`` too when the process does not
        answer, since it has most likely ended.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    # A forged session causes no message to another process.
    if not is_session(session, node):
        return GONE
    text = base64.b64encode(data).decode()
    payload = {"session": session, "user": user_id, "data": text}
    try:
        status: int | None = await cluster.current().ask_one(
            node, "topics.commands", payload, timeout=_TIMEOUT
        )
    except TimeoutError:
        logger.info("no process %r has answered within %g s", node, _TIMEOUT)
        return GONE
    return GONE if status is None else status


@cluster.handler("topics.commands")
def _take(payload: dict[str, str]) -> int | Awaitable[int]:
    for loop, hub in hubs().items():
        client = hub.by_session(payload["session"])
        if client is not None:
            feeding = _feed(client.transport, payload)
            return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(feeding, loop))
    return GONE


async def _feed(transport: Any, payload: dict[str, str]) -> int:
    if transport.user_id != payload["user"]:
        logger.warning(
            "commands for the session of user %r came from user %r",
            transport.user_id,
            payload["user"],
        )
        return GONE
    data = base64.b64decode(payload["data"])
    return ACCEPTED if transport.feed(data) else FULL
