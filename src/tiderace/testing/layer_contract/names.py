"""Tests of channel and group names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tiderace.testing.layer_contract.base import Contract, raises

_VALID_GROUPS = ("a", "Z", "0", "room-1", "room_1", "room.1", ".", "-", "x" * 99)
_VALID_CHANNELS = (
    *_VALID_GROUPS,
    "specific.x!y",
    "specific!",
    "!".join(("a", "b" * 9)),
)
_INVALID_NAMES: tuple[object, ...] = (
    "",
    " ",
    "two words",
    "line\n",
    "a/b",
    "a:b",
    "ann@example.org",
    "caf\u00e9",
    "\u0661",  # a digit, but not an ASCII one
    "x" * 100,
    "a!b!c",
    "!a",
    None,
    7,
    b"bytes",
    ["list"],
)


class NamesContract(Contract):
    """All methods accept the same names; the error describes the valid ones."""

    async def test_every_valid_name_is_accepted(self, layer: Any) -> None:
        for name in _VALID_CHANNELS:
            assert layer.require_valid_channel_name(name), name
        for name in _VALID_GROUPS:
            assert layer.require_valid_group_name(name), name
            await layer.group_send(name, {"type": "greet"})
            await layer.send(name, {"type": "greet"})

    async def test_an_invalid_channel_name_is_refused(self, layer: Any) -> None:
        text = layer.invalid_name_error.format("Channel")
        for name in _INVALID_NAMES:
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda name=name: layer.send(name, {"type": "greet"}),  # type: ignore[misc]
                lambda name=name: layer.group_add("room", name),  # type: ignore[misc]
                lambda name=name: layer.group_discard("room", name),  # type: ignore[misc]
            ]
            if not isinstance(name, list):
                calls.append(lambda name=name: layer.receive(name))  # type: ignore[misc]
            for call in calls:
                with raises(TypeError) as raised:
                    await self.wait_for(call())
                assert str(raised.error) == text, name

    async def test_an_invalid_group_name_is_refused(self, layer: Any) -> None:
        text = layer.invalid_name_error.format("Group")
        for name in (*_INVALID_NAMES, "specific.x!y"):
            if isinstance(name, list):
                continue
            for call in (
                layer.group_add(name, "queue"),
                layer.group_discard(name, "queue"),
                layer.group_send(name, {"type": "greet"}),
            ):
                with raises(TypeError) as raised:
                    await self.wait_for(call)
                assert str(raised.error) == text, name
