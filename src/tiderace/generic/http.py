"""A consumer that answers one HTTP request, also slowly or in parts (long polling, SSE).

class Health(AsyncHttpConsumer):
    async def handle(self, body):
        await self.send_response(200, b"ok", headers={b"content-type": b"text/plain"})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings

from tiderace import conf
from tiderace.asgi import Event
from tiderace.consumer import AsyncConsumer
from tiderace.exceptions import StopConsumer
from tiderace.runtime.sync_bridge import callable_in_threads

__all__ = ["AsyncHttpConsumer"]

Header = tuple[bytes, bytes]


class AsyncHttpConsumer(AsyncConsumer):
    """Handles one request: override ``handle`` and send the response there.

    A body larger than the setting ``DATA_UPLOAD_MAX_MEMORY_SIZE`` is answered with 413;
    override ``http_request`` to take a larger one in parts.

    No other event is handled while ``handle`` runs, and the consumer ends after it. A
    ``handle`` that is a plain ``def`` runs in a thread, where the ``send`` methods need
    no ``await``.

    Attributes:
        body: the parts of the request's body received so far.
    """

    # Whether disconnect() has been called for this request.
    _ended = False
    # Bytes of the body received so far.
    _size = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.body: list[bytes] = []

    @callable_in_threads
    async def send_headers(
        self,
        *,
        status: int = 200,
        headers: Mapping[bytes, bytes] | Iterable[Header] | None = None,
    ) -> None:
        """Start the response; ``send_body`` must follow.

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

    @callable_in_threads
    async def send_body(self, body: bytes, *, more_body: bool = False) -> None:
        """Send a part of the response's body.

        Args:
            body: the part.
            more_body: whether another part follows; otherwise the response is complete.

        Raises:
            AssertionError: when ``body`` is not bytes.
        """
        if not isinstance(body, bytes):
            raise AssertionError("Body is not bytes")
        await self.send(
            {"type": "http.response.body", "body": body, "more_body": more_body}
        )

    @callable_in_threads
    async def send_response(self, status: int, body: bytes, **kwargs: Any) -> None:
        """Send a whole response; ``kwargs`` are those of ``send_headers``."""
        await self.send_headers(status=status, **kwargs)
        await self.send_body(body)

    async def handle(self, body: bytes) -> None:
        """Answer the request, whose whole body is ``body``; to be overridden."""
        raise NotImplementedError(
            "Subclasses of AsyncHttpConsumer must provide a handle() method."
        )

    async def disconnect(self) -> None:
        """Called once when the request has ended, for any reason; nothing can be sent."""

    async def http_request(self, message: Event) -> None:
        """Collect a part of the request; call ``handle`` when it is complete."""
        if "body" in message:
            self.body.append(message["body"])
            self._size += len(message["body"])
            limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE if conf.configured() else None
            if limit is not None and self._size > limit:
                self.body.clear()
                await self._refuse_body()
        if not message.get("more_body"):
            try:
                await self._call(self.handle, b"".join(self.body))
            finally:
                await self._disconnect_once()
            raise StopConsumer

    async def _refuse_body(self) -> None:
        try:
            await self.send_response(413, b"Content Too Large")
        finally:
            await self._disconnect_once()
        raise StopConsumer

    async def http_disconnect(self, message: Event) -> None:
        """End: the client has disconnected, or has received the response."""
        await self._disconnect_once()
        raise StopConsumer

    async def _disconnect_once(self) -> None:
        # http.disconnect follows if on_error() lets the connection go on after handle().
        if not self._ended:
            self._ended = True
            await self._call(self.disconnect)
