"""Tests of message contents: supported values and the errors for others."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from enum import Enum
from typing import Any

from django.apps import apps
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from tiderace.testing.layer_contract.base import Contract, raises


class _Colour(Enum):
    RED = "red"


# Name: (value sent, value received).
_PLAIN_VALUES: dict[str, tuple[Any, Any]] = {
    "nothing": (None, None),
    "true": (True, True),
    "int": (2**63 - 1, 2**63 - 1),
    "negative": (-(2**63), -(2**63)),
    "float": (0.1, 0.1),
    "empty text": ("", ""),
    "unicode": ("\u65e5\u672c \U0001f30a \x00", "\u65e5\u672c \U0001f30a \x00"),
    "bytes": (b"\x00\xff", b"\x00\xff"),
    "list": ([1, [2, []]], [1, [2, []]]),
    "dict": ({"a": {"b": {}}}, {"a": {"b": {}}}),
    "tuple": ((1, (2,)), [1, [2]]),
    "set": ({1}, [1]),
    "safe text": (mark_safe("<b>"), "<b>"),
    "lazy text": (gettext_lazy("x-untranslated"), "x-untranslated"),
    "enum": (_Colour.RED, "red"),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "decimal": (Decimal("1.50"), "1.50"),
    "date": (datetime.date(2024, 2, 29), "2024-02-29"),
    "naive datetime": (datetime.datetime(2024, 2, 29, 12), "2024-02-29T12:00:00"),
    "aware datetime": (
        datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
        datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
    ),
}


class MessagesContract(Contract):
    """A message is delivered as it was sent, or refused by the sending method."""

    async def test_every_plain_value_is_delivered(self, layer: Any) -> None:
        for name, (sent, expected) in _PLAIN_VALUES.items():
            await layer.send("queue", {"type": "test", "value": sent})
            message = await self.receive(layer, "queue")
            assert message == {"type": "test", "value": expected}, name
            assert type(message["value"]) is type(expected), name

    async def test_every_plain_value_is_delivered_to_a_group(self, layer: Any) -> None:
        channel = await self.join(layer, "room")
        for name, (sent, expected) in _PLAIN_VALUES.items():
            await layer.group_send("room", {"type": "test", "value": sent})
            message = await self.receive(layer, channel)
            assert message["value"] == expected, name

    async def test_keys_that_are_not_strings_are_delivered_or_refused(
        self, layer: Any
    ) -> None:
        """An error on reading would come too late for the sender."""
        try:
            await layer.send("queue", {"type": "count", "by number": {1: "one"}})
        except TypeError:
            return

        message = await self.receive(layer, "queue")
        assert message["by number"] == {1: "one"}

    async def test_the_error_for_an_unsupported_value_contains_its_path(
        self, layer: Any
    ) -> None:
        for value in (object(), Exception("no"), 2**64, {1}.__iter__()):
            with raises(TypeError) as raised:
                await layer.send("queue", {"type": "test", "in": {"here": [1, value]}})
            assert "message['in']['here'][1]" in str(raised.error), value

    async def test_the_error_for_a_model_instance_contains_its_path_and_class(
        self, layer: Any
    ) -> None:
        # Any model of the project; the contract defines none.
        for model in apps.get_models()[:1]:
            with raises(TypeError) as raised:
                await layer.send("queue", {"type": "test", "user": model()})

            assert "message['user']" in str(raised.error)
            assert model.__qualname__ in str(raised.error)

    async def test_a_group_without_members_refuses_an_unsupported_value(
        self, layer: Any
    ) -> None:
        with raises(TypeError):
            await layer.group_send("empty", {"type": "test", "value": object()})

    async def test_a_refused_message_is_not_delivered_in_part(self, layer: Any) -> None:
        with raises(TypeError):
            await layer.send("queue", {"type": "test", "value": object()})

        assert await self.read_all(layer, "queue") == []

    async def test_a_message_that_is_not_a_dict_is_refused(self, layer: Any) -> None:
        for message in (None, "text", 7, [("type", "greet")], object()):
            with raises(AssertionError, TypeError):
                await layer.send("queue", message)
            with raises(AssertionError, TypeError):
                await layer.group_send("room", message)

    async def test_a_message_of_a_megabyte_is_delivered(self, layer: Any) -> None:
        text = "tide race " * 100_000

        await layer.send("queue", {"type": "test", "text": text})

        assert (await self.receive(layer, "queue"))["text"] == text

    async def test_later_changes_by_the_sender_do_not_reach_the_receiver(
        self, layer: Any
    ) -> None:
        message = {"type": "test", "list": [1], "dict": {"a": 1}}
        await layer.send("queue", message)

        message["list"].append(2)  # type: ignore[attr-defined]
        message["dict"].clear()  # type: ignore[attr-defined]

        assert await self.receive(layer, "queue") == {
            "type": "test",
            "list": [1],
            "dict": {"a": 1},
        }

    async def test_later_changes_by_the_sender_do_not_reach_the_group(
        self, layer: Any
    ) -> None:
        channel = await self.join(layer, "room")
        message = {"type": "test", "list": [1]}
        await layer.group_send("room", message)

        message["list"].append(2)  # type: ignore[attr-defined]

        assert await self.receive(layer, channel) == {
            "type": "test",
            "list": [1],
        }
