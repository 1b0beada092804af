"""The errors of topic classes, endpoints and permissions with wrong declarations."""

from __future__ import annotations

import functools
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured

from tiderace.topics import (
    AllowAny,
    BasePermission,
    Growing,
    HasPerm,
    History,
    IsAuthenticated,
    Latest,
    Presence,
    Topic,
    TopicsEndpoint,
)
from tiderace.topics.declaration.topic import declared


@pytest.fixture(autouse=True)
def _registry():
    before = set(declared)
    yield
    for topic in set(declared) - before:
        declared.remove(topic)


def declare(**attributes):
    return type("Room", (Topic,), {"__module__": "chat.topics", **attributes})


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("room:<slug:name", "opened with < and not closed"),
        ("room:slug:name>", "closed by > alone"),
        ("room:<name>:<name>", "two values called 'name'"),
        (
            "room:<slgu:name>",
            "invalid converter 'slgu'. (known: ",
        ),
        ("room:<slug:>", "'slug:' which isn't a valid Python identifier"),
    ],
)
def test_a_malformed_pattern_raises_with_what_is_wrong_in_it(pattern, text):
    with pytest.raises(ImproperlyConfigured) as raised:
        declare(pattern=pattern)

    assert repr(pattern) in str(raised.value)
    assert text in str(raised.value)


def test_two_patterns_that_differ_in_names_of_values_are_the_same():
    class One(Topic):
        pattern = "twice:<name>"

    with pytest.raises(ImproperlyConfigured) as raised:

        class Two(Topic):
            pattern = "twice:<str:title>"

    assert "One" in str(raised.value)
    assert "'twice:<str:title>' as 'twice:<name>'" in str(raised.value)


def test_patterns_with_other_converters_are_two():
    class ByNumber(Topic):
        pattern = "entry:<int:pk>"

    class ByName(Topic):
        pattern = "entry:<slug:name>"

    assert isinstance(declared.resolve("entry:7"), ByNumber)
    assert isinstance(declared.resolve("entry:tea"), ByName)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("pattern", 7, "room:<slug:name>"),
        ("presence", True, "Presence.OFF or Presence.PER_CONNECTION or"),
        ("presence", "user", "Presence.PER_USER"),
        ("history", 100, "History(size=100, ttl=300)"),
        ("history", True, "History(size=100, ttl=300)"),
        ("deliver", "5/s", 'Latest(rate="5/s", key="id"), or None'),
        ("rewind", True, "how many of the last publications"),
        ("rewind", "1", "how many of the last publications"),
        ("presence_grace", "15", "a number of seconds"),
        ("presence_grace", True, "a number of seconds"),
        ("push_joins", 1, "True or False"),
        ("require_token", None, "True or False"),
        ("subscribers_only", "no", "True or False"),
        ("layer", None, "CHANNEL_LAYERS"),
    ],
)
def test_an_option_of_another_type_raises_with_the_value_and_what_to_write(
    name, value, advice
):
    with pytest.raises(ImproperlyConfigured) as raised:
        declare(**{name: value})

    assert f"chat.topics.Room.{name} is {value!r}" in str(raised.value)
    assert advice in str(raised.value)


def test_options_of_the_right_types_are_accepted():
    topic = declare(
        history=History(), presence=Presence.PER_USER, presence_grace=5, push_joins=True
    )

    assert topic.presence_grace == 5


def test_messages_that_grow_cannot_be_replaced_by_newer_ones():
    with pytest.raises(ImproperlyConfigured) as raised:
        declare(deliver=Latest(), growing=Growing())

    assert "chat.topics.Room has both deliver and growing" in str(raised.value)


@pytest.mark.parametrize(
    "option",
    [{"deliver": Latest()}, {"growing": Growing()}],
    ids=["deliver", "growing"],
)
def test_may_receive_is_not_combined_with_messages_without_tags(option):
    with pytest.raises(ImproperlyConfigured) as raised:
        declare(may_receive=lambda self, user, tags: True, **option)

    assert f"has both may_receive and {next(iter(option))}" in str(raised.value)


def test_a_key_in_json_is_not_combined_with_bytes():
    with pytest.raises(ImproperlyConfigured) as raised:
        declare(deliver=Latest(key="id"), message=bytes)

    assert "has message = bytes, and Latest(key='id') reads" in str(raised.value)


