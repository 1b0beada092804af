"""The frames themselves: what a client may say, and what it is told.

Field names are the protocol's. ``data`` and the like are JSON that nobody here reads.
It knows no transport and no rule of who may say what when.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tiderace.protocol.codes import Failure

__all__ = [
    "ClientInfo",
    "Command",
    "ConnectRequest",
    "ConnectResult",
    "DisconnectPush",
    "Empty",
    "HistoryRequest",
    "HistoryResult",
    "InfoPush",
    "MessagePush",
    "PresenceResult",
    "PresenceStatsResult",
    "Pub",
    "PublishRequest",
    "Push",
    "RPCRequest",
    "RPCResult",
    "RefreshRequest",
    "RefreshResult",
    "Reply",
    "SendRequest",
    "StreamPosition",
    "SubRefreshRequest",
    "SubRefreshResult",
    "SubscribePush",
    "SubscribeRequest",
    "SubscribeResult",
    "TopicRequest",
    "UnsubscribePush",
]

Data = Raw | UnsetType
# As far as JavaScript and Lua count without a mistake.
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class _Frame(msgspec.Struct, omit_defaults=True):
    """A field that has its default is not sent; one that is not known is ignored."""


class ClientInfo(_Frame):
    """Who published, joined, left or is present."""

    user: str = ""
    client: str = ""
    conn_info: Data = UNSET
    chan_info: Data = UNSET


class StreamPosition(_Frame):
    """See ``tiderace.history.Position``."""

    offset: Offset = 0
    epoch: str = ""


class Pub(_Frame):
    """A publication."""

    data: Data = UNSET
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] | None = None
    time: int = 0


# What a client says


class SubscribeRequest(_Frame):
    """I want to hear a topic; ``recover`` from (``offset``, ``epoch``) if you can."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: Offset = 0
    data: Data = UNSET
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    flag: int = 0


class ConnectRequest(_Frame):
    """The first command of every connection."""

    token: str = ""
    data: Data = UNSET
    subs: dict[str, SubscribeRequest] | None = None
    name: str = ""
    version: str = ""
    headers: dict[str, str] | None = None
    flag: int = 0


class TopicRequest(_Frame):
    """Unsubscribe, presence and presence_stats: only a topic."""

    channel: str = ""


class PublishRequest(_Frame):
    """Tell a topic something."""

    channel: str = ""
    data: Data = UNSET


class HistoryRequest(_Frame):
    """What a topic remembers; a limit of 0 asks for its position only."""

    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class SendRequest(_Frame):
    """Something that needs no answer."""

    data: Data = UNSET


class RPCRequest(_Frame):
    """Something that needs one."""

    data: Data = UNSET
    method: str = ""


class RefreshRequest(_Frame):
    """A newer token for the connection."""

    token: str = ""


class SubRefreshRequest(_Frame):
    """A newer token for a subscription."""

    channel: str = ""
    token: str = ""


class Empty(_Frame):
    """A command or an answer that says nothing more."""


class Command(_Frame):
    """A line from a client: one request, and the id of its answer."""

    id: int = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: TopicRequest | None = None
    publish: PublishRequest | None = None
    presence: TopicRequest | None = None
    presence_stats: TopicRequest | None = None
    history: HistoryRequest | None = None
    ping: Empty | None = None
    send: SendRequest | None = None
    rpc: RPCRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


# What it is told


class SubscribeResult(_Frame):
    """You hear the topic from here on; ``publications`` are what you missed."""

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Pub] | None = None
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: Data = UNSET
    was_recovering: bool = False


class ConnectResult(_Frame):
    """You are connected, as ``client``."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0
    data: Data = UNSET
    subs: dict[str, SubscribeResult] | None = None
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""


class HistoryResult(_Frame):
    """What the topic remembers, and where it ends."""

    publications: list[Pub] = msgspec.field(default_factory=list)
    epoch: str = ""
    offset: int = 0


class PresenceResult(_Frame):
    """Who is there."""

    presence: dict[str, ClientInfo] = msgspec.field(default_factory=dict)


class PresenceStatsResult(_Frame):
    """How many are there."""

    num_clients: int = 0
    num_users: int = 0


class RPCResult(_Frame):
    """What came of it."""

    data: Data = UNSET


class RefreshResult(_Frame):
    """How long the connection may go on."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(_Frame):
    """How long the subscription may go on."""

    expires: bool = False
    ttl: int = 0


class InfoPush(_Frame):
    """Somebody came or went."""

    info: ClientInfo | None = None


class UnsubscribePush(_Frame):
    """You hear the topic no longer."""

    code: int = 0
    reason: str = ""


class SubscribePush(_Frame):
    """You hear a topic that you did not ask for."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: Data = UNSET


class MessagePush(_Frame):
    """For this connection alone."""

    data: Data = UNSET


class DisconnectPush(_Frame):
    """The end, where the transport has no close frame."""

    code: int = 0
    reason: str = ""
    reconnect: bool = False


class Push(_Frame):
    """What nobody asked for just now."""

    channel: str = ""
    pub: Pub | None = None
    join: InfoPush | None = None
    leave: InfoPush | None = None
    # Ours: clients of others do not know it, and pass over it.
    changed: Empty | None = None
    unsubscribe: UnsubscribePush | None = None
    message: MessagePush | None = None
    subscribe: SubscribePush | None = None
    disconnect: DisconnectPush | None = None
    refresh: RefreshResult | None = None


class Reply(_Frame):
    """A line from the server: the answer to a command, a push, or (empty) a ping."""

    id: int = 0
    error: Failure | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: Empty | None = None
    publish: Empty | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    ping: Empty | None = None
    rpc: RPCResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None
