"""The presence trackers of one event loop, and their announcements to topics.

Which topics have subscribers is presence as well: each event loop that serves a topic is
a connection of one user in a group beside the topic, so that the first subscriber of all
processes is a join, and the last one is a leave after a grace.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any
from weakref import WeakSet

import msgspec

from tiderace import cluster, conf
from tiderace.exceptions import LayerUnavailable
from tiderace.layers import get_channel_layer
from tiderace.presence.store import Member
from tiderace.presence.tracker import Presence, PresenceTracker
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics.declaration.topic import Topic, UnknownTopic, declared
from tiderace.topics.hooks import call_hook
from tiderace.topics.json_fields import client_info
from tiderace.topics.names import events_group, occupied_group, occupied_topic

logger = logging.getLogger("tiderace.topics")

_RETRY_DELAY = 1.0  # seconds, while the broker is away

# The one user of the groups of occupied topics.
_SERVER = "server"


class PresenceTrackers:
    """The trackers of one event loop: one for each layer of topics, made when needed."""

    def __init__(self) -> None:
        self._by_alias: dict[str, PresenceTracker] = {}
        _all.add(self)

    def get(self, alias: str) -> PresenceTracker:
        """Return the tracker of the layer called ``alias``."""
        tracker = self._by_alias.get(alias)
        if tracker is None:
            layer = get_channel_layer(alias)
            tracker = self._by_alias[alias] = PresenceTracker(
                layer.presence,
                _announcer(layer),
                _call_hook,
                refresh=conf.current().presence_refresh,
            )
        return tracker

    def start(self) -> None:
        """Start the trackers of all declared topics.

        They run without members of this process too, to reap those of killed processes.
        """
        for alias in {kind.layer for kind in declared if _has_entries(kind)}:
            self.get(alias).start()

    def refresh_soon(self) -> None:
        """Refresh soon, from any thread: the broker may have lost its data."""
        for tracker in list(self._by_alias.values()):
            tracker.refresh_soon()

    async def close(self) -> None:
        """Remove the members of this process, and stop."""
        trackers, self._by_alias = list(self._by_alias.values()), {}
        for tracker in trackers:
            await tracker.close()


class OccupiedTopics:
    """Counts the subscribers of one event loop, for ``topic_opened`` and ``topic_closed``.

    Args:
        trackers: of the same event loop.
    """

    def __init__(self, trackers: PresenceTrackers) -> None:
        self._trackers = trackers
        self._member = Member(secrets.token_hex(16), _SERVER)
        self._counts: dict[str, int] = {}
        self._tasks = TaskGroup(logger)

    def enter(self, topic: Topic) -> None:
        """Count a subscriber until ``leave``; the store is called in the background."""
        if not topic.reports_occupancy():
            return
        count = self._counts.get(topic.topic, 0)
        self._counts[topic.topic] = count + 1
        if not count:
            self._tasks.spawn(self._add(topic))

    def leave(self, topic: Topic) -> None:
        """Undo ``enter``."""
        count = self._counts.pop(topic.topic, 0) - 1
        if count > 0:
            self._counts[topic.topic] = count
        elif count == 0:
            tracker = self._trackers.get(topic.layer)
            tracker.remove(occupied_group(topic.topic), self._member.client)

    async def close(self) -> None:
        """Stop; the trackers remove what this event loop has added."""
        await self._tasks.cancel()
        self._counts.clear()

    async def _add(self, topic: Topic) -> None:
        while topic.topic in self._counts:
            tracker = self._trackers.get(topic.layer)
            try:
                await tracker.add(
                    occupied_group(topic.topic),
                    self._member,
                    Presence.PER_USER,
                    grace=topic.closing_grace,
                )
            except LayerUnavailable as error:
                logger.warning("%r is reported as opened later: %s", topic, error)
                await asyncio.sleep(_RETRY_DELAY)
            else:
                return


# The trackers of all event loops of this process.
_all: WeakSet[PresenceTrackers] = WeakSet()


@cluster.on_reconnect
def _refresh_soon() -> None:
    for trackers in list(_all):
        trackers.refresh_soon()


def _announcer(layer: Any) -> Any:
    async def announce(topic: str, change: str, member: Member | None) -> None:
        """Send a join, a leave or, without a member, a change to the topic's events."""
        if occupied_topic(topic) is not None:
            return
        if member is None:
            await layer.group_send(events_group(topic), {"type": "topic.changed"})
            return
        info = client_info(member.user, member.client, member.info)
        event = {
            "type": "topic.joined" if change == "join" else "topic.left",
            "info": msgspec.json.decode(msgspec.json.encode(info)),
        }
        await layer.group_send(events_group(topic), event)

    return announce


def _has_entries(kind: type[Topic]) -> bool:
    return kind.presence is not Presence.OFF or kind.reports_occupancy()


async def _call_hook(group: str, change: str, user_id: str) -> None:
    """Call the hook for a change: of a user, or of the subscribers of a topic."""
    occupied = occupied_topic(group)
    if occupied is None:
        await _call_user_hook(group, change, user_id)
        return
    try:
        topic = declared.resolve(occupied)
    except UnknownTopic:
        return  # it was declared when it was opened
    hook = topic.topic_opened if change == "joined" else topic.topic_closed
    if hook is not None:
        await call_hook(hook)


async def _call_user_hook(topic: str, change: str, user_id: str) -> None:
    """Call the topic's own ``user_joined`` or ``user_left``."""
    try:
        resolved = declared.resolve(topic)
    except UnknownTopic:
        return  # it was declared when the user joined
    hook = resolved.user_joined if change == "joined" else resolved.user_left
    if hook is not None:
        await call_hook(hook, user_id)
