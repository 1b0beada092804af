"""The errors of the functions of ``tiderace.topics`` for wrong arguments."""

from __future__ import annotations

import dataclasses

import pytest
from django.core.exceptions import ImproperlyConfigured

from support.clients.wire_client import WireClient
from tiderace.topics import (
    AllowAny,
    History,
    Topic,
    TopicsEndpoint,
    UnknownTopic,
    adisconnect,
    ahistory,
    apositions,
    apresence,
    apresence_stats,
    apublish,
    asend_to,
    asubscribe,
    aunsubscribe,
    history,
    publish,
)
from tiderace.topics.declaration.topic import Registry, declared


@pytest.fixture(autouse=True)
def _lobby(settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }

    class Lobby(Topic):
        pattern = "lobby"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            return {"seen by": {Unsendable()}}

    yield
    declared.remove(Lobby)


@pytest.fixture
def kept():
    """A topic with a history."""

    class Kept(Topic):
        pattern = "kept"
        history = History(size=5)
        permission_classes = [AllowAny]

    yield
    declared.remove(Kept)


class Unsendable:
    """A value that has no JSON."""


# Data


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (Unsendable(), "data is a Unsendable"),
        ({"a": [1, {"b": Unsendable()}]}, "data['a'][1]['b'] is a Unsendable"),
        ({Unsendable(): 1}, "a key of data is a Unsendable"),
    ],
)
async def test_data_that_cannot_be_sent_is_named_with_topic_and_place(data, where):
    with pytest.raises(TypeError) as raised:
        await apublish("lobby", data)

    assert "the data for topic 'lobby' cannot be sent" in str(raised.value)
    assert where in str(raised.value)
    assert "primary key" in str(raised.value)


async def test_data_that_contains_itself_cannot_be_sent():
    data: dict = {}
    data["self"] = data

    with pytest.raises(TypeError, match="the data for topic 'lobby' cannot be sent"):
        await apublish("lobby", data)


async def test_data_for_a_user_that_cannot_be_sent_is_named_with_the_user():
    with pytest.raises(TypeError, match=r"for user 7 cannot be sent: data\['a'\]"):
        await asend_to(7, {"a": Unsendable()})


async def test_a_result_of_on_publish_that_cannot_be_sent_is_named_in_the_log(caplog):
    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("lobby")
        assert await client.refused("publish", channel="lobby", data=1) == 100

    assert "topic 'lobby' cannot be sent: data['seen by']" in caplog.text


@dataclasses.dataclass
class Move:
    """A value that has JSON."""

    x: int


async def test_data_that_json_can_express_is_published():
    await apublish("lobby", {"moves": [Move(3)], "none": None})


# Names


async def test_an_unknown_topic_is_named_with_the_patterns():
    with pytest.raises(UnknownTopic, match=r"'lobyb' \(declared: .*lobby"):
        await apublish("lobyb", 1)


def test_without_any_topic_the_error_says_where_they_are_declared():
    with pytest.raises(UnknownTopic) as raised:
        Registry().resolve("lobby")

    assert 'a module "topics" of an app in INSTALLED_APPS' in str(raised.value)
    assert 'list "tiderace" there' in str(raised.value)


# Topics that keep nothing


async def test_the_history_of_a_topic_without_one_is_an_error():
    with pytest.raises(ImproperlyConfigured) as raised:
        await ahistory("lobby")

    assert "no history of 'lobby': Lobby keeps no history" in str(raised.value)
    assert "history = History(size=100, ttl=300)" in str(raised.value)


@pytest.mark.parametrize("read", [apresence, apresence_stats])
async def test_the_presence_of_a_topic_without_one_is_an_error(read):
    with pytest.raises(ImproperlyConfigured) as raised:
        await read("lobby")

    assert "no presence of 'lobby': Lobby has no presence" in str(raised.value)
    assert "Presence.PER_USER" in str(raised.value)


async def test_a_history_since_something_else_than_a_position_is_an_error(kept):
    with pytest.raises(TypeError, match=r"since is 5; pass a Position"):
        await ahistory("kept", since=5)


async def test_a_topic_without_a_history_has_a_position():
    """Which a page compares with that of its next connection."""
    before = (await apositions("lobby"))["lobby"]
    await apublish("lobby", 1)

    assert (await apositions("lobby"))["lobby"].offset == before.offset + 1


# Users


@pytest.mark.parametrize(
    "send",
    [
        lambda user: asend_to(user, "hello"),
        lambda user: asubscribe(user, "lobby"),
        lambda user: aunsubscribe(user, "lobby"),
        adisconnect,
    ],
)
async def test_a_user_name_in_place_of_a_user_is_an_error(send):
    with pytest.raises(
        ValueError, match=r"'alice' is no primary key of auth.User"
    ) as e:
        await send("alice")

    assert "pass the user, or user.pk" in str(e.value)


async def test_a_primary_key_may_be_text():
    await asend_to("7", "hello")


async def test_users_of_tokens_may_have_any_id(settings):
    settings.TIDERACE = {"TOPICS": {"USERS": "claims"}}

    await asend_to("auth0|alice", "hello")


# Sync functions where an event loop runs


async def test_sync_functions_name_the_coroutine_function_where_a_loop_runs():
    with pytest.raises(RuntimeError, match=r"publish\(\) .* write: await apublish\(\)"):
        publish("lobby", 1)
    with pytest.raises(RuntimeError, match=r"history\(\) .* write: await ahistory\(\)"):
        history("lobby")
