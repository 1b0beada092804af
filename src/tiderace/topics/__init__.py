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
from tiderace.topics.api import (
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
from tiderace.topics.endpoint import TopicsEndpoint
from tiderace.topics.names import topic_group
from tiderace.topics.permissions import (
    AllowAny,
    BasePermission,
    HasPerm,
    IsAdminUser,
    IsAuthenticated,
    IsStaff,
)
from tiderace.topics.topic import History, Refuse, Topic, UnknownTopic, rpc

__all__ = [
    "AllowAny",
    "BasePermission",
    "HasPerm",
    "History",
    "HistoryPage",
    "IsAdminUser",
    "IsAuthenticated",
    "IsStaff",
    "Position",
    "Presence",
    "PresenceInfo",
    "Publication",
    "Refuse",
    "Topic",
    "TopicsEndpoint",
    "UnknownTopic",
    "aclose_topic",
    "adisconnect",
    "ahistory",
    "apositions",
    "apresence",
    "apresence_stats",
    "apublish",
    "arefresh",
    "asend_to",
    "asubscribe",
    "aunsubscribe",
    "close_topic",
    "disconnect",
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
