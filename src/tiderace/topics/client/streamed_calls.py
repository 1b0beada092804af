"""Calls whose results are streamed: methods with ``@rpc`` that are async generators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Raw

from tiderace import conf
from tiderace.asgi import Scope
from tiderace.protocol import codes
from tiderace.protocol.codes import Failure
from tiderace.protocol.messages import DataMessage, Push, Reply
from tiderace.protocol.session import ConnectionEnded, Refused
from tiderace.runtime.tasks import as_error, cancel_in_time
from tiderace.topics.client.refusals import errors_as_refusals
from tiderace.topics.fanout.outbox import ClientOutbox
from tiderace.topics.json_fields import as_raw

logger = logging.getLogger("tiderace.topics")

_MOST = 16  # streams of one client at once
_ID_LENGTH = 64  # characters

# Seconds between two messages of a stream; the first item after a pause is sent at once.
_INTERVAL = 0.04
_ITEMS = 64  # the most items of a message


class _StreamMessage(msgspec.Struct, omit_defaults=True):
    stream: str
    items: list[Raw] = []
    end: bool = False
    error: Failure | None = None


_NO_STREAMS: dict[str, _Stream] = {}


class StreamedCalls:
    """The streams of one client, by the ids that the client chose."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        # A dict of its own once there is a stream.
        self._running = _NO_STREAMS

    def start(
        self,
        stream_id: str,
        generator: AsyncGenerator[Any, None],
        *,
        channel: str,
        outbox: ClientOutbox,
        scope: Scope,
    ) -> None:
        """Send what ``generator`` yields, in the background.

        Args:
            stream_id: the client's id for the stream.
            generator: the application's; it is closed when the stream ends.
            channel: the topic to which the client is subscribed.
            outbox: the client's.
            scope: the scope of the connection, for the log.

        Raises:
            Refused: for an id that is in use or too long, and beyond 16 streams.
        """
        if not 0 < len(stream_id) <= _ID_LENGTH or stream_id in self._running:
            raise Refused(codes.BAD_REQUEST, "the id of the stream is in use, or no id")
        if len(self._running) >= _MOST:
            reason = f"a client has at most {_MOST} streams at once"
            raise Refused(codes.LIMIT_EXCEEDED, reason=reason)
        stream = _Stream(stream_id, channel, outbox)
        if self._running is _NO_STREAMS:
            self._running = {}
        self._running[stream_id] = stream
        # The task may keep the command's context: a stream ends before its connection.
        task = asyncio.get_running_loop().create_task(stream.run(generator, scope))
        stream.task = task
        task.add_done_callback(lambda _: self._running.pop(stream_id, None))

    def stop(self, stream_id: str, channel: str) -> None:
        """Stop a stream of a topic; do nothing when it has ended."""
        stream = self._running.get(stream_id)
        if stream is not None and stream.channel == channel:
            stream.stop()

    def stop_all(self, channel: str) -> None:
        """Stop the streams of a topic, whose subscription has ended."""
        for stream in list(self._running.values()):
            if stream.channel == channel:
                stream.stop()

    async def close(self) -> None:
        """Stop all streams, and wait until their generators are closed."""
        running, self._running = self._running, _NO_STREAMS
        tasks = [each.task for each in running.values() if each.task is not None]
        await cancel_in_time(tasks, conf.current().disconnect_timeout, logger)


@dataclass(slots=True)
class _Stream:
    id: str
    channel: str
    outbox: ClientOutbox
    task: asyncio.Task[None] | None = None
    items: list[Raw] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        # A second cancellation would interrupt the ``finally`` of the generator.
        if self.task is not None and not self.task.cancelling():
            self.task.cancel()

    async def run(self, generator: AsyncGenerator[Any, None], scope: Scope) -> None:
        end = _StreamMessage(self.id, end=True)
        try:
            with errors_as_refusals("a stream of", scope, self.channel):
                async with aclosing(generator):
                    try:
                        await self._send_items(generator)
                    except (SystemExit, asyncio.CancelledError) as raised:
                        raise as_error(raised) from raised
        except Refused as refused:
            end = _StreamMessage(self.id, error=refused.failure)
        except ConnectionEnded:
            return
        finally:
            if self.timer is not None:
                self.timer.cancel()
        end.items = self.items
        self._push(end)

    async def _send_items(self, generator: AsyncGenerator[Any, None]) -> None:
        async for item in generator:
            raw = as_raw(item, always=True)
            assert isinstance(raw, Raw)  # noqa: S101 (always)
            self.items.append(raw)
            if self.timer is None:
                self._flush()
            elif len(self.items) >= _ITEMS:
                self._flush()
                # A generator that does not wait must not block the loop.
                await asyncio.sleep(0)
            # The generator waits for a client that reads slowly.
            await self.outbox.drained()

    def _flush(self) -> None:
        """Send the items that wait, and no more until the interval is over."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.items:
            message = _StreamMessage(self.id, self.items)
            self.items = []
            self._push(message)
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(_INTERVAL, self._flush)

    def _push(self, message: _StreamMessage) -> None:
        data = DataMessage(data=Raw(msgspec.json.encode(message)))
        reply = Reply(push=Push(channel=self.channel, message=data))
        self.outbox.push(self.outbox.codec.encode(reply))
