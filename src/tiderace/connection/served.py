"""What a connection needs of its consumer, and how messages find their handlers.

It knows neither the consumers that applications write nor what serves them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Protocol

from tiderace.asgi import Event, Scope

__all__ = ["Access", "ConsumerProtocol", "get_handler_name"]


def get_handler_name(message: Event) -> str:
    """The method that handles ``message``: its type with dots as underscores.

    Raises:
        ValueError: for a message without a type, or with one that would name a
            private attribute.
    """
    if "type" not in message:
        raise ValueError("Incoming message has no 'type' attribute")
    name = str(message["type"]).replace(".", "_")
    if name.startswith("_"):
        raise ValueError("Malformed type in message (leading underscore)")
    return name


class Access(Enum):
    """What a message of the layer may do with a method."""

    REFUSED = "not call it"
    IN_TURN = "call it, after the messages before it"
    CONCURRENT = "call it beside others"


class ConsumerProtocol(Protocol):
    """What a connection needs of its consumer.

    Names of ours begin with an underscore, to leave the others to the application.
    """

    scope: Scope
    channel_layer: Any
    channel_name: str
    channel_receive: Callable[[], Awaitable[Any]]
    base_send: Callable[[Event], Any]
    accepts_broadcasts: bool
    # The ``Connection`` that serves it, which stands above this room.
    _connection: Any
    _sync: bool

    async def dispatch(self, message: Event) -> None:
        """Call the handler of ``message``."""

    async def _consult(self, error: Exception) -> None:
        """Let the application decide what ``error`` means."""

    def _route(self, message: Event) -> Callable[[Event], Any] | None:
        """The handler of a layer's message where nothing else is to be decided."""

    def _layer_access(self, name: str) -> Access:
        """What a message of the layer may do with the method ``name``."""
