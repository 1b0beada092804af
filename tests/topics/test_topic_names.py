"""The names of topics and the patterns that match them."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.urls import register_converter
from django.urls.converters import (
    REGISTERED_CONVERTERS,
    StringConverter,
    get_converters,
)

from support.clients.wire_client import WireClient
from tiderace.topics import (
    Topic,
    UnknownTopic,
    apublish,
)
from tiderace.topics.declaration.topic import declared
from tiderace.topics.names import Pattern

pytestmark = pytest.mark.usefixtures("fresh_layer")


@pytest.mark.parametrize(
    "pattern",
    [
        "<slug:a>-<slug:b>-<slug:c>",
        "<a>:<b>:<c>",
        "<int:a>1<int:b>1<int:c>",
        "<a><b><c>",
    ],
)
def test_a_pattern_that_splits_a_name_in_too_many_ways_is_refused(pattern):
    with pytest.raises(ImproperlyConfigured, match="separate them by text"):
        Pattern(pattern)


@pytest.fixture
def converter():
    """Registers a converter with an expression, as ``own``, until the test's end."""

    def register(regex):
        kind = type("Own", (StringConverter,), {"regex": regex})
        register_converter(kind, "own")

    yield register
    REGISTERED_CONVERTERS.pop("own", None)
    get_converters.cache_clear()


@pytest.mark.parametrize(
    "regex", ["([a-z]+)+", r"(\w*\w*)*", "(a|a)*", "(?:(?:tide)+)+", r"\w*\w*\w*\w*\w*"]
)
def test_a_converter_that_takes_long_for_a_name_is_refused(regex, converter):
    converter(regex)

    with pytest.raises(ImproperlyConfigured, match="repetitions of repetitions"):
        Pattern("room:<own:name>")


@pytest.mark.parametrize(
    "regex", ["[a-z]+(?:-[a-z0-9]+)*", r"[^/:]+", r"\d{4}-\d\d", "(?:ab|ac)+", ".*"]
)
def test_a_converter_of_the_application_is_taken(regex, converter):
    converter(regex)

    assert Pattern("room:<own:name>").match("room:") in (None, {"name": ""})


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("<slug:a>-<slug:b>", "-" * 254 + "!"),
        ("<slug:a>:<slug:b>:<slug:c>", "-" * 250 + "::!"),
        ("<int:year>-<int:month>-<int:day>-<slug:title>", "1" * 254 + "!"),
    ],
)
def test_a_pattern_with_separators_outside_its_values_is_taken(pattern, name):
    assert Pattern(pattern).match(name) is None


async def test_a_name_that_is_too_long_is_compared_with_no_pattern(app, monkeypatch):
    compared = []
    monkeypatch.setattr(Pattern, "match", lambda self, name: compared.append(name))

    with pytest.raises(UnknownTopic, match="256 characters is longer than 255"):
        await apublish("room:" + "x" * 251, 1)

    assert compared == []


@pytest.mark.parametrize("method", ["publish", "history", "presence"])
async def test_a_command_with_a_name_that_is_too_long_is_refused(app, method):
    async with WireClient(app) as client:
        body = {"channel": "room:" + "x" * 251, "data": 1}

        assert await client.refused(method, **body) == 102


def test_a_name_with_a_nul_belongs_to_no_topic(own_topics):
    class AnyName(Topic):
        pattern = "any:<str:name>"

    with pytest.raises(UnknownTopic, match="NUL"):
        declared.resolve("any:\0")
