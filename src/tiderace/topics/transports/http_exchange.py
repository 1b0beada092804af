"""One HTTP request to a topics endpoint, and its response."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol
from urllib.parse import ParseResult

from django.http import QueryDict

from tiderace import conf
from tiderace.asgi import Receive, Scope, Send
from tiderace.delivery.outbox import FrameWriter
from tiderace.protocol.stream_codecs import protobuf
from tiderace.runtime.tasks import wait_in_time
from tiderace.security.origins import header, log_refusal, parse, site_of
from tiderace.security.page_origins import origin_problem
from tiderace.security.websocket import OriginValidator
from tiderace.topics.identity import identity_of

if TYPE_CHECKING:
    from tiderace.protocol.protobuf import ProtobufCodec

logger = logging.getLogger("tiderace.topics")

_JSON = "application/json"
_PROTOBUF = "application/octet-stream"

# The headers that pages of other sites may send; all but the first are for proxies and
# middleware in front of the endpoint.
_REQUEST_HEADERS = b"content-type, last-event-id, authorization, x-requested-with"
_PREFLIGHT_MAX_AGE = b"7200"  # seconds; Chromium's limit


class Rejected(Exception):
    """A request is answered with an error.

    Args:
        status: of the response.
        why: the body, in plain text.
        headers: of the response.
    """

    def __init__(
        self, status: int, why: str, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        super().__init__(why)
        self.status = status
        self.headers = list(headers)


class PartWriter(FrameWriter, Protocol):
    """Writes finished parts of a response: the contract of ``ServerPartWriter``."""

    async def close(self) -> None:
        """Wait until everything was written, and take no more."""


class HttpExchange:
    """Reads a request and sends its response.

    Args:
        scope: of the request.
        receive: ASGI's.
        send: ASGI's.
        origins: decides which pages may send requests.
        named: further origins whose pages may, where ``origins`` checks hosts alone.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        origins: OriginValidator,
        named: Iterable[str | re.Pattern[str]] | None = None,
    ) -> None:
        self.scope = scope
        self.origins = origins
        self._named = named
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self._cors: list[tuple[bytes, bytes]] = []
        # The server's writer, if it has one, of an endless response that has begun.
        self.writer: PartWriter | None = None

    # The request

    def header(self, wanted: bytes) -> str | None:
        """Return the last header of this name, or None."""
        return header(self.scope, wanted)

    @property
    def content_type(self) -> str:
        """The type of the body, in lower case and without parameters."""
        value = self.header(b"content-type") or ""
        return value.partition(";")[0].strip().lower()

    def protobuf_codec(self) -> ProtobufCodec | None:
        """Return the codec of a Protobuf body; None for JSON.

        Raises:
            Rejected: for another type, and for Protobuf without its extra (415).
        """
        if self.content_type == _JSON:
            return None
        if self.content_type != _PROTOBUF:
            raise Rejected(
                415, f"the content type must be {_JSON} or {_PROTOBUF} (Protobuf)"
            )
        codec = protobuf(_PROTOBUF)
        if codec is None:
            raise Rejected(415, f"{_PROTOBUF} is not served here, use {_JSON}")
        return codec

    @cached_property
    def query(self) -> QueryDict:
        """The query string."""
        return QueryDict(bytes(self.scope.get("query_string") or b""), encoding="utf-8")

    async def body(self, limit: int) -> bytes:
        """Return the whole body.

        Raises:
            Rejected: when it is longer than ``limit`` bytes (413), or has not arrived
                within ``CONNECT_TIMEOUT`` (408).
            ConnectionResetError: when the client leaves before its end.
        """
        timeout = conf.current().topics.connect_timeout
        try:
            return await wait_in_time(self._read_body(limit), timeout)
        except TimeoutError:
            raise Rejected(
                408, f"the body has not arrived within {timeout:g} s"
            ) from None

    async def _read_body(self, limit: int) -> bytes:
        too_long = Rejected(413, f"the body is longer than {limit} bytes")
        length = self.header(b"content-length") or ""
        if length.isdecimal() and (len(length) > 18 or int(length) > limit):
            raise too_long
        body, more = bytearray(), True
        while more:
            event = await self.receive()
            if event["type"] != "http.request":
                raise ConnectionResetError("the client left before the end")
            body += event.get("body", b"")
            if len(body) > limit:
                raise too_long
            more = event.get("more_body", False)
        return bytes(body)

    async def disconnected(self) -> None:
        """Wait until the client is gone, after the body was read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def user_id(self) -> str:
        """Return the id of the session's user; empty without one."""
        return (await identity_of(self.scope, "")).user_id

    def require_method(self, *methods: str) -> None:
        """Refuse a request with another method than these.

        Raises:
            Rejected: for such a request (405).
        """
        if self.method not in methods:
            allowed = ", ".join(methods)
            raise Rejected(405, f"use {allowed}", [(b"allow", allowed.encode())])

    def check_origin(self) -> None:
        """Raise for a request of a page that may not use topics; it is logged.

        Raises:
            Rejected: 403.
        """
        site = site_of(self.scope)
        problem = origin_problem(self.scope, self.origins, self._named, site)
        if problem is not None:
            log_refusal(logger, self.scope, problem)
            raise Rejected(403, f"refused: {problem.reason}")
        origin = self.header(b"origin")
        if origin is not None:
            self._cors = _cors(self.origins, origin, parse(origin))

    # The response

    async def start(
        self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Begin the response, which no cache may store."""
        no_store = (b"cache-control", b"no-store, no-transform")
        every = [no_store, *self._cors, *headers]
        await self.send(
            {"type": "http.response.start", "status": status, "headers": every}
        )

    async def start_stream(self, content_type: bytes) -> None:
        """Begin an endless response, which no proxy may buffer."""
        await self.start(
            200, [(b"content-type", content_type), (b"x-accel-buffering", b"no")]
        )
        parts = (self.scope.get("extensions") or {}).get("tiderace.parts")
        self.writer = None if parts is None else parts.open()

    async def write(self, part: bytes) -> None:
        """Send a part of the response; waits while the client reads slowly.

        Raises:
            OSError: when the client is gone.
        """
        writer = self.writer
        if writer is not None:
            writer.write(writer.binary_frame(part))
            if writer.congested:
                await writer.drained()
            return
        try:
            # Inlined _send_body: that saves a coroutine for each part.
            await self.send(
                {"type": "http.response.body", "body": part, "more_body": True}
            )
        except RuntimeError as error:
            # Raised by servers after the connection is gone.
            raise OSError(str(error)) from error

    async def end(self) -> None:
        """End the response."""
        if self.writer is not None:
            await self.writer.close()
        await self._send_body(b"", more=False)

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(
        self,
        status: int,
        body: bytes = b"",
        *,
        content_type: bytes = b"text/plain; charset=utf-8",
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Send a whole response."""
        all_headers = list(headers)
        if status != 204:
            all_headers += [
                (b"content-type", content_type),
                (b"content-length", str(len(body)).encode()),
            ]
        await self.start(status, all_headers)
        await self._send_body(body, more=False)

    async def answer_preflight(self) -> None:
        """Answer a CORS preflight with the methods and headers that pages may send."""
        await self.answer(
            204,
            headers=[
                (b"access-control-allow-methods", b"GET, POST"),
                (b"access-control-allow-headers", _REQUEST_HEADERS),
                (b"access-control-max-age", _PREFLIGHT_MAX_AGE),
            ],
        )


def _cors(
    validator: OriginValidator, origin: str, parsed: ParseResult | None
) -> list[tuple[bytes, bytes]]:
    """Return the headers that let a page of ``origin`` read the response."""
    headers = [
        (b"access-control-allow-origin", origin.encode("latin1")),
        (b"vary", b"origin"),
    ]
    # "*" allows pages of every site, and "null" sandboxed pages of every site, so the
    # patterns do not allow them to send cookies.
    if any(
        pattern not in ("*", "null") and validator.match_allowed_origin(parsed, pattern)
        for pattern in validator.allowed_origins
    ):
        headers.append((b"access-control-allow-credentials", b"true"))
    return headers
