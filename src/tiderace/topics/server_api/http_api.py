"""The HTTP API: other programs publish, read and disconnect with a key.

::

    POST connection/api/publish     X-API-Key: ...     {"channel": ..., "data": ...}

Requests and replies have the format of Centrifugo's API, so its libraries work.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
from django.utils.crypto import constant_time_compare
from msgspec import UNSET, Raw, UnsetType

from tiderace import conf
from tiderace.exceptions import LayerUnavailable
from tiderace.json_compat import loads
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.protocol.codes import Failure
from tiderace.protocol.messages import HistoryRequest
from tiderace.protocol.session import Refused
from tiderace.topics import streams
from tiderace.topics.declaration.topic import Refuse, Topic, UnknownTopic, declared
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.json_fields import as_bytes, as_raw, read_fields
from tiderace.topics.names import topic_group
from tiderace.topics.server_api import calls
from tiderace.topics.server_api.survey import survey
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected

logger = logging.getLogger("tiderace.topics")

_BODY = 10_485_760  # bytes of a request; a batch may be long
_PARALLEL = 32  # commands of a parallel batch that run at once


async def serve(hooks: TopicHooks, exchange: HttpExchange, method: str) -> None:
    """Handle one request of another program.

    Args:
        hooks: of the endpoint.
        exchange: the request.
        method: the path below ``api/``; empty for the older form, which names the method
            in its body.
    """
    _require_key(exchange)
    exchange.require_method("POST")
    body = await exchange.body(_BODY)
    try:
        if method == "batch":
            reply = await _run_batch(hooks, body)
        elif method:
            reply = await _run(hooks, method, body)
        else:
            command = read_fields(body, _Command)
            reply = await _run(hooks, command.method, bytes(command.params))
    except Refused as refused:
        reply = {"error": refused.failure}
    await exchange.answer(
        200, msgspec.json.encode(reply), content_type=b"application/json"
    )


def _require_key(exchange: HttpExchange) -> None:
    """Raise for a request without a key.

    Raises:
        Rejected: 401 for a wrong key, 404 where the API is not enabled, 415 for another
            content type where it needs no key.
    """
    settings = conf.current().topics
    if settings.api_open:
        # A page of another site cannot send this content type without a preflight.
        if exchange.content_type != "application/json":
            raise Rejected(415, "the content type must be application/json")
        return
    if not settings.api_keys:
        raise Rejected(404, "Not Found")
    scheme, _, key = (exchange.header(b"authorization") or "").partition(" ")
    if scheme.lower() != "apikey":
        key = ""
    key = exchange.header(b"x-api-key") or key.strip()
    # All are compared, so that the duration does not show which one is similar.
    matches = [constant_time_compare(key, each) for each in settings.api_keys]
    if not any(matches):
        raise Rejected(401, "send a key of TIDERACE['TOPICS']['API_KEYS'] as X-API-Key")


# The forms of a request


class _Command(msgspec.Struct):
    method: str
    params: Raw = Raw(b"{}")


class _Batch(msgspec.Struct):
    commands: list[dict[str, Raw]]
    parallel: bool = False


async def _run_batch(hooks: TopicHooks, body: bytes) -> Any:
    batch = read_fields(body, _Batch)
    limit = asyncio.Semaphore(_PARALLEL if batch.parallel else 1)

    async def run(command: dict[str, Raw]) -> Any:
        async with limit:
            if len(command) != 1:
                return {"error": _bad("a command of a batch has one method")}
            [(method, params)] = command.items()
            reply = await _run(hooks, method, bytes(params))
            return {method: reply["result"]} if "result" in reply else reply

    return {"replies": await asyncio.gather(*map(run, batch.commands))}


async def _run(hooks: TopicHooks, method: str, body: bytes) -> dict[str, Any]:
    """Run one method; return its result or an error."""
    if method not in _METHODS:
        return {"error": codes.METHOD_NOT_FOUND}
    kind, handler = _METHODS[method]
    return await _outcome(
        method, lambda: handler(hooks, read_fields(body or b"{}", kind))
    )


async def _outcome(method: str, call: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    """Return the result of a call, or the error that it raised."""
    try:
        return {"result": await call()}
    except NotImplementedError:
        # Other layers may lack a feature of Tiderace's.
        return {"error": codes.NOT_AVAILABLE}
    except UnknownTopic as error:
        return {"error": Failure(codes.UNKNOWN_TOPIC.code, str(error))}
    except (Refused, Refuse) as refused:
        return {"error": refused.failure}
    except LayerUnavailable as error:
        logger.warning("a call %s of the HTTP API failed: %s", method, error)
    except Exception:
        logger.exception("a call %s of the HTTP API failed", method)
    return {"error": codes.INTERNAL}


def _bad(why: str) -> Failure:
    return Failure(codes.BAD_REQUEST.code, f"bad request: {why}")


def _not_served(**given: Any) -> None:
    """Refuse parameters that are not implemented and change the meaning of a request."""
    for name, value in given.items():
        if value:
            text = f"not available: {name} is not served"
            raise Refused(Failure(codes.NOT_AVAILABLE.code, text))


# Publishing


class _Data(msgspec.Struct, kw_only=True):
    data: Raw | UnsetType = UNSET
    b64data: str = ""
    tags: dict[str, str] | None = None
    skip_history: bool = False
    idempotency_key: str = ""


class _Publish(_Data, kw_only=True):
    channel: str


class _Broadcast(_Data, kw_only=True):
    channels: list[str]


async def _publish(hooks: TopicHooks, request: _Publish) -> Any:
    return await _publish_to(request.channel, request, _content(request))


async def _broadcast(hooks: TopicHooks, request: _Broadcast) -> Any:
    content = _content(request)
    publish = [
        partial(_publish_to, name, request, content) for name in request.channels
    ]
    return {"responses": [await _outcome("broadcast", each) for each in publish]}


async def _publish_to(channel: str, request: _Data, content: bytes) -> Any:
    data = content if declared.resolve(channel).is_binary() else _json(content)
    position = await calls.apublish_at_once(
        channel, data, key=request.idempotency_key, tags=request.tags
    )
    if declared.resolve(channel).history is None:
        return {}
    return {"offset": position.offset, "epoch": position.epoch}


def _content(request: _Data) -> bytes:
    """Return the data to publish as it was sent."""
    _not_served(skip_history=request.skip_history)
    data = as_bytes(request.data)
    try:
        if request.b64data:
            data = base64.b64decode(request.b64data, validate=True)
    except ValueError as error:
        raise Refused(_bad(f"b64data is no base64: {error}")) from None
    if not data:
        raise Refused(_bad("data is missing"))
    return data


def _json(data: bytes) -> Raw:
    """Return the data to publish, as JSON on one line."""
    try:
        # Decoded only as a check: clients cannot decode invalid UTF-8 or deep nesting.
        loads(data)
    except ValueError as error:
        raise Refused(_bad(f"the data is no JSON: {error}")) from None
    return Raw(msgspec.json.format(data, indent=-1))


# Connections


class _OfUser(msgspec.Struct, kw_only=True):
    user: str
    client: str = ""
    session: str = ""

    def __post_init__(self) -> None:
        if not self.user:
            raise ValueError("user is empty, so it has no connections")


class _Subscribe(_OfUser, kw_only=True):
    channel: str
    info: Any = None
    b64info: str = ""
    data: Any = None
    b64data: str = ""
    recover_since: Any = None
    override: Any = None


class _Unsubscribe(_OfUser, kw_only=True):
    channel: str


class _Code(msgspec.Struct):
    code: int = codes.CLOSE_KICKED.code
    reason: str = ""


class _Disconnect(_OfUser, kw_only=True):
    whitelist: list[str] = []
    disconnect: _Code | None = None


class _Refresh(_OfUser, kw_only=True):
    expired: bool = False
    expire_at: int = 0


async def _subscribe(hooks: TopicHooks, request: _Subscribe) -> Any:
    _not_served(
        client=request.client,
        session=request.session,
        info=request.info or request.b64info,
        data=request.data or request.b64data,
        recover_since=request.recover_since,
        override=request.override,
    )
    with _value_errors_as_refusals():
        await calls.asubscribe(request.user, request.channel)
    return {}


async def _unsubscribe(hooks: TopicHooks, request: _Unsubscribe) -> Any:
    _not_served(client=request.client, session=request.session)
    with _value_errors_as_refusals():
        await calls.aunsubscribe(request.user, request.channel)
    return {}


async def _disconnect(hooks: TopicHooks, request: _Disconnect) -> Any:
    _not_served(session=request.session, whitelist=request.whitelist)
    close = request.disconnect or _Code()
    await _close_connections(request, close.code, close.reason)
    return {}


async def _refresh(hooks: TopicHooks, request: _Refresh) -> Any:
    _not_served(session=request.session, expire_at=request.expire_at)
    close = codes.CLOSE_EXPIRED if request.expired else codes.CLOSE_STATE_INVALIDATED
    await _close_connections(request, close.code, close.reason)
    return {}


async def _close_connections(request: _OfUser, code: int, reason: str) -> None:
    with _value_errors_as_refusals():
        await calls.adisconnect(
            request.user, code=code, reason=reason, client=request.client
        )


@contextmanager
def _value_errors_as_refusals() -> Iterator[None]:
    """Turn the error for an invalid user or code into a refusal."""
    try:
        yield
    except ValueError as error:
        raise Refused(_bad(str(error))) from None


# Reads


class _OfTopic(msgspec.Struct, kw_only=True):
    channel: str


class _History(HistoryRequest, kw_only=True):
    channel: str


class _Channels(msgspec.Struct):
    pattern: str = ""


class _Rpc(msgspec.Struct):
    method: str
    params: Any = None


async def _presence(hooks: TopicHooks, request: _OfTopic) -> Any:
    topic = _require_presence(request.channel)
    return streams.presence_result(await streams.members_of(topic))


async def _presence_stats(hooks: TopicHooks, request: _OfTopic) -> Any:
    _require_presence(request.channel)
    clients, users = await calls.apresence_stats(request.channel)
    return {"num_clients": clients, "num_users": users}


def _require_presence(channel: str) -> Topic:
    topic = declared.resolve(channel)
    if topic.presence is Presence.OFF:
        raise Refused(codes.NOT_AVAILABLE)
    return topic


async def _history(hooks: TopicHooks, request: _History) -> Any:
    topic = _require_history(request.channel)
    result = await streams.read_history(topic, request)
    if not topic.is_binary():
        return result
    publications = []
    for each in result.publications:
        data, each.data = as_bytes(each.data), UNSET
        text = base64.b64encode(data).decode()
        publications.append({**msgspec.to_builtins(each), "b64data": text})
    return {**msgspec.structs.asdict(result), "publications": publications}


async def _history_remove(hooks: TopicHooks, request: _OfTopic) -> Any:
    topic = _require_history(request.channel)
    await streams.layer_of(topic).stream_delete(topic_group(request.channel))
    return {}


def _require_history(channel: str) -> Topic:
    topic = declared.resolve(channel)
    if topic.history is None:
        raise Refused(codes.NOT_AVAILABLE)
    return topic


async def _channels(hooks: TopicHooks, request: _Channels) -> Any:
    nodes = await survey(request.pattern)
    counts: Counter[str] = Counter()
    for node in nodes:
        counts.update(node.channels or {})
    return {"channels": {name: {"num_clients": n} for name, n in counts.items()}}


async def _nodes(hooks: TopicHooks, request: dict[str, Any]) -> Any:
    return {"nodes": await survey()}


async def _rpc(hooks: TopicHooks, request: _Rpc) -> Any:
    result = await hooks.on_api_call(request.method, request.params)
    return {"data": as_raw(result, always=True)}


_METHODS: dict[str, tuple[Any, Callable[[TopicHooks, Any], Awaitable[Any]]]] = {
    "publish": (_Publish, _publish),
    "broadcast": (_Broadcast, _broadcast),
    "subscribe": (_Subscribe, _subscribe),
    "unsubscribe": (_Unsubscribe, _unsubscribe),
    "disconnect": (_Disconnect, _disconnect),
    "refresh": (_Refresh, _refresh),
    "presence": (_OfTopic, _presence),
    "presence_stats": (_OfTopic, _presence_stats),
    "history": (_History, _history),
    "history_remove": (_OfTopic, _history_remove),
    "channels": (_Channels, _channels),
    "info": (dict, _nodes),
    "rpc": (_Rpc, _rpc),
}

METHODS = frozenset({*_METHODS, "batch"})
"""The paths below ``api/``."""
