"""Writes messages that grow from sync code: ``with grow("room:1") as answer``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from tiderace.runtime import sync_bridge
from tiderace.topics.growing.grow import agrow
from tiderace.topics.growing.writer import AsyncGrowingMessage
from tiderace.topics.growing.writers import acancel_message


class GrowingMessage:
    """A message that is being written by sync code; returned by ``grow``.

    The methods are those of ``AsyncGrowingMessage``, but block. After a cancellation the
    next call of one raises ``MessageCancelled``, which ends the block without an error.
    """

    def __init__(self, message: AsyncGrowingMessage) -> None:
        self._message = message

    @property
    def id(self) -> str:
        """The message's id: the tag ``grow`` of what clients get."""
        return self._message.id

    @property
    def topic(self) -> str:
        """The name of its topic."""
        return self._message.topic

    @property
    def state(self) -> str:
        """``"growing"``, ``"finished"``, ``"failed"`` or ``"cancelled"``."""
        return self._message.state

    @property
    def cancelled(self) -> bool:
        """Whether the message was cancelled."""
        return self._message.cancelled

    @property
    def text(self) -> str:
        """The text so far."""
        return self._message.text

    def __enter__(self) -> Self:
        sync_bridge.call(self._message.begin)
        return self

    def __exit__(self, *error: Any) -> bool:
        return sync_bridge.call(self._message.__aexit__, *error)

    def append(self, text: str) -> None:
        sync_bridge.call(self._message.append, text)

    def update(self, **fields: Any) -> None:
        sync_bridge.call(self._message.update, **fields)

    def flush(self) -> None:
        sync_bridge.call(self._message.flush)

    def finish(self, **fields: Any) -> None:
        sync_bridge.call(self._message.finish, **fields)

    def fail(self, reason: str = "") -> None:
        sync_bridge.call(self._message.fail, reason)

    def cancel(self) -> None:
        sync_bridge.call(self._message.cancel)


def grow(
    topic: str,
    data: Mapping[str, Any] | None = None,
    *,
    id: str = "",  # noqa: A002 (the name that clients see)
    tags: Mapping[str, str] | None = None,
) -> GrowingMessage:
    """Publish a message to ``topic`` that grows until the block ends::

        with grow("room:1", {"by": "assistant"}) as answer:
            for token in tokens:
                answer.append(token)

    The sync form of ``agrow``, for views, commands and task queues. The arguments and
    exceptions are the same. A cancellation is noticed by the next call of a method.

    Raises:
        RuntimeError: where an event loop runs in this thread; use ``agrow`` there.
    """
    sync_bridge.require_no_loop("grow", "agrow")

    async def make() -> AsyncGrowingMessage:
        return agrow(topic, data, id=id, tags=tags)

    return GrowingMessage(sync_bridge.call(make))


cancel_message = sync_bridge.blocking(acancel_message)
