"""Which names of channels and groups a layer takes, and how it refuses the others.

It knows nothing of what is sent there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tiderace.testing.layer_contract.base import Contract, refused

__all__ = ["NamesContract"]

_LEGAL_GROUPS = ("a", "Z", "0", "room-1", "room_1", "room.1", ".", "-", "x" * 99)
_LEGAL_CHANNELS = (
    *_LEGAL_GROUPS,
    "specific.x!y",
    "specific!",
    "!".join(("a", "b" * 9)),
)
_ILLEGAL_NAMES: tuple[object, ...] = (
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
    """A name is taken everywhere or nowhere, and the error says which are."""

    async def test_every_legal_name_is_taken(self, layer: Any) -> None:
        for name in _LEGAL_CHANNELS:
            assert layer.require_valid_channel_name(name), name
        for name in _LEGAL_GROUPS:
            assert layer.require_valid_group_name(name), name
            await layer.group_send(name, {"type": "greet"})
            await layer.send(name, {"type": "greet"})

    async def test_an_illegal_channel_name_is_refused(self, layer: Any) -> None:
        text = layer.invalid_name_error.format("Channel")
        for name in _ILLEGAL_NAMES:
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda name=name: layer.send(name, {"type": "greet"}),  # type: ignore[misc]
                lambda name=name: layer.group_add("room", name),  # type: ignore[misc]
                lambda name=name: layer.group_discard("room", name),  # type: ignore[misc]
            ]
            if not isinstance(name, list):
                calls.append(lambda name=name: layer.receive(name))  # type: ignore[misc]
            for call in calls:
                with refused(TypeError) as refusal:
                    await self.soon(call())
                assert str(refusal.error) == text, name

    async def test_an_illegal_group_name_is_refused(self, layer: Any) -> None:
        text = layer.invalid_name_error.format("Group")
        for name in (*_ILLEGAL_NAMES, "specific.x!y"):
            if isinstance(name, list):
                continue
            for call in (
                layer.group_add(name, "queue"),
                layer.group_discard(name, "queue"),
                layer.group_send(name, {"type": "greet"}),
            ):
                with refused(TypeError) as refusal:
                    await self.soon(call)
                assert str(refusal.error) == text, name
