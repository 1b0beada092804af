"""Tests of the project, with the tools of ``tiderace.testing``."""

from __future__ import annotations

from typing import Any, assert_type

from django.contrib.auth.models import User
from django.test import TestCase

from tiderace.testing import (
    AsyncSubscribedTopic,
    AsyncTopicsClient,
    CapturedPublication,
    SubscribedTopic,
    TopicsClient,
    TopicsTestbed,
    TopicsTestMixin,
    assert_refused,
)
from tiderace.topics import HistoryPage, PresenceInfo


class RoomTests(TopicsTestMixin, TestCase):
    def test_sync(self) -> None:
        alice = User.objects.create_user("alice")
        client = self.topics.connect(user=alice, data={"version": 1})
        assert_type(client, TopicsClient)
        room = client.subscribe("room:tea")
        assert_type(room, SubscribedTopic)
        assert_type(room.receive(timeout=None), Any)
        assert_type(room.history(), HistoryPage)
        assert_type(room.presence(), list[PresenceInfo])
        assert_type(room.receive_unsubscribe(), tuple[int, str])
        assert_type(self.topics.publications, list[CapturedPublication])
        assert_type(self.topics.published_to("room:tea"), list[Any])
        with assert_refused(103, "permission denied"):
            room.publish({"text": "hi"})

    async def test_async(self) -> None:
        client = await self.topics.aconnect(token="wrong", origin=None)
        assert_type(client, AsyncTopicsClient)
        async with client:
            assert_type(await client.subscribe("room:tea"), AsyncSubscribedTopic)


def test_a_fixture(topics: TopicsTestbed) -> None:
    with topics.connect(cookies=None, url="/live/") as client:
        assert_type(client.call("add", a=1, b=2), Any)
