"""The contract of a transport, which receives and sends a topic client's messages."""

from __future__ import annotations

from typing import Protocol

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

    async def receive(self) -> bytes | None:
        """Return the next message of the client; None when it is gone."""

    async def send(self, message: bytes) -> None:
        """Send a message; waits while the client reads slowly.

        Raises:
            OSError: when the client is gone.
        """

    async def close(self, close: Close) -> None:
        """Send the reason, and close the connection."""
