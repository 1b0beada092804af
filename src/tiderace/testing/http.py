"""One HTTP request to an application, without a server.

For cookies and redirects, use Django's test client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from tiderace.testing.application import ApplicationCommunicator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tiderace.asgi import ASGIApp


class HttpCommunicator(ApplicationCommunicator):
    """Sends one request and collects the response.

    ``path`` may have a query string. ``body`` is sent in one event; for several, use
    ``send_input``.
    """

    def __init__(
        self,
        application: ASGIApp,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Iterable[tuple[bytes, bytes]] | None = None,
        *,
        cancel_on_timeout: bool = True,
    ) -> None:
        assert isinstance(body, bytes), f"body must be bytes, not {type(body)}"
        parsed = urlparse(path)
        self.body = body
        self.sent_request = False
        super().__init__(
            application,
            {
                "type": "http",
                "http_version": "1.1",
                "method": method.upper(),
                "path": unquote(parsed.path),
                "query_string": parsed.query.encode(),
                "headers": headers or [],
            },
            cancel_on_timeout=cancel_on_timeout,
        )

    async def get_response(self, timeout: float | None = 1) -> dict[str, Any]:
        """Send the request (once) and return ``status``, ``headers`` and ``body``.

        ``timeout`` is for each event of the response, in seconds.

        Raises:
            TimeoutError: when a part does not come in time.
            Exception: what the application raised.
        """
        if not self.sent_request:
            self.sent_request = True
            await self.send_input({"type": "http.request", "body": self.body})
        start = await self.receive_output(timeout)
        assert start["type"] == "http.response.start", (
            f"expected 'http.response.start', but the application sent {start['type']!r}"
        )
        parts: list[bytes] = []
        more = True
        while more:
            part = await self.receive_output(timeout)
            assert part["type"] == "http.response.body", (
                f"expected 'http.response.body', but the application sent "
                f"{part['type']!r}"
            )
            data = part.get("body", b"")
            assert isinstance(data, bytes), f"the body is {type(data)}, not bytes"
            parts.append(data)
            more = part.get("more_body", False)
        response = {key: value for key, value in start.items() if key != "type"}
        response.setdefault("headers", [])
        response["body"] = b"".join(parts)
        return response
