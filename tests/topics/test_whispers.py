"""Whispers between the subscribers of a topic, over every engine."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured

from support.clients.wire_client import WireClient
from support.waiting import settle, until, within
from tiderace.layers import get_channel_layer
from tiderace.layers.broker import Retention
from tiderace.testing.layer_contract import RecordingListener
from tiderace.topics import (
    AllowAny,
    History,
    IsAuthenticated,
    Topic,
    TopicsEndpoint,
    ahistory,
)
from tiderace.topics.declaration.topic import declared
from tiderace.topics.fanout.dispatcher import ActiveSubscription
from tiderace.topics.hub import current
from tiderace.topics.names import events_group, topic_group

pytestmark = pytest.mark.usefixtures("own_topics")

_NOTHING = Retention(0, 0.0)


def user(pk):
    return SimpleNamespace(
        pk=pk, is_authenticated=True, is_active=True, is_anonymous=False
    )


@pytest.fixture
def memory(settings):
    """A layer of this test's own."""
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }


@pytest.fixture
def app(own_topics):
    class Pad(Topic):
        pattern = "pad:<slug:name>"
        history = History()
        permission_classes = [AllowAny]
        whispers = "3/m"

    class Silent(Topic):
        pattern = "silent"
        permission_classes = [AllowAny]

    class Endpoint(TopicsEndpoint):
        async def user_info(self, user, scope):
            return {"name": f"user {user.pk}"}

    return Endpoint.as_asgi()


async def whisper(client, topic, data=None):
    """Whisper, and return the reply."""
    fields = {"channel": topic, "data": data}
    return await client.ask("rpc", method="$whisper", data=fields)


async def test_the_other_subscribers_get_a_whisper_with_who_sent_it(engine, app):
    async with (
        WireClient(app, user=user(1)) as ada,
        WireClient(app, user=user(2)) as bob,
    ):
        await ada.subscribe("pad:a")
        await bob.subscribe("pad:a")

        reply = await whisper(ada, "pad:a", {"typing": True})

        assert "error" not in reply
        assert await bob.push() == {
            "channel": "pad:a",
            "whisper": {
                "data": {"typing": True},
                "info": {
                    "user": "1",
                    "client": ada.id,
                    "conn_info": {"name": "user 1"},
                },
            },
        }
        assert await ada.quiet()


async def test_a_whisper_is_not_stored(engine, app):
    async with WireClient(app, user=user(1)) as ada:
        await ada.subscribe("pad:a")
        await whisper(ada, "pad:a", 1)

        late = get_channel_layer()
        _, kept = await late.stream_read(events_group("pad:a"), keep=_NOTHING)
        assert kept == []
        assert (await ahistory("pad:a")).publications == []


async def test_a_whisper_reaches_other_processes(elsewhere, app):
    there = RecordingListener()
    await elsewhere.stream_subscribe(events_group("pad:a"), there)
    async with WireClient(app, user=user(1)) as ada:
        await ada.subscribe("pad:a")

        await whisper(ada, "pad:a", "here")
        await until(lambda: there.data)
        # This is what another process passes on.
        other = there.data[0].replace(ada.id, "someone-else")
        await elsewhere.stream_publish(
            events_group("pad:a"), {"data": other}, keep=_NOTHING
        )

        push = await ada.push("whisper")
        assert push["whisper"]["data"] == "here"
        assert push["whisper"]["info"]["client"] == "someone-else"
        assert await ada.quiet()


async def test_a_whisper_without_data_has_null(memory, app):
    async with (
        WireClient(app, user=user(1)) as ada,
        WireClient(app, user=user(2)) as bob,
    ):
        await ada.subscribe("pad:a")
        await bob.subscribe("pad:a")
        await ada.done("rpc", method="$whisper", data={"channel": "pad:a"})

        assert (await bob.push("whisper"))["whisper"]["data"] is None


async def test_a_client_cannot_forge_the_sender_of_a_whisper(memory, app):
    async with (
        WireClient(app, user=user(1)) as ada,
        WireClient(app, user=user(2)) as bob,
    ):
        await ada.subscribe("pad:a")
        await bob.subscribe("pad:a")
        forged = {"user": "2", "client": bob.id}
        fields = {"channel": "pad:a", "data": 1, "info": forged, "client": bob.id}
        await ada.done("rpc", method="$whisper", data=fields)

        info = (await bob.push("whisper"))["whisper"]["info"]
        assert (info["user"], info["client"]) == ("1", ada.id)


async def test_a_topic_has_no_whispers_by_default(memory, app):
    async with WireClient(app, user=user(1)) as ada:
        await ada.subscribe("silent")

        assert (await whisper(ada, "silent"))["error"]["code"] == 108


