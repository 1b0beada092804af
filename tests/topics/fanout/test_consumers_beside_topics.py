"""Consumers in a topic's group, and subscribers of a group that gets messages."""

from __future__ import annotations

import pytest

from support.clients.wire_client import WireClient
from tiderace.layers import get_channel_layer
from tiderace.topics import (
    apublish,
    topic_group,
)

pytestmark = pytest.mark.usefixtures("fresh_layer")


async def test_a_group_message_reaches_subscribers(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        await get_channel_layer().group_send(
            topic_group("room:a"), {"type": "chat.message", "text": "hi"}
        )

        push = await client.push()
        assert push["pub"]["data"] == {"type": "chat.message", "text": "hi"}
        assert push["pub"]["offset"] == 1


async def test_a_consumer_in_the_group_gets_publications(app):
    layer = get_channel_layer()
    name = await layer.new_channel()
    await layer.group_add(topic_group("room:a"), name)
    await apublish("room:a", {"text": "hi"})
    event = await layer.receive(name)

    assert event["type"] == "topic.publication"
    assert event["topic"] == "room:a"
    assert event["data"] == {"text": "hi"}
