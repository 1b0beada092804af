"""The contract of a transport, which receives and sends a topic client's messages."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from tiderace.delivery.outbox import FrameWriter
from tiderace.protocol.codec import Codec
from tiderace.protocol.codes import Close


class Transport(Protocol):
    """Carries the messages of one client."""

    codec: Codec
    writer: FrameWriter | None
    """The server's writer of finished frames, where it has one."""
    emulated: bool
    """Whether the client sends its commands in requests of their own."""

    async def accept(self) -> bool:
        """Accept the client; return False when the connection has ended."""

    def receive(self) -> Awaitable[Any]:
        """Return an awaitable of the next message, in the transport's own form.

        A transport may return the server's ``receive()`` as it is, which saves a
        coroutine for each idle client.
        """

    def message_of(self, received: Any) -> bytes | None:
        """Return the message in what ``receive`` returned; None when the client is gone.

        The caller passes each result of ``receive`` to it once.
        """

    async def send(self, message: bytes) -> None:
        """Send a message; waits while the client reads slowly.

        Raises:
            OSError: when the client is gone.
        """

    async def close(self, close: Close) -> None:
        """Send the reason, and close the connection."""
