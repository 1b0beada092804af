"""Why a client is refused: in the log, and under DEBUG in the error itself."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from support.clients.stream_client import request
from support.clients.wire_client import WireClient
from support.waiting import within
from tiderace.topics import (
    AllowAny,
    BasePermission,
    HasPerm,
    IsAuthenticated,
    IsStaff,
    Topic,
    TopicsEndpoint,
    asubscribe,
    rpc,
)
from tiderace.topics.declaration.topic import declared


@pytest.fixture(autouse=True)
def _fresh_layer(settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }


@pytest.fixture
def app():
    """An endpoint with a topic for each reason to refuse."""
    before = set(declared)

    class Closed(Topic):
        pattern = "closed"

    class Members(Topic):
        pattern = "members"
        permission_classes = [AllowAny, IsAuthenticated & ~IsStaff]

    class Editors(Topic):
        pattern = "editors"
        permission_classes = [HasPerm("news.add_entry") | IsStaff]

    class Picky(Topic):
        pattern = "picky"

        async def can_subscribe(self, user):
            return False

    class Silent(Topic):
        pattern = "silent"

        async def can_subscribe(self, user):
            bool(user.is_authenticated)

    class Forgetful(BasePermission):
        def has_permission(self, user, topic, action):
            bool(user.is_authenticated)

    class Unsaid(Topic):
        pattern = "unsaid"
        permission_classes = [IsStaff | Forgetful]

    class Signed(Topic):
        pattern = "signed"
        require_token = True

    class Lobby(Topic):
        pattern = "lobby"
        permission_classes = [AllowAny]

        @rpc
        async def rename(self, to: str):
            return to

    class Slow(Topic):
        pattern = "slow"
        permission_classes = [AllowAny]
        publish_rate = "1/h"

        async def can_publish(self, user):
            return True

    class Endpoint(TopicsEndpoint):
        pass

    yield Endpoint.as_asgi()
    for topic in set(declared) - before:
        declared.remove(topic)


SUBSCRIPTIONS = [
    ("lobyb", 102, "no topic matches 'lobyb' (declared: "),
    ("closed", 103, "Closed has neither permission_classes nor can_subscribe"),
    ("members", 103, "(IsAuthenticated & ~IsStaff) in Members.permission_classes does"),
    ("editors", 103, "(HasPerm('news.add_entry') | IsStaff) in Editors.permission_cl"),
    ("picky", 103, "Picky.can_subscribe does not allow an anonymous user"),
    (
        "silent",
        103,
        "Silent.can_subscribe does not allow an anonymous user (it returned None, not ",
    ),
    ("unsaid", 103, "does not allow an anonymous user (Forgetful returned None, not T"),
    ("signed", 103, "Signed.require_token is True, and no token was sent"),
]


@pytest.mark.parametrize(("topic", "code", "reason"), SUBSCRIPTIONS)
async def test_under_debug_a_refused_subscription_says_why(
    app, settings, caplog, topic, code, reason
):
    settings.DEBUG = True

    async with WireClient(app) as client:
        error = (await client.ask("subscribe", channel=topic))["error"]

    assert error["code"] == code
    assert reason in error["message"]
    [record] = [each for each in caplog.records if reason in each.getMessage()]
    assert record.levelname == "WARNING"
    assert f"subscribe {topic!r} is refused with {code}" in record.getMessage()


@pytest.mark.parametrize(("topic", "code", "reason"), SUBSCRIPTIONS)
async def test_without_debug_the_reason_is_for_the_log_alone(
    app, caplog, topic, code, reason
):
    caplog.set_level(logging.INFO, "tiderace.topics")

    async with WireClient(app) as client:
        error = (await client.ask("subscribe", channel=topic))["error"]

    assert error["message"] in ("unknown channel", "permission denied")
    [record] = [each for each in caplog.records if reason in each.getMessage()]
    assert record.levelname == "INFO"


async def test_the_reason_names_the_user_by_primary_key(app, settings):
    settings.DEBUG = True
    user = SimpleNamespace(pk=7, is_authenticated=True, is_active=True)

    async with WireClient(app, user=user) as client:
        error = (await client.ask("subscribe", channel="picky"))["error"]

    assert "does not allow the user 7" in error["message"]


@pytest.mark.parametrize(
    ("method", "fields", "reason"),
    [
        ("publish", {"data": 1}, "Lobby has neither can_publish nor on_publish"),
        ("history", {}, "Lobby keeps no history; give the class history = History("),
        ("presence", {}, "Lobby has no presence; give the class presence = Presence"),
        ("presence_stats", {}, "Lobby has no presence"),
    ],
)
async def test_under_debug_a_refused_command_says_why(
    app, settings, method, fields, reason
):
    settings.DEBUG = True

    async with WireClient(app) as client:
        await client.subscribe("lobby")
        error = (await client.ask(method, channel="lobby", **fields))["error"]

    assert reason in error["message"]


async def test_under_debug_a_command_without_a_subscription_says_so(app, settings):
    settings.DEBUG = True

    async with WireClient(app) as client:
        error = (await client.ask("publish", channel="lobby", data=1))["error"]

    assert "the client is not subscribed to it, and Lobby.subs" in error["message"]


@pytest.fixture
def publish_with(app):
    """Return a function that publishes twice to a topic with this hook."""
    before = set(declared)

    async def run(hook):
        class Hooked(Topic):
            pattern = "hooked"
            permission_classes = [AllowAny]
            on_publish = hook

        async with WireClient(app) as client:
            await client.subscribe("hooked")
            await client.done("publish", channel="hooked", data=1)
            await client.done("publish", channel="hooked", data=2)

    yield run
    for topic in set(declared) - before:
        declared.remove(topic)


async def test_under_debug_a_hook_that_returns_nothing_to_publish_is_logged_once(
    publish_with, settings, caplog
):
    settings.DEBUG = True

    async def on_publish(self, user, message):
        str(message)

    await publish_with(on_publish)

    [line] = caplog.messages
    assert "Hooked.on_publish returned None, so nothing was published" in line
    assert "return the data, or annotate the method with -> None" in line


async def test_a_hook_that_is_annotated_with_none_is_not_logged(
    publish_with, settings, caplog
):
    settings.DEBUG = True

    async def on_publish(self, user, message) -> dict | None:
        return None

    await publish_with(on_publish)

    assert caplog.messages == []


async def test_under_debug_a_rate_limit_is_named(app, settings):
    settings.DEBUG = True

    async with WireClient(app) as client:
        await client.subscribe("slow")
        await client.done("publish", channel="slow", data=1)
        error = (await client.ask("publish", channel="slow", data=1))["error"]

    assert "more publications than Slow.publish_rate = '1/h'" in error["message"]


async def test_under_debug_a_call_of_another_name_lists_the_methods(
    app, settings, caplog
):
    settings.DEBUG = True
    call = {"channel": "lobby", "method": "renam", "data": {}}

    async with WireClient(app) as client:
        await client.subscribe("lobby")
        error = (await client.ask("rpc", method="$call", data=call))["error"]

    assert "Lobby has no method 'renam' marked with @rpc (it has rename)" in str(error)
    assert "a call of 'lobby' is refused with 104" in caplog.text


async def test_under_debug_a_refused_stream_of_events_is_logged(app, settings, caplog):
    settings.DEBUG = True

    answer = await request(app, "GET", "/connection/events", query="topic=picky")

    assert answer.status == 403
    assert "the stream of 'picky' is refused with 103" in caplog.text
    assert "Picky.can_subscribe does not allow an anonymous user" in caplog.text


async def test_a_topic_of_topics_for_that_is_refused_is_logged(app, settings, caplog):
    settings.DEBUG = True

    class Inbox(Topic):
        pattern = "inbox"

        @classmethod
        def topics_for(cls, user):
            return ["inbox"]

    async with WireClient(app) as client:
        assert "subs" not in client.connected["connect"]

    assert "the subscription on connect to 'inbox' is refused with 103" in caplog.text
    assert "Inbox has neither permission_classes nor can_subscribe" in caplog.text


async def test_a_subscription_by_the_server_that_fails_is_logged(app, settings, caplog):
    settings.DEBUG = True
    user = SimpleNamespace(pk=7, is_authenticated=True, is_active=True)

    async with WireClient(app, user=user) as client:
        await client.subscribe("lobby")
        await asubscribe(user, "lobby")
        await within(client.quiet())
        await within(client.quiet())

    assert (
        "the subscription by the server to 'lobby' is refused with 105" in caplog.text
    )


async def test_under_debug_a_client_without_a_user_is_told_the_setting(app, settings):
    settings.DEBUG = True
    settings.TIDERACE = {"TOPICS": {"ANONYMOUS": False}}

    async with WireClient(app, connect=None) as client:
        error = (await client.ask("connect"))["error"]

    assert "nobody is logged in, and TIDERACE['TOPICS']['ANONYMOUS']" in str(error)


async def test_a_reason_of_an_own_permission_is_its_class(app, settings):
    settings.DEBUG = True

    class IsMember(BasePermission):
        pass

    class Club(Topic):
        pattern = "club"
        permission_classes = [IsMember]

    async with WireClient(app) as client:
        error = (await client.ask("subscribe", channel="club"))["error"]

    assert "IsMember in Club.permission_classes does not allow" in error["message"]