async def test_only_subscribers_may_whisper(memory, app):
    declared.resolve("pad:a").__class__.subscribers_only = False
    async with WireClient(app, user=user(1)) as ada:
        assert (await whisper(ada, "pad:a"))["error"]["code"] == 103


async def test_whispers_beyond_the_rate_are_refused_and_others_are_not(memory, app):
    async with (
        WireClient(app, user=user(1)) as ada,
        WireClient(app, user=user(2)) as bob,
    ):
        await ada.subscribe("pad:a")
        await bob.subscribe("pad:a")
        replies = [await whisper(ada, "pad:a", n) for n in range(4)]

        assert ["error" in reply for reply in replies] == [False, False, False, True]
        assert replies[3]["error"]["code"] == 111
        assert [(await bob.push())["whisper"]["data"] for _ in range(3)] == [0, 1, 2]
        assert "error" not in await whisper(bob, "pad:a")


async def test_a_new_subscription_does_not_renew_the_rate_of_whispers(memory, app):
    async with WireClient(app, user=user(1)) as ada:
        replies = []
        for n in range(4):
            await ada.subscribe("pad:a")
            replies.append(await whisper(ada, "pad:a", n))
            await ada.done("unsubscribe", channel="pad:a")

        assert ["error" in reply for reply in replies] == [False, False, False, True]


async def test_the_permission_is_decided_once_until_permissions_change(memory):
    asked = []

    class Pad(Topic):
        pattern = "asked"
        permission_classes = [AllowAny]
        whispers = True
        allowed = True

        async def can_whisper(self, user):
            asked.append(user.pk)
            return self.allowed

    async with WireClient(TopicsEndpoint.as_asgi(), user=user(1)) as ada:
        await ada.subscribe("asked")
        await whisper(ada, "asked")
        await whisper(ada, "asked")
        assert asked == [1]

        Pad.allowed = False
        next(iter(current())).subscriptions.check_permissions()
        await settle()

        assert (await whisper(ada, "asked"))["error"]["code"] == 103
        assert (await whisper(ada, "asked"))["error"]["code"] == 103


async def test_a_change_while_the_permission_is_being_asked_for_has_it_asked_again(
    memory,
):
    asking, may_answer, asked = asyncio.Event(), asyncio.Event(), []

    class Pad(Topic):
        pattern = "changing"
        permission_classes = [AllowAny]
        whispers = True

        async def can_whisper(self, user):
            asked.append(user.pk)
            asking.set()
            await may_answer.wait()
            return len(asked) == 1

    async with WireClient(TopicsEndpoint.as_asgi(), user=user(1)) as ada:
        await ada.subscribe("changing")
        first = asyncio.create_task(whisper(ada, "changing"))
        await within(asking.wait())
        next(iter(current())).subscriptions.check_permissions()
        await settle()
        may_answer.set()
        await first

        assert (await whisper(ada, "changing"))["error"]["code"] == 103


async def test_a_whisper_needs_what_the_permission_classes_allow(memory):
    class Pad(Topic):
        pattern = "members"
        permission_classes = [IsAuthenticated]
        whispers = True

    async with WireClient(TopicsEndpoint.as_asgi(), user=user(1)) as ada:
        await ada.subscribe("members")
        assert "error" not in await whisper(ada, "members")

        Pad.permission_classes = [~IsAuthenticated]
        assert "error" not in await whisper(ada, "members")
        await ada.done("unsubscribe", channel="members")
        Pad.permission_classes = [IsAuthenticated]
        await ada.subscribe("members")
        Pad.permission_classes = [~IsAuthenticated]
        assert (await whisper(ada, "members"))["error"]["code"] == 103


def test_a_subscription_that_begins_buffers_no_whisper():
    class Pad(Topic):
        pattern = "begins"
        permission_classes = [AllowAny]
        whispers = True

    outbox = SimpleNamespace(codec=None)
    subscription = ActiveSubscription(Pad("begins"), outbox, lambda lost: None)
    whispered = SimpleNamespace(data='{"type": "topic.whisper", "data": 1}')

    subscription.on_publication(events_group("begins"), whispered)

    assert subscription.buffered == []
    assert subscription.group == topic_group("begins")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("fast", "'fast' is no rate"),
        ("0/s", "rate of 0"),
        (20, "write True, or a rate"),
        (None, "write True, or a rate"),
    ],
)
def test_whispers_that_are_no_rate_are_refused_where_the_class_is_defined(
    value, problem
):
    with pytest.raises(ImproperlyConfigured, match=problem):
        type("Pad", (Topic,), {"whispers": value, "__module__": __name__})
