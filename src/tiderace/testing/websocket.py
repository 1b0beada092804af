"""One WebSocket connection to an application, without a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlparse

from tiderace.testing.application import ApplicationCommunicator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from tiderace.asgi import ASGIApp


class WebsocketCommunicator(ApplicationCommunicator):
    """A client of ``application`` at ``path``, which may have a query string.

    The keywords fill the scope as middleware and router would, so that a consumer can
    be tested alone::

        socket = WebsocketCommunicator(
            ChatConsumer.as_asgi(), "/ws/chat/tea/",
            user=alice, url_route={"kwargs": {"room": "tea"}},
        )

    ``user`` and ``session`` become ``scope["user"]`` and ``scope["session"]``;
    authentication and session middleware keep them. ``url_route`` becomes
    ``scope["url_route"]``; ``args`` and ``kwargs`` are empty by default.

    As an asynchronous context manager it connects, and disconnects at the end::

        async with WebsocketCommunicator(application, "/ws/") as socket:
            await socket.send_json_to({"hello": "world"})
    """

    def __init__(
        self,
        application: ASGIApp,
        path: str,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
        subprotocols: Iterable[str] | None = None,
        spec_version: str | int | None = None,
        *,
        user: Any = None,
        session: Any = None,
        url_route: Mapping[str, Any] | None = None,
        cancel_on_timeout: bool = True,
    ) -> None:
        if not isinstance(path, str):
            raise TypeError(f"Expected str, got {type(path)}")
        parsed = urlparse(path)
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": unquote(parsed.path),
            "query_string": parsed.query.encode(),
            "headers": headers or [],
            "subprotocols": subprotocols or [],
        }
        if spec_version:
            scope["spec_version"] = spec_version
        if user is not None:
            scope["user"] = user
        if session is not None:
            scope["session"] = session
        if url_route is not None:
            scope["url_route"] = {"args": (), "kwargs": {}, **url_route}
        super().__init__(application, scope, cancel_on_timeout=cancel_on_timeout)
        self.response_headers: Any = None
        self._offered = tuple(scope["subprotocols"])

    def login(self, user: Any) -> None:
        """Set ``scope["user"]``, as the keyword ``user`` does.

        No session is created and no database is used.

        Raises:
            RuntimeError: when the application has started.
        """
        if self._future is not None:
            raise RuntimeError("login() comes too late: the connection is open already")
        self.scope["user"] = user

    async def connect(self, timeout: float | None = 1) -> tuple[bool, int | str | None]:
        """Open the connection.

        Returns:
            ``(True, subprotocol)`` when the application accepted, with None for no
            subprotocol; ``(False, code)`` when it refused, with the close code (1000
            by default), or the HTTP status if the application used the extension
            ``websocket.http.response``.

        Raises:
            AssertionError: when it accepted with a subprotocol that was not offered.
            TimeoutError: when it did neither in ``timeout`` seconds.
            Exception: what the application raised.
        """
        await self.send_input({"type": "websocket.connect"})
        response = await self.receive_output(timeout)
        if response["type"] == "websocket.close":
            return False, response.get("code", 1000)
        if response["type"] == "websocket.http.response.start":
            self.response_headers = response.get("headers", [])
            return False, response["status"]
        assert response["type"] == "websocket.accept", (
            f"expected 'websocket.accept', but the application sent "
            f"{response['type']!r}"
        )
        self.response_headers = response.get("headers", [])
        subprotocol = response.get("subprotocol")
        assert not subprotocol or subprotocol in self._offered, (
            f"the application accepted with the subprotocol {subprotocol!r}, which was "
            f"not offered; offered: {self._offered}"
        )
        return True, subprotocol

    async def send_to(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Send one frame: text or bytes, not both and not empty."""
        assert bool(text_data) != bool(bytes_data), (
            "You must supply exactly one of text_data or bytes_data"
        )
        if text_data:
            assert isinstance(text_data, str), "The text_data argument must be a str"
            await self.send_input({"type": "websocket.receive", "text": text_data})
        else:
            assert isinstance(bytes_data, bytes), (
                "The bytes_data argument must be bytes"
            )
            await self.send_input({"type": "websocket.receive", "bytes": bytes_data})

    async def send_json_to(self, data: Any) -> None:
        """Send ``data`` as JSON in a text frame."""
        await self.send_to(text_data=json.dumps(data))

    async def receive_from(self, timeout: float | None = 1) -> str | bytes:
        """Return the payload of the next frame.

        Raises:
            AssertionError: when the application closed the socket instead.
            TimeoutError: when nothing came in ``timeout`` seconds.
            Exception: what the application raised.
        """
        event = await self.receive_output(timeout)
        assert event["type"] == "websocket.send", (
            f"Expected type 'websocket.send', but was '{event['type']}'"
        )
        return _frame(event)

    async def receive_json_from(self, timeout: float | None = 1) -> Any:
        """Return the decoded JSON of the next frame; raises as ``receive_from``."""
        payload = await self.receive_from(timeout)
        assert isinstance(payload, str), (
            f"JSON data is not a text frame, it is {type(payload)}"
        )
        return json.loads(payload)

    async def disconnect(self, code: int = 1000, timeout: float | None = 1) -> None:
        """Close the connection as a client would, and wait for the application to end.

        Raises:
            TimeoutError: when the application did not end in ``timeout`` seconds.
            CancelledError: when an earlier receive timed out and cancelled it.
            Exception: what the application raised.
        """
        await self.send_input({"type": "websocket.disconnect", "code": code})
        await self.wait(timeout)

    async def __aenter__(self) -> Self:
        accepted, detail = await self.connect()
        if not accepted:
            await self._cancel()
            raise ConnectionRefusedError(
                f"the application refused {self.scope['path']!r} with {detail}; "
                f"to test a refusal, call connect()"
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            # The error of the block takes precedence.
            await self._cancel()
        elif not self.future.done():
            await self.disconnect()
        elif not self.future.cancelled():
            self.future.result()


def _frame(event: Any) -> str | bytes:
    """Return the payload of ``websocket.send``, checked against the specification.

    The other key may be None, as some applications send it.
    """
    text, data = event.get("text"), event.get("bytes")
    assert (text is None) != (data is None), (
        "The response needs exactly one of 'text' or 'bytes'"
    )
    if text is not None:
        assert isinstance(text, str), (
            f"Text frame payload is not str, it is {type(text)}"
        )
        return text
    assert isinstance(data, bytes), (
        f"Binary frame payload is not bytes, it is {type(data)}"
    )
    return data
