"""The HTTP API: other programs publish, ask and disconnect, with a key.

    POST connection/api/publish     X-API-Key: ...     {"channel": ..., "data": ...}

Requests and answers look as those of Centrifugo's API, so its libraries work. It knows
how they look; what they do is ``topics.publishing``'s and the switchboard's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from django.utils.crypto import constant_time_compare
from msgspec import UNSET, Raw, UnsetType

from tiderace import conf
from tiderace.exceptions import LayerUnavailable
from tiderace.history import Position
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.protocol.codes import Failure
from tiderace.protocol.messages import ClientInfo, HistoryResult, StreamPosition
from tiderace.protocol.session import Refused, to_pub
from tiderace.topics import api
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import current
from tiderace.topics.names import topic_group
from tiderace.topics.switchboard import switchboard
from tiderace.topics.topic import Refuse, Topic, UnknownTopic, declared
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected

__all__ = ["METHODS", "serve"]

logger = logging.getLogger("tiderace.topics")

_BODY = 10_485_760  # bytes of a request; a batch may be long
_AT_ONCE = 32  # commands of a parallel batch that are carried out together

Answer = Any
Handler = Callable[[TopicHooks, Any], Awaitable[Answer]]


async def serve(hooks: TopicHooks, exchange: HttpExchange, method: str) -> None:
    """Carry out one request of another program.

    Args:
        hooks: of the endpoint that got it.
        exchange: the request.
        method: what follows ``api/``; empty for the older form, which names the method
            in its body.
    """
    _require_key(exchange)
    exchange.require_method("POST")
    body = await exchange.body(_BODY)
    if method == "batch":
        answer = await _batch(hooks, body)
    elif method:
        answer = await _answer(hooks, method, body)
    else:
        answer = await _older(hooks, body)
    await exchange.answer(
        200, msgspec.json.encode(answer), content_type=b"application/json"
    )


def _require_key(exchange: HttpExchange) -> None:
    """Go on with a request that knows a key.

    Raises:
        Rejected: with one that does not (401), and where there is no API (404).
    """
    settings = conf.current().topics
    if settings.api_open:
        # A page of another site cannot send this without asking first.
        if exchange.content_type != "application/json":
            raise Rejected(415, "the content type must be application/json")
        return
    if not settings.api_keys:
        raise Rejected(404, "Not Found")
    scheme, _, key = (exchange.header(b"authorization") or "").partition(" ")
    if scheme.lower() != "apikey":
        key = ""
    key = exchange.header(b"x-api-key") or key.strip()
    # All of them, so that the time says nothing of which one was nearly it.
    fits = [constant_time_compare(key, each) for each in settings.api_keys]
    if not any(fits):
        raise Rejected(401, "send a key of TIDERACE['TOPICS']['API_KEYS'] as X-API-Key")


# The three forms


class _Older(msgspec.Struct):
    method: str
    params: Raw = Raw(b"{}")


class _Batch(msgspec.Struct):
    commands: list[dict[str, Raw]]
    parallel: bool = False


async def _older(hooks: TopicHooks, body: bytes) -> Answer:
    try:
        asked = msgspec.json.decode(body, type=_Older)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return {"error": _bad(str(error))}
    return await _answer(hooks, asked.method, bytes(asked.params))


async def _batch(hooks: TopicHooks, body: bytes) -> Answer:
    try:
        batch = msgspec.json.decode(body, type=_Batch)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return {"error": _bad(str(error))}
    room = asyncio.Semaphore(_AT_ONCE if batch.parallel else 1)

    async def one(command: dict[str, Raw]) -> Answer:
        async with room:
            if len(command) != 1:
                return {"error": _bad("a command of a batch has one method")}
            [(method, params)] = command.items()
            answer = await _answer(hooks, method, bytes(params))
            return {method: answer["result"]} if "result" in answer else answer

    return {"replies": await asyncio.gather(*map(one, batch.commands))}


async def _answer(hooks: TopicHooks, method: str, body: bytes) -> dict[str, Any]:
    """What one method returns, or why it does not."""
    kind, handler = _METHODS.get(method, (None, None))
    if kind is None or handler is None:
        return {"error": codes.METHOD_NOT_FOUND}
    try:
        request = msgspec.json.decode(body or b"{}", type=kind)
        return {"result": await handler(hooks, request)}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return {"error": _bad(str(error))}
    except NotImplementedError:
        # A layer of somebody else's cannot do everything that ours can.
        return {"error": codes.NOT_AVAILABLE}
    except UnknownTopic as error:
        return {"error": Failure(codes.UNKNOWN_TOPIC.code, str(error))}
    except (Refused, Refuse) as refused:
        return {"error": refused.failure}
    except LayerUnavailable as error:
        logger.warning("a call %s of the HTTP API failed: %s", method, error)
        return {"error": codes.INTERNAL}
    except Exception:
        logger.exception("a call %s of the HTTP API failed", method)
        return {"error": codes.INTERNAL}


def _bad(why: str) -> Failure:
    return Failure(codes.BAD_REQUEST.code, f"bad request: {why}")


def _not_served(**given: Any) -> None:
    """Refuse what would do something else than was asked if it were ignored."""
    for name, value in given.items():
        if value:
            raise Refused(
                Failure(
                    codes.NOT_AVAILABLE.code, f"not available: {name} is not served"
                )
            )


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


async def _publish(hooks: TopicHooks, asked: _Publish) -> Answer:
    return await _publish_to(asked.channel, asked, _json(asked))


async def _broadcast(hooks: TopicHooks, asked: _Broadcast) -> Answer:
    data = _json(asked)
    responses: list[Answer] = []
    for channel in asked.channels:
        try:
            responses.append({"result": await _publish_to(channel, asked, data)})
        except UnknownTopic as error:
            failure = Failure(codes.UNKNOWN_TOPIC.code, str(error))
            responses.append({"error": failure})
        except LayerUnavailable as error:
            logger.warning("a broadcast did not reach %s: %s", channel, error)
            responses.append({"error": codes.INTERNAL})
    return {"responses": responses}


async def _publish_to(channel: str, asked: _Data, data: Raw) -> Answer:
    position = await api.apublish(
        channel, data, key=asked.idempotency_key, tags=asked.tags
    )
    if declared.resolve(channel).history is None:
        return {}
    return {"offset": position.offset, "epoch": position.epoch}


def _json(asked: _Data) -> Raw:
    """What is to be published, in one line."""
    _not_served(skip_history=asked.skip_history)
    data = b"" if asked.data is UNSET else bytes(asked.data)
    if asked.b64data:
        try:
            data = base64.b64decode(asked.b64data, validate=True)
            msgspec.json.decode(data)
        except (binascii.Error, ValueError) as error:
            raise Refused(_bad(f"b64data is no JSON in base64: {error}")) from None
    if not data:
        raise Refused(_bad("data is missing"))
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


async def _subscribe(hooks: TopicHooks, asked: _Subscribe) -> Answer:
    _not_served(
        client=asked.client,
        session=asked.session,
        info=asked.info or asked.b64info,
        data=asked.data or asked.b64data,
        recover_since=asked.recover_since,
        override=asked.override,
    )
    await api.asubscribe(asked.user, asked.channel)
    return {}


async def _unsubscribe(hooks: TopicHooks, asked: _Unsubscribe) -> Answer:
    _not_served(client=asked.client, session=asked.session)
    await api.aunsubscribe(asked.user, asked.channel)
    return {}


async def _disconnect(hooks: TopicHooks, asked: _Disconnect) -> Answer:
    _not_served(session=asked.session, whitelist=asked.whitelist)
    close = asked.disconnect or _Code()
    try:
        await api.adisconnect(
            asked.user, code=close.code, reason=close.reason, client=asked.client
        )
    except ValueError as error:
        raise Refused(_bad(str(error))) from None
    return {}


async def _refresh(hooks: TopicHooks, asked: _Refresh) -> Answer:
    _not_served(session=asked.session, expire_at=asked.expire_at)
    close = codes.CLOSE_EXPIRED if asked.expired else codes.CLOSE_STATE_INVALIDATED
    await api.adisconnect(
        asked.user, code=close.code, reason=close.reason, client=asked.client
    )
    return {}


# Asking


class _OfTopic(msgspec.Struct, kw_only=True):
    channel: str


class _History(_OfTopic, kw_only=True):
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class _Channels(msgspec.Struct):
    pattern: str = ""


class _Nothing(msgspec.Struct):
    """No parameters."""


class _Call(msgspec.Struct):
    method: str
    params: Any = None


async def _presence(hooks: TopicHooks, asked: _OfTopic) -> Answer:
    _present(asked.channel)
    members = await api.apresence(asked.channel)
    return {"presence": {each.client: _info(each) for each in members}}


def _info(member: api.PresenceInfo) -> ClientInfo:
    info = ClientInfo(user=member.user_id, client=member.client)
    if member.info is not None:
        info.conn_info = Raw(msgspec.json.encode(member.info))
    return info


async def _presence_stats(hooks: TopicHooks, asked: _OfTopic) -> Answer:
    _present(asked.channel)
    clients, users = await api.apresence_stats(asked.channel)
    return {"num_clients": clients, "num_users": users}


def _present(channel: str) -> None:
    if declared.resolve(channel).presence is Presence.OFF:
        raise Refused(codes.NOT_AVAILABLE)


async def _history(hooks: TopicHooks, asked: _History) -> Answer:
    _kept(asked.channel)
    since = asked.since
    position = None if since is None else Position(since.epoch, since.offset)
    page = await api.ahistory(
        asked.channel,
        since=position,
        limit=asked.limit if asked.limit >= 0 else None,
        reverse=asked.reverse,
    )
    top = page.position
    if position is not None and position.epoch not in ("", top.epoch):
        raise Refused(codes.UNRECOVERABLE)
    return HistoryResult(
        publications=[to_pub(each) for each in page.publications],
        epoch=top.epoch,
        offset=top.offset,
    )


async def _history_remove(hooks: TopicHooks, asked: _OfTopic) -> Answer:
    topic = _kept(asked.channel)
    await api.layer_of(topic).stream_delete(topic_group(asked.channel))
    return {}


def _kept(channel: str) -> Topic:
    topic = declared.resolve(channel)
    if topic.history is None:
        raise Refused(codes.NOT_AVAILABLE)
    return topic


async def _channels(hooks: TopicHooks, asked: _Channels) -> Answer:
    nodes = await switchboard(current()).survey(asked.pattern)
    counts: Counter[str] = Counter()
    for node in nodes:
        counts.update(node.channels or {})
    return {"channels": {name: {"num_clients": n} for name, n in counts.items()}}


async def _about(hooks: TopicHooks, asked: _Nothing) -> Answer:
    return {"nodes": await switchboard(current()).survey()}


async def _rpc(hooks: TopicHooks, asked: _Call) -> Answer:
    return {"data": await hooks.on_api_call(asked.method, asked.params)}


_METHODS: dict[str, tuple[Any, Handler]] = {
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
    "info": (_Nothing, _about),
    "rpc": (_Call, _rpc),
}

METHODS = frozenset({*_METHODS, "batch"})
"""What may follow ``api/``."""
