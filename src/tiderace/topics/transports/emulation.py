"""The commands of a client whose transport is a response: one POST after another.

    POST connection/emulation     {"session": ..., "node": ..., "data": "<commands>"}

Session and node are from the client's reply to connect; any process of the site takes
the request.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable
from typing import Any

import msgspec

from tiderace import cluster, conf
from tiderace.protocol.codec import MalformedFrame
from tiderace.protocol.stream_codecs import protobuf
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import hubs, process_of
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected

__all__ = ["ACCEPTED", "FULL", "GONE", "deliver", "serve"]

logger = logging.getLogger("tiderace.topics")

ACCEPTED = 204
"""The commands will be carried out."""
GONE = 404
"""There is no such session."""
FULL = 429
"""Too many commands of the session are waiting."""

# Seconds in which another process has to answer.
_TIMEOUT = 5.0

_JSON = "application/json"
_PROTOBUF = "application/octet-stream"

# Commands grow in a JSON string, at the worst from one byte to six.
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
    if exchange.content_type == _JSON:
        body = await exchange.body(limit * _GROWTH + _OVERHEAD)
        session, node, data = _from_json(body)
    elif exchange.content_type == _PROTOBUF:
        session, node, data = _from_protobuf(await exchange.body(limit + _OVERHEAD))
    else:
        raise Rejected(415, f"the content type must be {_JSON}, or {_PROTOBUF}")
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
        user_id: the sender, who has to be the user that began the session.
        data: the commands.

    Returns:
        ``ACCEPTED``, ``GONE`` or ``FULL``; ``GONE`` too when the process does not
        answer, since it has most likely ended.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    process = process_of(node)
    if process is None:
        return GONE
    payload = {
        "session": session,
        "user": user_id,
        "data": base64.b64encode(data).decode(),
    }
    try:
        status: int | None = await cluster.current().ask_one(
            process, "topics.commands", payload, timeout=_TIMEOUT
        )
    except TimeoutError:
        logger.info("no process %r has answered within %g s", node, _TIMEOUT)
        return GONE
    return GONE if status is None else status


@cluster.handler("topics.commands")
def _take(payload: dict[str, Any]) -> int | Awaitable[int]:
    here = asyncio.get_running_loop()
    for loop, hub in hubs().items():
        client = hub.by_session(payload["session"])
        if client is None:
            continue
        if loop is here:
            return _feed(client.transport, payload)

        async def feed(transport: Any = client.transport) -> int:
            return _feed(transport, payload)

        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(feed(), loop))
    return GONE


def _feed(transport: Any, payload: dict[str, Any]) -> int:
    if transport.user_id != payload["user"]:
        logger.warning(
            "commands for the session of user %r came from user %r",
            transport.user_id,
            payload["user"],
        )
        return GONE
    data = base64.b64decode(payload["data"])
    return ACCEPTED if transport.feed(data) else FULL


def _from_json(body: bytes) -> tuple[str, str, bytes]:
    try:
        request = msgspec.json.decode(body, type=_Request)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Rejected(400, f"the body is not as it must be: {error}") from None
    return request.session, request.node, request.data.encode("utf-8", "replace")


def _from_protobuf(body: bytes) -> tuple[str, str, bytes]:
    codec = protobuf(_PROTOBUF)
    if codec is None:
        raise Rejected(415, f"{_PROTOBUF} is not served here, use {_JSON}")
    try:
        return codec.decode_emulation(body)
    except MalformedFrame as error:
        raise Rejected(400, f"the body is not as it must be: {error}") from None
