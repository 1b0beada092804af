"""The presence trackers of the topics of an event loop."""

from __future__ import annotations

from unittest import mock

from support.waiting import until
from tiderace.cluster import Cluster
from tiderace.layers import InMemoryChannelLayer
from tiderace.topics.trackers import PresenceTrackers


async def test_presence_is_refreshed_soon_when_the_broker_is_reached_again(monkeypatch):
    trackers, tracker = PresenceTrackers(), mock.Mock()
    monkeypatch.setattr(trackers, "_by_alias", {"default": tracker})
    cluster = Cluster(InMemoryChannelLayer())
    await cluster.open()

    cluster.layer.after_reconnect()

    await until(lambda: tracker.refresh_soon.called)
    await cluster.close()
