"""Reading what one source has for a connection: its client, or a stranger's layer.

One item at a time, into the mailbox; it knows nobody who takes it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tiderace.connection.suspended import DeferredError
from tiderace.delivery.mailbox import Mailbox, Source
from tiderace.delivery.outbox import Outbox

__all__ = ["LAST_EVENTS", "Inbox"]

LAST_EVENTS = frozenset({"http.disconnect", "websocket.disconnect"})
"""After these events nothing more can happen on a connection."""


class Inbox:
    """Reads one source, in the task that calls ``read``.

    Args:
        source: returns the next item, when there is one.
        mailbox: takes them.
        client: the way back, where the source is the client; None where it is a layer.
        idle: set while the consumer may be given more work; None if it always may.
    """

    __slots__ = ("_client", "_idle", "_mailbox", "_source", "_stopped", "_task")

    def __init__(
        self,
        source: Callable[[], Awaitable[Any]],
        mailbox: Mailbox[Any],
        *,
        client: Outbox | None = None,
        idle: asyncio.Event | None = None,
    ) -> None:
        self._source = source
        self._mailbox = mailbox
        self._client = client
        self._idle = idle
        # What is reading now, and whether it was told to stop that.
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False

    @property
    def reading(self) -> bool:
        """Whether more may come, and nobody has said ``stop``."""
        return self._task is not None

    def stop(self) -> None:
        """Have ``read`` return, although more may come."""
        if self._task is not None:
            task, self._task = self._task, None
            self._stopped = True
            task.cancel()

    async def read(self) -> None:
        """Hand over what the source returns, until nothing more can come or ``stop``.

        Raises:
            asyncio.CancelledError: when somebody else has cancelled the task.
        """
        here = self._task = asyncio.current_task()
        assert here is not None  # noqa: S101 (this is a coroutine)
        mailbox, client, idle = self._mailbox, self._client, self._idle
        lane = Source.MESSAGE if client is None else Source.EVENT
        kind = None
        try:
            try:
                while kind not in LAST_EVENTS:
                    item = await self._source()
                    if client is not None:
                        kind = item.get("type")
                        if kind == "websocket.disconnect":
                            client.leaving = True
                    await mailbox.offer(item, lane)
                    if idle is not None and kind not in LAST_EVENTS:
                        # A worker's messages are work: what is read ahead would be
                        # lost with a handler that fails.
                        await idle.wait()
            except Exception as error:
                await mailbox.offer(DeferredError(error))
        except asyncio.CancelledError:
            if not self._stopped or here.uncancel() > 0:
                raise
        finally:
            self._task = None
