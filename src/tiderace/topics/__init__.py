"""Topics: groups that clients subscribe to by name, with history and permissions.

::

    class Room(Topic):
        pattern = "room:<slug:name>"
        history = History(size=100, ttl=3600)
        presence = Presence.PER_USER
        permission_classes = [IsAuthenticated]

    publish("room:lobby", {"text": "hi"})
"""

from __future__ import annotations

from tiderace.history import Position, Publication
from tiderace.presence.tracker import Presence
from tiderace.topics.declaration.latest import Latest
from tiderace.topics.declaration.occupancy import Occupancy, OccupancyNumbers
from tiderace.topics.declaration.topic import History, Refuse, Topic, UnknownTopic, rpc
from tiderace.topics.endpoint import TopicsEndpoint
from tiderace.topics.growing.blocking import GrowingMessage, cancel_message, grow
from tiderace.topics.growing.grow import agrow
from tiderace.topics.growing.options import Growing
from tiderace.topics.growing.writer import (
    AsyncGrowingMessage,
    MessageCancelled,
    MessageEnded,
)
from tiderace.topics.growing.writers import acancel_message
from tiderace.topics.names import topic_group
from tiderace.topics.permissions import (
    AllowAny,
    BasePermission,
    HasPerm,
    IsAdminUser,
    IsAuthenticated,
    IsStaff,
)
from tiderace.topics.server_api.calls import (
    HistoryPage,
    PresenceInfo,
    aclose_topic,
    adisconnect,
    ahistory,
    apositions,
    apresence,
    apresence_stats,
    apublish,
    arefresh,
    asend_to,
    asubscribe,
    aunsubscribe,
    close_topic,
    disconnect,
    history,
    positions,
    presence,
    presence_stats,
    publish,
    refresh,
    send_to,
    subscribe,
    unsubscribe,
)

__all__ = [
    "AllowAny",
    "AsyncGrowingMessage",
    "BasePermission",
    "Growing",
    "GrowingMessage",
    "HasPerm",
    "History",
    "HistoryPage",
    "IsAdminUser",
    "IsAuthenticated",
    "IsStaff",
    "Latest",
    "MessageCancelled",
    "MessageEnded",
    "Occupancy",
    "OccupancyNumbers",
    "Position",
    "Presence",
    "PresenceInfo",
    "Publication",
    "Refuse",
    "Topic",
    "TopicsEndpoint",
    "UnknownTopic",
    "acancel_message",
    "aclose_topic",
    "adisconnect",
    "agrow",
    "ahistory",
    "apositions",
    "apresence",
    "apresence_stats",
    "apublish",
    "arefresh",
    "asend_to",
    "asubscribe",
    "aunsubscribe",
    "cancel_message",
    "close_topic",
    "disconnect",
    "grow",
    "history",
    "positions",
    "presence",
    "presence_stats",
    "publish",
    "refresh",
    "rpc",
    "send_to",
    "subscribe",
    "topic_group",
    "unsubscribe",
]