@pytest.mark.parametrize(
    ("history", "rewind", "text"),
    [
        (None, 1, "is 1, and the topic keeps no history; write"),
        (History(size=5), 6, "is 6, and the topic keeps 5 publications; write"),
        (History(size=5), -1, "is -1, and the topic keeps 5 publications; write"),
    ],
)
def test_rewinding_beyond_the_history_raises_with_what_is_kept(history, rewind, text):
    with pytest.raises(ImproperlyConfigured) as raised:
        declare(history=history, rewind=rewind)

    assert f"chat.topics.Room.rewind {text}" in str(raised.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (AllowAny, "permission_classes is AllowAny, not a list; write"),
        ("AllowAny", "not a list"),
        (["AllowAny"], "'AllowAny' is no permission"),
        ([dict], "is no permission"),
        ([HasPerm], "HasPerm"),
    ],
)
def test_permission_classes_that_are_no_list_of_permissions_raise(value, text):
    with pytest.raises(ImproperlyConfigured) as raised:
        declare(permission_classes=value)

    assert "chat.topics.Room.permission_classes" in str(raised.value)
    assert text in str(raised.value)


def test_permissions_may_be_combined_instances_in_any_collection():
    declare(permission_classes=(AllowAny(), IsAuthenticated & ~AllowAny))


@pytest.mark.parametrize(
    ("name", "hook", "definition"),
    [
        ("can_subscribe", lambda user: True, "def can_subscribe(self, user)"),
        ("can_publish", lambda self: True, "def can_publish(self, user)"),
        ("can_see_presence", lambda: True, "def can_see_presence(self, user)"),
        ("can_read_history", lambda self, a, b: 0, "def can_read_history(self, user)"),
        ("on_publish", lambda self, data: 0, "def on_publish(self, user, message)"),
        ("on_subscribe", lambda self: 0, "def on_subscribe(self, user, data)"),
        ("user_joined", lambda self: 0, "def user_joined(self, user_id)"),
        ("user_left", lambda self, *, user_id: 0, "def user_left(self, user_id)"),
        ("topics_for", lambda self, user: (), "@classmethod def topics_for(cls, user)"),
    ],
)
def test_a_hook_with_other_arguments_raises_with_its_definition(name, hook, definition):
    with pytest.raises(ImproperlyConfigured) as raised:
        declare(**{name: hook})

    assert f"chat.topics.Room.{name}(" in str(raised.value)
    assert definition in str(raised.value)


def test_a_hook_that_is_no_method_raises():
    with pytest.raises(ImproperlyConfigured, match="can_publish is True, which cannot"):
        declare(can_publish=True)


def with_room(hook):
    """A decorator that adds an argument of its own."""

    @functools.wraps(hook)
    async def call(self, *arguments):
        return await hook(self, "room", *arguments)

    return call


def test_hooks_with_their_arguments_are_accepted_in_every_form():
    class Room(Topic):
        @classmethod
        def topics_for(cls, user):
            return []

        @sync_to_async
        def can_subscribe(self, user):
            return True

        @with_room
        async def can_publish(self, room, user):
            return True

        @staticmethod
        def can_see_presence(user):
            return True

        async def on_publish(self, user, message, *, retries=3):
            return message

        async def on_subscribe(self, user):
            return None

    class Hall(Room):
        async def on_subscribe(self, user, data):
            return data

        can_subscribe = None

    assert Hall.can_subscribe is None


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("user_info", lambda self, user: None),
        ("on_connect", lambda self, user: None),
        ("on_message", lambda self, message: None),
        ("on_api_call", lambda self: None),
    ],
)
def test_a_hook_of_an_endpoint_with_other_arguments_raises(name, hook):
    with pytest.raises(
        ImproperlyConfigured, match=f"Endpoint.{name}.*cannot be called"
    ):
        type("Endpoint", (TopicsEndpoint,), {name: hook})


def test_a_permission_with_the_arguments_of_rest_framework_raises():
    with pytest.raises(
        ImproperlyConfigured,
        match=r"write: def has_permission\(self, user, topic, action",
    ):

        class IsMember(BasePermission):
            def has_permission(self, request, view):
                return True


@pytest.mark.parametrize(
    "values",
    [{"size": "100"}, {"ttl": "300"}, {"ttl": timedelta(hours=1)}, {"size": 1.5}],
)
def test_a_history_of_other_values_than_numbers_is_refused(values):
    with pytest.raises(ImproperlyConfigured) as refused:
        History(**values)

    assert "History(size=100, ttl=300)" in str(refused.value)
    assert repr(next(iter(values.values()))) in str(refused.value)


@pytest.mark.parametrize("name", [Topic, {"text": "hello"}, b"room:tea", None])
def test_a_topic_name_that_is_no_string_is_refused_with_its_type(name):
    with pytest.raises(TypeError, match="addressed by its name") as refused:
        declared.resolve(name)

    assert type(name).__qualname__ in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [{"interval": 0}, {"lease": -1}, {"size": "many"}, {"size": True}, {"size": 2**21}],
)
def test_growing_messages_with_an_impossible_option_are_refused(options):
    with pytest.raises(ImproperlyConfigured, match=next(iter(options))):
        Growing(**options)
