"""The commands of a client whose transport is a response: one POST after another.

    POST connection/emulation     {"session": ..., "node": ..., "data": "<commands>"}

Session and node are from the client's reply to connect; any process of the site takes
the request.
"""

from __future__ import annotations

import msgspec

from tiderace import conf
from tiderace.protocol.codec import MalformedFrame
from tiderace.protocol.stream_codecs import protobuf
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import current
from tiderace.topics.switchboard import FULL, GONE, switchboard
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected

__all__ = ["serve"]

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
    user_id = await exchange.user_id()
    board = switchboard(current())
    status = await board.deliver(node, session, user_id, data)
    if status in _REASONS:
        raise Rejected(status, _REASONS[status])
    await exchange.answer(status)


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
