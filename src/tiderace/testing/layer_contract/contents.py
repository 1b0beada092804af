"""What a message may hold, and how a layer refuses what it cannot carry.

It knows no order and no capacity.
"""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from enum import Enum
from typing import Any

from django.apps import apps
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from tiderace.testing.layer_contract.base import Contract, refused

__all__ = ["ContentsContract"]


class _Colour(Enum):
    RED = "red"


# What is sent, and what arrives.
_CARRIED: dict[str, tuple[Any, Any]] = {
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


class ContentsContract(Contract):
    """A message arrives as it was sent, or is refused where it is sent."""

    async def test_every_plain_value_is_carried(self, layer: Any) -> None:
        for what, (sent, arrives) in _CARRIED.items():
            await layer.send("queue", {"type": "carry", "value": sent})
            message = await self.soon(layer.receive("queue"))
            assert message == {"type": "carry", "value": arrives}, what
            assert type(message["value"]) is type(arrives), what

    async def test_a_group_message_carries_every_plain_value(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for what, (sent, arrives) in _CARRIED.items():
            await layer.group_send("room", {"type": "carry", "value": sent})
            message = await self.soon(layer.receive(channel))
            assert message["value"] == arrives, what

    async def test_keys_other_than_text_arrive_or_are_refused(self, layer: Any) -> None:
        """Never are they taken, only to fail where they are read."""
        try:
            await layer.send("queue", {"type": "count", "by number": {1: "one"}})
        except TypeError:
            return

        message = await self.soon(layer.receive("queue"))
        assert message["by number"] == {1: "one"}

    async def test_a_value_that_cannot_be_carried_is_refused_with_its_place(
        self, layer: Any
    ) -> None:
        for value in (object(), Exception("no"), 2**64, {1}.__iter__()):
            with refused(TypeError) as refusal:
                await layer.send("queue", {"type": "carry", "in": {"here": [1, value]}})
            assert "message['in']['here'][1]" in str(refusal.error), value

    async def test_a_model_instance_is_refused_with_its_place(self, layer: Any) -> None:
        # Whichever models the project has; the contract brings none.
        for model in apps.get_models()[:1]:
            with refused(TypeError) as refusal:
                await layer.send("queue", {"type": "carry", "user": model()})

            assert "message['user']" in str(refusal.error)
            assert model.__qualname__ in str(refusal.error)

    async def test_a_group_without_members_refuses_what_cannot_be_carried(
        self, layer: Any
    ) -> None:
        with refused(TypeError):
            await layer.group_send("nobody-here", {"type": "carry", "value": object()})

    async def test_a_refused_message_leaves_nothing_behind(self, layer: Any) -> None:
        with refused(TypeError):
            await layer.send("queue", {"type": "carry", "value": object()})

        assert await self.drain(layer, "queue") == []

    async def test_a_message_that_is_no_dict_is_refused(self, layer: Any) -> None:
        for message in (None, "text", 7, [("type", "greet")], object()):
            with refused(AssertionError, TypeError):
                await layer.send("queue", message)
            with refused(AssertionError, TypeError):
                await layer.group_send("room", message)

    async def test_a_megabyte_arrives_whole(self, layer: Any) -> None:
        text = "tide race " * 100_000

        await layer.send("queue", {"type": "carry", "text": text})

        assert (await self.soon(layer.receive("queue")))["text"] == text

    async def test_the_receiver_does_not_see_what_the_sender_changes_later(
        self, layer: Any
    ) -> None:
        message = {"type": "carry", "list": [1], "dict": {"a": 1}}
        await layer.send("queue", message)

        message["list"].append(2)  # type: ignore[attr-defined]
        message["dict"].clear()  # type: ignore[attr-defined]

        assert await self.soon(layer.receive("queue")) == {
            "type": "carry",
            "list": [1],
            "dict": {"a": 1},
        }

    async def test_the_members_do_not_see_what_the_sender_changes_later(
        self, layer: Any
    ) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        message = {"type": "carry", "list": [1]}
        await layer.group_send("room", message)

        message["list"].append(2)  # type: ignore[attr-defined]

        assert await self.soon(layer.receive(channel)) == {"type": "carry", "list": [1]}
