"""The presence trackers of one event loop, and their announcements to topics."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import msgspec

from tiderace import cluster, conf
from tiderace.layers import get_channel_layer
from tiderace.presence.store import Member
from tiderace.presence.tracker import Presence, PresenceTracker
from tiderace.topics.hooks import call_hook
from tiderace.topics.json_fields import client_info
from tiderace.topics.names import events_group
from tiderace.topics.topic import UnknownTopic, declared


class PresenceTrackers:
    """One tracker for each layer with topics that have presence, made when needed."""

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
                _call_user_hook,
                refresh=conf.current().presence_refresh,
            )
        return tracker

    def start(self) -> None:
        """Start the trackers of all declared topics.

        Also without members in this process: a process that had some may be killed.
        """
        for alias in {
            kind.layer for kind in declared if kind.presence is not Presence.OFF
        }:
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


# Those of all event loops of this process.
_all: WeakSet[PresenceTrackers] = WeakSet()


@cluster.on_reconnect
def _refresh_soon() -> None:
    for trackers in list(_all):
        trackers.refresh_soon()


def _announcer(layer: Any) -> Any:
    async def announce(topic: str, change: str, member: Member | None) -> None:
        """Send a join, a leave or, without a member, a change to the topic's events."""
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


async def _call_user_hook(topic: str, change: str, user_id: str) -> None:
    """Call the topic's own ``user_joined`` or ``user_left``."""
    try:
        resolved = declared.resolve(topic)
    except UnknownTopic:
        return  # it was declared when the user joined
    hook = resolved.user_joined if change == "joined" else resolved.user_left
    if hook is not None:
        await call_hook(hook, user_id)
