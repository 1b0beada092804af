"""The system checks of topics, as ``manage.py check`` and ``runserver`` show them."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from django.apps.registry import Apps
from django.db import models
from django.test import override_settings

from tiderace.checks import topics as checks
from tiderace.layers import BaseChannelLayer
from tiderace.topics.declaration.topic import declared
from tiderace.topics.models import PublishesChanges


class GroupsOnly(BaseChannelLayer):
    """A layer of another project: groups, and no streams."""


@pytest.fixture
def declare(monkeypatch):
    """Return a function that executes the source of an app's module ``topics``."""
    before = set(declared)

    def run(source: str) -> None:
        module = ModuleType("chat.topics")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec("from tiderace.topics import *\n" + source, vars(module))

    yield run
    for topic in set(declared) - before:
        declared.remove(topic)


def only(messages, identity):
    assert [message.id for message in messages] == [identity]
    return messages[0]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ('patern = "room:<name>"', "pattern"),
        ("permission_class = [AllowAny]", "permission_classes"),
        ("permissions_classes = [AllowAny]", "permission_classes"),
        ("histroy = History()", "history"),
        ('publishrate = "1/s"', "publish_rate"),
        ("def on_publis(self, user, message): pass", "on_publish"),
        ("async def can_subcribe(self, user): pass", "can_subscribe"),
        ("can_publsh = True", "can_publish"),
        ("@classmethod\n    def topic_for(cls, user): pass", "topics_for"),
    ],
)
def test_a_misspelt_attribute_is_reported_with_the_one_that_was_meant(
    declare, line, meant
):
    declare(f"class Room(Topic):\n    {line}")

    warning = only(checks.check_misspelt_names(None), "tiderace.W024")

    assert "chat.topics.Room." in warning.msg
    assert f"did you mean {meant!r}?" in warning.msg


@pytest.mark.parametrize(
    ("base", "line", "meant"),
    [
        ("TopicsEndpoint", "def on_conect(self, user, data): pass", "on_connect"),
        ("TopicsEndpoint", "allowed_origin = []", "allowed_origins"),
        (
            "BasePermission",
            "def has_permissions(self, u, t, a): pass",
            "has_permission",
        ),
    ],
)
def test_a_misspelt_hook_beside_topics_is_reported(declare, base, line, meant):
    declare(f"class Mine({base}):\n    {line}")

    warning = only(checks.check_misspelt_names(None), "tiderace.W024")

    assert f"did you mean {meant!r}?" in warning.msg


def test_names_of_an_application_are_no_misspelt_options(declare):
    declare("""
class Room(Topic):
    pattern = "room:<name>"
    permission_classes = [AllowAny]
    message = dict
    history_size = 100
    max_users = 5
    can_edit_all = True
    published = False
    patterns = ["its own, beside the option"]

    async def messages(self): ...
    async def can_edit(self, user): ...
    def _patern(self): ...

    @rpc
    async def rename(self, to: str): ...

class Vip(Room):
    pattern = "vip:<name>"
""")

    assert checks.check_misspelt_names(None) == []


def test_a_topic_without_permissions_is_reported(declare):
    declare('class Room(Topic):\n    pattern = "room:<name>"')

    warning = only(checks.check_forbidding_topics(None), "tiderace.W025")

    assert "chat.topics.Room" in warning.msg
    assert "permission_classes = [IsAuthenticated]" in warning.hint


@pytest.mark.parametrize(
    "line",
    [
        "permission_classes = [IsStaff]",
        "async def can_subscribe(self, user): return True",
        "require_token = True",
    ],
)
def test_a_topic_that_somebody_may_subscribe_to_is_not_reported(declare, line):
    declare(f'class Room(Topic):\n    pattern = "room:<name>"\n    {line}')

    assert checks.check_forbidding_topics(None) == []


def test_a_topic_class_without_a_pattern_is_reported(declare):
    declare("class Room(Topic):\n    permission_classes = [AllowAny]")

    warning = only(checks.check_patterns(None), "tiderace.W026")

    assert "chat.topics.Room has no pattern" in warning.msg


