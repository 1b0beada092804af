"""A topic client over an endless HTTP response, whose commands come by requests of their own.

    POST connection/http_stream     the first commands; the response is what it hears

It knows how frames become parts of a response, and nothing of what they say.
"""

from __future__ import annotations

import asyncio

from tiderace import conf
from tiderace.protocol.codec import Codec
from tiderace.protocol.codes import Close
from tiderace.protocol.messages import DisconnectPush, Push, Reply
from tiderace.protocol.stream_codecs import LINES, protobuf
from tiderace.runtime.drain import process_drain
from tiderace.topics.client.client import serve_client
from tiderace.topics.client.outbox import Frames
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import current
from tiderace.topics.switchboard import switchboard
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected

__all__ = ["HttpStreamTransport", "refuse_while_draining", "serve"]

_JSON = "application/json"
_PROTOBUF = "application/octet-stream"

# Messages, and bytes, that may wait while a command is carried out.
_WAITING = 64
_WAITING_SIZE = 1_048_576

# Seconds for saying why it ends; who does not read is not waited for.
_LAST_WORDS = 2.0


class HttpStreamTransport:
    """See ``tiderace.topics.client.served.Transport`` and ``switchboard.Emulated``.

    Args:
        exchange: whose response it is; not begun yet.
        codec: how frames are written.
        user_id: whose session the client began with.
    """

    emulated = True
    frames: Frames | None = None
    # Before the first frame.
    prelude = b""

    def __init__(self, exchange: HttpExchange, codec: Codec, user_id: str) -> None:
        self.codec = codec
        self.user_id = user_id
        self._exchange = exchange
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._waiting = 0
        self._gone = False

    async def run(self, hooks: TopicHooks, content_type: bytes, first: bytes) -> None:
        """Serve the client from its first commands until it ends."""
        self.feed(first)
        await self._exchange.start_stream(content_type)
        if self.prelude:
            await self.send(self.prelude)
        watcher = asyncio.get_running_loop().create_task(self._watch())
        try:
            await serve_client(hooks, self._exchange.scope, self)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    def feed(self, message: bytes) -> bool:
        """See ``Emulated.feed``."""
        number = self._messages.qsize()
        # A single one always fits: how long it may be is a setting.
        if number and (
            number >= _WAITING or self._waiting + len(message) > _WAITING_SIZE
        ):
            return False
        self._waiting += len(message)
        self._messages.put_nowait(message)
        return True

    async def receive(self) -> bytes | None:
        """See ``Transport.receive``."""
        message = None if self._gone else await self._messages.get()
        if message is not None:
            self._waiting -= len(message)
        return message

    async def send(self, message: bytes) -> None:
        """See ``Transport.send``."""
        await self._exchange.write(message)

    async def close(self, close: Close) -> None:
        """See ``Transport.close``: here it is a push, and the end of the response."""
        if self._gone:
            return
        push = DisconnectPush(
            code=close.code, reason=close.reason, reconnect=close.reconnect
        )
        async with asyncio.timeout(_LAST_WORDS):
            await self.send(self.codec.encode(Reply(push=Push(disconnect=push))))
            await self._exchange.end()

    async def _watch(self) -> None:
        """Notice that the client is gone; a request says nothing else any more."""
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._messages.put_nowait(None)


async def serve(hooks: TopicHooks, exchange: HttpExchange) -> None:
    """Serve a client that has sent its first commands as the body of a POST."""
    exchange.require_method("POST")
    refuse_while_draining()
    codec: Codec | None = LINES
    if exchange.content_type == _PROTOBUF:
        codec = protobuf(_PROTOBUF)
    elif exchange.content_type != _JSON:
        raise Rejected(
            415, f"the content type must be {_JSON} or {_PROTOBUF} (Protobuf)"
        )
    if codec is None:
        raise Rejected(415, f"{_PROTOBUF} is not served here, use {_JSON}")
    first = await exchange.body(conf.current().topics.frame_size)
    if not first:
        raise Rejected(400, "the body must hold the first commands")
    await switchboard(current()).open()
    transport = HttpStreamTransport(exchange, codec, await exchange.user_id())
    await transport.run(hooks, exchange.content_type.encode(), first)


def refuse_while_draining() -> None:
    """Go on while this process takes clients.

    Raises:
        Rejected: while it gives up those that it has (503).
    """
    if process_drain.draining:
        raise Rejected(
            503, "the server is stopping, come back", [(b"retry-after", b"1")]
        )
