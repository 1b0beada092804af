"""A consumer that answers one HTTP request, in its own time and in parts.

It knows the events of HTTP, and nothing of WebSockets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tiderace.asgi import Event
from tiderace.consumer import AsyncConsumer, verb
from tiderace.exceptions import StopConsumer

__all__ = ["AsyncHttpConsumer"]

Header = tuple[bytes, bytes]


class AsyncHttpConsumer(AsyncConsumer):
    """Handles one request: override ``handle`` and send a response from it.

    No other event is handled while ``handle`` runs, and the consumer ends with it. A
    ``handle`` that is a plain ``def`` runs in a thread, where the verbs need no
    ``await``.
    """

    # Whether disconnect() has been called for this request.
    _over = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.body: list[bytes] = []

    @verb
    async def send_headers(
        self,
        *,
        status: int = 200,
        headers: Mapping[bytes, bytes] | Iterable[Header] | None = None,
    ) -> None:
        """Begin the response; the body must follow.

        Args:
            status: the HTTP status.
            headers: names and values as bytes, as a mapping or as pairs.
        """
        pairs: Iterable[Header]
        if headers is None:
            pairs = []
        elif isinstance(headers, Mapping):
            pairs = list(headers.items())
        else:
            pairs = headers
        await self.send(
            {"type": "http.response.start", "status": status, "headers": pairs}
        )

    @verb
    async def send_body(self, body: bytes, *, more_body: bool = False) -> None:
        """Send a part of the body, the last one unless ``more_body``.

        Raises:
            AssertionError: when ``body`` is not bytes.
        """
        if not isinstance(body, bytes):
            raise AssertionError("Body is not bytes")
        await self.send(
            {"type": "http.response.body", "body": body, "more_body": more_body}
        )

    @verb
    async def send_response(self, status: int, body: bytes, **kwargs: Any) -> None:
        """Send a whole response; ``kwargs`` go to ``send_headers``."""
        await self.send_headers(status=status, **kwargs)
        await self.send_body(body)

    async def handle(self, body: bytes) -> None:
        """Answer the request whose whole body is ``body``; to be overridden."""
        raise NotImplementedError(
            "Subclasses of AsyncHttpConsumer must provide a handle() method."
        )

    async def disconnect(self) -> None:
        """Called when the request is over, however it ended; send nothing from here."""

    async def http_request(self, message: Event) -> None:
        """A part of the request arrived; calls ``handle`` when it is complete."""
        if "body" in message:
            self.body.append(message["body"])
        if not message.get("more_body"):
            try:
                await self._call(self.handle, b"".join(self.body))
            finally:
                await self._disconnect_once()
            raise StopConsumer

    async def http_disconnect(self, message: Event) -> None:
        """The client went away, or has its response."""
        await self._disconnect_once()
        raise StopConsumer

    async def _disconnect_once(self) -> None:
        # Where on_error() lets the connection go on after handle(), http.disconnect
        # is still to come.
        if not self._over:
            self._over = True
            await self._call(self.disconnect)
