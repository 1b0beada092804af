"""What a message of the layer may do with a consumer, and what becomes of it else.

It knows handlers by name and access alone, and not whose turn it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from tiderace import conf
from tiderace.asgi import Event
from tiderace.connection.background import Background
from tiderace.connection.channel import Channel
from tiderace.connection.log import ConnectionLog
from tiderace.connection.served import Access, ConsumerProtocol, get_handler_name
from tiderace.delivery.outbox import Outbox, PreparedMessage
from tiderace.exceptions import StopConsumer, UnknownMessageType

__all__ = ["Messages"]


class Messages:
    """Hands a layer's messages to the handlers of one consumer, or drops them.

    Args:
        consumer: whose handlers they are.
        channel: whose mailbox is held while too many handlers run at once.
        outbox: takes broadcasts, which no handler sees.
        background: runs the handlers marked ``@concurrent``.
        report: is told what was dropped and what failed.
    """

    __slots__ = (
        "_background",
        "_beside",
        "_channel",
        "_consumer",
        "_outbox",
        "_report",
    )

    def __init__(
        self,
        consumer: ConsumerProtocol,
        channel: Channel,
        outbox: Outbox,
        background: Background,
        report: ConnectionLog,
    ) -> None:
        self._consumer = consumer
        self._channel = channel
        self._outbox = outbox
        self._background = background
        self._report = report
        # How many handlers are running beside the others.
        self._beside = 0

    async def handle(self, message: Event | PreparedMessage) -> None:
        """Do what is to be done about ``message``, up to the end of its handler.

        Raises:
            TooSlow: when a broadcast finds the outbox full.
            StopConsumer: when the handler says so.
            Exception: what the handler raised, if ``on_error`` does not let it pass.
        """
        consumer = self._consumer
        if isinstance(message, PreparedMessage):
            if not consumer.accepts_broadcasts:
                self._report.dropped(
                    "a broadcast",
                    "the consumer does not say accepts_broadcasts = True",
                )
            elif not self._outbox.put(message):
                await self._outbox.send(message.event)
            return
        try:
            name = get_handler_name(message)
        except (ValueError, TypeError) as error:
            self._report.dropped(message, str(error))
            return
        access = consumer._layer_access(name)  # noqa: SLF001
        if name == "layer_gap" and not hasattr(consumer, name):
            return  # an offer, which not every consumer takes
        if access is Access.REFUSED:
            self._report.dropped(
                message, "only handlers the application defines can be called"
            )
            return
        # A copy of the outermost dict alone: handlers written for Channels pop the
        # type or add keys, and the other members hold the same object.
        work = self._dispatch(dict(message))
        if access is Access.CONCURRENT:
            self._start(work)
        else:
            await work

    async def _dispatch(self, message: Event) -> None:
        try:
            await self._consumer.dispatch(message)
        except UnknownMessageType:
            self._report.dropped(message, "no handler for it")
        except StopConsumer:
            raise
        except Exception as error:
            await self._report.consult(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a handler beside the others; when there are many, the next ones wait."""
        self._beside += 1
        self._background.spawn(work).add_done_callback(self._done)
        if self._beside >= conf.current().concurrent_handlers:
            # Messages wait; events do not, or nobody would see the client leave.
            self._channel.mailbox.hold()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._beside -= 1
        self._channel.mailbox.release()
