"""A client reads who is present, and gets joins and leaves."""

from __future__ import annotations

import pytest

from support.clients.wire_client import WireClient
from support.topics.rooms import user
from support.waiting import settle
from tiderace.layers import channel_layers
from tiderace.presence.store import PresenceConfig
from tiderace.topics import (
    AllowAny,
    History,
    Presence,
    Topic,
    TopicsEndpoint,
    apresence,
    apresence_stats,
)
from tiderace.topics.hub import close as close_process
from tiderace.topics.hub import current

pytestmark = pytest.mark.usefixtures("fresh_layer")


async def test_others_see_the_user_info_of_a_client(people):
    class Endpoint(TopicsEndpoint):
        def user_info(self, user, scope):
            return {"name": f"no. {user.pk}"}

    app = Endpoint.as_asgi()
    async with WireClient(app, user=user(3)) as client:
        await client.subscribe("people", join_leave=True)
        result = await client.done("presence", channel="people")
        async with WireClient(app, user=user(4)) as other:
            await other.subscribe("people")
            while (push := await client.push("join"))["join"]["info"]["user"] != "4":
                pass

    assert result["presence"][client.id]["conn_info"] == {"name": "no. 3"}
    assert push["join"]["info"]["conn_info"] == {"name": "no. 4"}


async def test_presence_lists_the_clients_of_a_topic(people):
    async with WireClient(people, user=user(3)) as client:
        await client.subscribe("people")

        result = await client.done("presence", channel="people")
        assert result == {"presence": {client.id: {"user": "3", "client": client.id}}}
        assert await client.done("presence_stats", channel="people") == {
            "num_clients": 1,
            "num_users": 1,
        }
        [info] = await apresence("people")
        assert (info.client, info.user_id) == (client.id, "3")
        assert await apresence_stats("people") == (1, 1)


async def test_a_client_that_asked_for_joins_gets_joins_and_leaves(people):
    async with WireClient(people) as one:
        await one.subscribe("people", join_leave=True)
        async with WireClient(people, user=user(3)) as two:
            await two.subscribe("people")
            while (push := await one.push("join"))["join"]["info"]["client"] != two.id:
                pass
            assert push["join"]["info"]["user"] == "3"
            assert await two.quiet()
        push = await one.push("leave")
        assert push["leave"]["info"] == {"user": "3", "client": two.id}


async def test_a_client_that_left_is_no_longer_present(people):
    async with WireClient(people) as one:
        await one.subscribe("people", join_leave=True)
        async with WireClient(people) as two:
            await two.subscribe("people")
            await two.done("unsubscribe", channel="people")
            await one.push("leave")
            result = await one.done("presence", channel="people")

            assert list(result["presence"]) == [one.id]


async def test_a_client_without_permission_for_presence_gets_no_joins(own_topics):
    class Secret(Topic):
        pattern = "secret"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

        async def can_see_presence(self, user):
            return user.is_authenticated

    app = TopicsEndpoint.as_asgi()
    async with WireClient(app) as curious, WireClient(app, user=user(3)) as one:
        await curious.subscribe("secret", join_leave=True)
        await one.subscribe("secret", join_leave=True)

        async with WireClient(app, user=user(4)) as two:
            await two.subscribe("secret")
            while (await one.push("join"))["join"]["info"]["user"] != "4":
                pass
        await one.push("leave")

        assert await curious.quiet()


async def test_a_client_gets_no_joins_after_unsubscribe(people):
    async with WireClient(people) as client, WireClient(people) as other:
        await client.subscribe("people", join_leave=True)
        await client.push("join")
        await client.done("unsubscribe", channel="people")
        await settle()
        await client.quiet()
        client._pushes.clear()
        await other.subscribe("people", join_leave=True)
        await other.push("join")

        assert await client.quiet()


@pytest.mark.parametrize("what", ["history", "presence"])
async def test_can_read_history_and_can_see_presence_are_called(own_topics, what):
    class Blind(Topic):
        pattern = "blind"
        permission_classes = [AllowAny]
        history = History()
        presence = Presence.PER_CONNECTION

        def can_read_history(self, user):
            return False

        async def can_see_presence(self, user):
            return False

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("blind")

        assert await client.refused(what, channel="blind") == 103


async def test_a_topic_may_push_joins_to_all_subscribers(own_topics):
    class Open(Topic):
        pattern = "open"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION
        push_joins = True

        async def can_see_presence(self, user):
            return False

    app = TopicsEndpoint.as_asgi()
    async with WireClient(app) as one, WireClient(app) as two:
        await one.subscribe("open")
        await two.subscribe("open")

        while (await one.push("join"))["join"]["info"]["client"] != two.id:
            pass


async def much_changes(topic):
    """Announce that presence has changed, without single joins and leaves."""
    await current().trackers.get("default")._announcer._announce(topic, "changed", None)


async def test_a_client_that_asked_for_joins_gets_the_change_push(people):
    async with WireClient(people) as one, WireClient(people) as two:
        await one.subscribe("people", join_leave=True)
        await two.subscribe("people")

        await much_changes("people")

        assert await one.push("changed") == {"channel": "people", "changed": {}}
        assert await two.quiet()


async def test_presence_uses_the_settings(people, settings):
    settings.TIDERACE = {
        "PRESENCE_TTL": 30,
        "PRESENCE_REFRESH": 5,
        "PRESENCE_LEASE": 7,
        "PRESENCE_PUSHES": 11,
    }
    channel_layers.backends.clear()
    await close_process()

    tracker = current().trackers.get("default")

    assert tracker._store.config == PresenceConfig(ttl=30, lease=7, pushes=11)
    assert tracker._schedule._refresh == 5


async def test_joins_beyond_the_limit_become_one_change_push(people, settings):
    settings.TIDERACE = {"PRESENCE_PUSHES": 1}
    channel_layers.backends.clear()
    await close_process()
    async with WireClient(people) as one:
        await one.subscribe("people", join_leave=True)
        for _ in range(3):
            async with WireClient(people) as other:
                await other.subscribe("people")

        await one.push("changed")
