"""Sync and async code of the server publishes, reads, and ends connections."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser

from support.clients.wire_client import WireClient
from support.topics.rooms import user
from tiderace.topics import (
    UnknownTopic,
    adisconnect,
    ahistory,
    apublish,
    arefresh,
    asend_to,
    asubscribe,
    aunsubscribe,
    publish,
)

pytestmark = pytest.mark.usefixtures("fresh_layer")


async def test_only_the_given_user_is_disconnected(app):
    async with (
        WireClient(app, user=user(1)) as one,
        WireClient(app, user=user(2)) as two,
    ):
        await adisconnect(user(1), reason="bye")

        assert await one.closed() == (3503, "bye")
        assert await two.quiet()


async def test_a_refresh_makes_the_client_reconnect(app):
    async with WireClient(app, user=user(1)) as client:
        await arefresh(1)

        assert (await client.closed())[0] == 3014


async def test_a_user_gets_a_message_on_all_connections(app):
    async with (
        WireClient(app, user=user(1)) as one,
        WireClient(app, user=user(1)) as two,
    ):
        await asend_to(1, {"hello": "you"})

        for client in (one, two):
            assert await client.push() == {"message": {"data": {"hello": "you"}}}


async def test_a_user_is_subscribed_and_unsubscribed_from_the_server(app):
    async with WireClient(app, user=user(1)) as client:
        await asubscribe(1, "closed")
        assert "subscribe" in await client.push()
        await apublish("closed", "for you")
        assert await client.publications(1) == ["for you"]
        await aunsubscribe(1, "closed")
        push = await client.push()
        assert push["unsubscribe"] == {"code": 2000, "reason": "server unsubscribe"}
        await apublish("closed", "too late")
        assert await client.quiet()


@pytest.mark.parametrize("code", [1000, 2999, 5000])
async def test_a_close_code_outside_the_range_is_refused(app, code):
    with pytest.raises(ValueError, match="use 3000 to 4999"):
        await adisconnect(1, code=code)


async def test_an_anonymous_user_cannot_be_disconnected(app):
    with pytest.raises(ValueError, match="has no id"):
        await adisconnect(AnonymousUser())


async def test_history_is_read_from_the_servers_side(app):
    await apublish("room:a", 1)
    page = await ahistory("room:a")

    assert page.messages == [1]
    assert page.position.offset == 1


async def test_publishing_to_an_undeclared_topic_names_the_declared_ones(app):
    with pytest.raises(
        UnknownTopic, match=r"no topic matches 'nowhere'.*room:<slug:name>"
    ):
        await apublish("nowhere", 1)


async def test_publish_is_refused_where_a_loop_runs(app):
    with pytest.raises(RuntimeError, match=r"await apublish\(\)"):
        publish("room:a", 1)


def test_publish_from_sync_code_returns_the_position(app):
    assert publish("room:a", 1).offset == 1
