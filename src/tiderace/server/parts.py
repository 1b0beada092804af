"""Writes finished parts of HTTP responses, as frames are written to WebSockets."""

from __future__ import annotations

from typing import Any
from weakref import ref

from tiderace.server.writer import ServerFrameWriter, WriteScheduler


def part(payload: bytes) -> bytes:
    """Return a part of a response with chunked encoding (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class ServerPartWriter(ServerFrameWriter):
    """Takes parts of one HTTP response, as a frame writer takes frames.

    Its parts are those of any response with chunked encoding, so one is built once and
    written to any number of clients.
    """

    __slots__ = ()

    text_frame = binary_frame = staticmethod(part)

    async def close(self) -> None:
        """Wait until everything is in the transport's buffer, and take no more.

        The end of the response is sent with ASGI's ``send`` then. After a cancellation
        what is queued is dropped.
        """
        try:
            await self.drained()
            self.flush()
        finally:
            self.stop()


class ResponseParts:
    """Opens the writer of finished parts of a response.

    An HTTP scope has it as ``scope["extensions"]["tiderace.parts"]``.

    Args:
        protocol: the connection, an ``HttpProtocol``.
    """

    __slots__ = ("_protocol",)

    def __init__(self, protocol: Any) -> None:
        # The protocol holds this object by its scope: a strong reference would be a
        # cycle that only the garbage collector frees.
        self._protocol = ref(protocol)

    # Applications copy their scope, and pickle it for other processes. A copy has the
    # same object; in another process there is None.

    def __deepcopy__(self, memo: dict[int, Any]) -> ResponseParts:
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def open(self) -> ServerPartWriter | None:
        """Return the writer, after ``http.response.start`` was sent.

        From then on the body is only written with it, past the ``send`` of middleware,
        until it is closed. None for a response that is not sent in chunks, or whose body
        middleware encodes: it has to be sent with ``send``. None after the connection has
        ended, too.
        """
        protocol = self._protocol()
        if protocol is None:
            return None
        cycle = protocol.cycle
        if (
            # The client may have sent another request before this response has ended.
            cycle.scope["extensions"].get("tiderace.parts") is not self
            or not cycle.response_started
            or not cycle.chunked_encoding
            or cycle.scope["method"] == "HEAD"
            or cycle.encoded
            or cycle.response_complete
            or cycle.disconnected
        ):
            return None
        scheduler = WriteScheduler.of(protocol.server_state, protocol.loop)
        writer = ServerPartWriter(protocol.transport, scheduler)
        if cycle.flow.write_paused:
            writer.pause()
        writer.open()
        protocol.parts = writer
        return writer
