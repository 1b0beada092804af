"""The messages of the protocol, with its field names; ``data`` is JSON as it came."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tiderace.protocol.codes import Failure, Unsubscription

Data = Raw | UnsetType
# The largest integer that JavaScript and Lua count exactly.
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


# The cyclic garbage collector has nothing to find in messages: none can contain itself.
class _Message(msgspec.Struct, omit_defaults=True, gc=False):
    """The base: fields with their default are not sent, unknown fields are ignored."""


class _WithToken(_Message):
    """The base of requests with a credential, which no ``repr`` in a traceback shows."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class _Complete(_Message, omit_defaults=False):
    """The base of messages whose zero and empty fields are sent: SDKs read them."""


class ClientInfo(_Complete):
    """A client that publishes, joins, leaves or is present."""

    user: str = ""
    client: str = ""
    conn_info: Data = UNSET
    chan_info: Data = UNSET


class StreamPosition(_Message):
    """A position in a stream: ``tiderace.history.Position``."""

    offset: Offset = 0
    epoch: str = ""


class Pub(_Message):
    """A publication."""

    data: Data = UNSET
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] | None = None
    time: int = 0
    # Whether ``data`` is the difference from the publication before it.
    delta: bool = False


# Requests


class FilterNode(_Message):
    """A node of a filter by tags: a comparison, or an operation on nodes."""

    op: str = ""
    key: str = ""
    cmp: str = ""
    val: str = ""
    vals: list[str] = []
    nodes: list[FilterNode] = []


class SubscribeRequest(_WithToken):
    """Subscribe to a topic; with ``recover``, from (``offset``, ``epoch``) on."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: Offset = 0
    data: Data = UNSET
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    flag: int = 0
    tf: FilterNode | None = None
    # Another kind of subscription, which is refused.
    type: int = 0


class ConnectRequest(_WithToken):
    """Connect: the first command of every connection."""

    token: str = ""
    data: Data = UNSET
    subs: dict[str, SubscribeRequest] | None = None
    name: str = ""
    version: str = ""
    headers: dict[str, str] | None = None
    flag: int = 0


class TopicRequest(_Message):
    """Unsubscribe, presence or presence_stats: a topic."""

    channel: str = ""


class PublishRequest(_Message):
    """Publish to a topic."""

    channel: str = ""
    data: Data = UNSET
    type: int = 0


class HistoryRequest(_Message):
    """Read a topic's history; with a limit of 0, its position only."""

    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class DataMessage(_Message):
    """Data alone: of the request ``send``, the result of ``rpc`` and the push ``message``."""

    data: Data = UNSET


class RPCRequest(_Message):
    """Call a method."""

    data: Data = UNSET
    method: str = ""


class RefreshRequest(_WithToken):
    """Renew the connection by a newer token."""

    token: str = ""


class SubRefreshRequest(_WithToken):
    """Renew a subscription by a newer token."""

    channel: str = ""
    token: str = ""
    type: int = 0


class Empty(_Message):
    """A request or a result without fields."""


class Command(_Message):
    """One frame of a client: a request, and the id of its reply."""

    id: int = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: TopicRequest | None = None
    publish: PublishRequest | None = None
    presence: TopicRequest | None = None
    presence_stats: TopicRequest | None = None
    history: HistoryRequest | None = None
    ping: Empty | None = None
    send: DataMessage | None = None
    rpc: RPCRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


class MalformedCommand(Command):
    """A command whose request cannot be decoded; its id can."""

    name: str = ""
    """The name of the request; empty where that cannot be read."""
    why: str = ""


# Results and pushes


class SubscribeResult(_Message):
    """The position of a new subscription, and the publications that were missed."""

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
    delta: bool = False


class ConnectResult(_Message):
    """The id of the connection, and its terms."""

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


class HistoryResult(_Complete):
    """Publications of a topic's history, and the position of its end."""

    publications: list[Pub] = msgspec.field(default_factory=list)
    epoch: str = ""
    offset: int = 0


class PresenceResult(_Complete):
    """The clients that are present."""

    presence: dict[str, ClientInfo] = msgspec.field(default_factory=dict)


class PresenceStatsResult(_Complete):
    """The number of clients and users that are present."""

    num_clients: int = 0
    num_users: int = 0


class RefreshResult(_Message):
    """How long the connection, or the subscription, is valid."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0


class InfoPush(_Message):
    """A client or user has joined or left."""

    info: ClientInfo | None = None


class WhisperPush(_Message):
    """A message of another subscriber, which is not part of the topic's stream."""

    data: Data = UNSET
    info: ClientInfo | None = None


class DisconnectPush(_Message):
    """The end of a connection whose transport has no close frame."""

    code: int = 0
    reason: str = ""
    reconnect: bool = False


class Push(_Message):
    """A message that is no reply."""

    channel: str = ""
    pub: Pub | None = None
    join: InfoPush | None = None
    leave: InfoPush | None = None
    # An extension of Tiderace, which other clients ignore.
    changed: Empty | None = None
    # Another extension.
    whisper: WhisperPush | None = None
    unsubscribe: Unsubscription | None = None
    message: DataMessage | None = None
    subscribe: SubscribeResult | None = None
    disconnect: DisconnectPush | None = None
    refresh: RefreshResult | None = None


class Reply(_Message):
    """One frame of the server: the reply to a command, a push, or (empty) a ping."""

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
    rpc: DataMessage | None = None
    refresh: RefreshResult | None = None
    sub_refresh: RefreshResult | None = None