def test_a_base_class_needs_no_pattern(declare):
    declare('class Base(Topic): ...\nclass Room(Base):\n    pattern = "room:<name>"')

    assert checks.check_patterns(None) == []


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        ("room:{name}", "'{name}'"),
        ("room:(?P<name>\\w+)", "'(?P'"),
        ("^room$", "'^'"),
        ("room:%s", "'%s'"),
        ("room:*", "'*'"),
    ],
)
def test_a_pattern_in_another_notation_is_reported(declare, pattern, part):
    declare(f"class Room(Topic):\n    pattern = {pattern!r}")

    warning = only(checks.check_patterns(None), "tiderace.W027")

    assert part in warning.msg
    assert "room:<slug:name>" in warning.hint


def publishing(monkeypatch, **options):
    """The messages about a model with these options."""
    module = ModuleType("chat.models")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    apps = Apps()
    meta = type("Meta", (), {"app_label": "chat", "apps": apps})
    text = models.TextField()
    attributes = {"__module__": module.__name__, "Meta": meta, "text": text, **options}
    module.Note = type("Note", (PublishesChanges,), attributes)
    return checks.check_published_fields(None)


@pytest.mark.parametrize(
    ("options", "problem", "hint"),
    [
        (
            {"publish_fields": "text"},
            "is 'text', a string",
            'publish_fields = ["text"]',
        ),
        (
            {"publish_fields": ["txt"]},
            "'txt', which is no field; did you mean 'text'?",
            "",
        ),
        ({"publish_on": ["room"]}, "publish_on names 'room'", "such as id, text"),
    ],
)
def test_a_model_that_publishes_what_is_no_field_is_reported(
    monkeypatch, options, problem, hint
):
    warning = only(publishing(monkeypatch, **options), "tiderace.W030")

    assert "chat.models.Note.publish_" in warning.msg
    assert problem in warning.msg
    assert hint in warning.hint


def test_fields_and_properties_of_a_model_may_be_published(monkeypatch):
    options = {"publish_fields": ["id", "text", "short"], "publish_on": ("text",)}

    assert publishing(monkeypatch, short=property(str), **options) == []


ROOM = 'class Room(Topic):\n    pattern = "room:<name>"'
LAYERS = {"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}}


@pytest.mark.parametrize("layers", [{}, {"other": LAYERS["default"]}])
def test_topics_without_a_default_layer_are_an_error(declare, layers):
    declare(ROOM)

    with override_settings(CHANNEL_LAYERS=layers):
        error = only(checks.check_layers_of_topics(None), "tiderace.E028")

    assert "channel layer 'default', which CHANNEL_LAYERS lacks" in error.msg
    assert 'CHANNEL_LAYERS = {"default": {"BACKEND"' in error.hint


def test_a_topic_whose_layer_is_not_configured_is_an_error(declare):
    declare(f'{ROOM}\n    layer = "fast"')

    with override_settings(CHANNEL_LAYERS=LAYERS):
        error = only(checks.check_layers_of_topics(None), "tiderace.E028")

    assert "chat.topics.Room needs the channel layer 'fast'" in error.msg


def test_a_layer_without_streams_is_an_error_for_topics(declare):
    declare(ROOM)
    backend = f"{__name__}.GroupsOnly"

    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": backend}}):
        error = only(checks.check_layers_of_topics(None), "tiderace.E028")

    assert f"{backend!r} has no streams" in error.msg


@pytest.mark.parametrize(
    "layers", [LAYERS, {"default": {"BACKEND": "no.such.Layer"}}, ["no dict"]]
)
def test_a_layer_with_streams_and_what_other_checks_report_is_accepted(declare, layers):
    declare(ROOM)

    with override_settings(CHANNEL_LAYERS=layers):
        assert checks.check_layers_of_topics(None) == []


@override_settings(CHANNEL_LAYERS={})
def test_a_project_without_topics_gets_no_message(monkeypatch):
    monkeypatch.delitem(sys.modules, "tiderace.topics.declaration.topic")

    assert checks.check_layers_of_topics(None) == []
    assert checks.check_forbidding_topics(None) == []
    assert checks.check_patterns(None) == []
