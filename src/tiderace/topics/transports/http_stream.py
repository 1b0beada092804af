"""A topic client over an endless HTTP response, with commands in requests of their own.

::

    POST connection/http_stream     <first commands>

The response carries all replies and pushes.
"""

from __future__ import annotations

import asyncio

from tiderace import cluster, conf
from tiderace.delivery.outbox import FrameWriter
from tiderace.protocol.codec import Codec
from tiderace.protocol.codes import Close
from tiderace.protocol.messages import DisconnectPush, Push, Reply
from tiderace.protocol.stream_codecs import LINES
from tiderace.runtime.drain import process_drain
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import current
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected

# The most messages, and bytes, that wait while a command runs.
_QUEUE_LIMIT = 64
_QUEUE_SIZE = 1_048_576

_CLOSE_TIMEOUT = 2.0  # seconds for sending the reason of the end


class HttpStreamTransport:
    """Sends messages as parts of one response, and receives those that ``feed`` takes.

    Args:
        exchange: the request; its response has not begun.
        codec: encodes and decodes frames.
        user_id: the user of the request; later ones must come from the same user.
        prelude: sent before the first frame.
    """

    emulated = True
    writer: FrameWriter | None = None

    def __init__(
        self, exchange: HttpExchange, codec: Codec, user_id: str, prelude: bytes = b""
    ) -> None:
        self.codec = codec
        self._prelude = prelude
        self.user_id = user_id
        self._exchange = exchange
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._size = 0
        self._gone = False

    async def run(self, hooks: TopicHooks, content_type: bytes) -> None:
        """Serve the client, whose first commands were fed, until it ends."""
        await cluster.current().open()
        await self._exchange.start_stream(content_type)
        self.writer = self._exchange.writer
        if self._prelude:
            await self.send(self._prelude)
        watcher = asyncio.get_running_loop().create_task(self._watch())
        try:
            await current().serve(hooks, self._exchange.scope, self)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def accept(self) -> bool:
        return True  # ``run`` has begun the response

    def feed(self, message: bytes) -> bool:
        """Queue a message for ``receive``; return False when too much is queued."""
        number = self._messages.qsize()
        # A message always fits into an empty queue: its size has a limit of its own.
        if number and (
            number >= _QUEUE_LIMIT or self._size + len(message) > _QUEUE_SIZE
        ):
            return False
        self._size += len(message)
        self._messages.put_nowait(message)
        return True

    async def receive(self) -> bytes | None:
        message = None if self._gone else await self._messages.get()
        if message is not None:
            self._size -= len(message)
        return message

    def message_of(self, received: bytes | None) -> bytes | None:
        return received

    async def send(self, message: bytes) -> None:
        await self._exchange.write(message)

    async def close(self, close: Close) -> None:
        """Send the reason as a push, and end the response."""
        if self._gone:
            return
        push = DisconnectPush(
            code=close.code, reason=close.reason, reconnect=close.reconnect
        )
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await self.send(self.codec.encode(Reply(push=Push(disconnect=push))))
            await self._exchange.end()

    async def _watch(self) -> None:
        await self._exchange.disconnected()
        self._gone = True
        self._messages.put_nowait(None)


async def serve(hooks: TopicHooks, exchange: HttpExchange) -> None:
    """Serve a client whose first commands are the body of a POST."""
    exchange.require_method("POST")
    refuse_while_draining()
    codec = exchange.protobuf_codec() or LINES
    first = await exchange.body(conf.current().topics.frame_size)
    if not first:
        raise Rejected(400, "the body must hold the first commands")
    transport = HttpStreamTransport(exchange, codec, await exchange.user_id())
    transport.feed(first)
    del first  # it may contain a token, and error reports show local variables
    await transport.run(hooks, exchange.content_type.encode())


def refuse_while_draining() -> None:
    """Refuse a client while this process drains.

    Raises:
        Rejected: during a drain (503).
    """
    if process_drain.draining:
        raise Rejected(
            503, "the server is stopping, come back", [(b"retry-after", b"1")]
        )
