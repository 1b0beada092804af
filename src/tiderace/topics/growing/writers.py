"""The writers of growing messages in this process, and the control messages to them.

A control message cancels a growing message, requests its whole text, or reports that
another process has ended it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

from tiderace import cluster
from tiderace.runtime.futures import call_soon
from tiderace.topics.declaration.topic import declared
from tiderace.topics.growing.feed import ENDED, WANTED

CANCEL = "growing.cancel"
"""The kind of the control messages that cancel a growing message."""


class Writer(Protocol):
    """A message that is being written; its methods are called in its event loop."""

    loop: asyncio.AbstractEventLoop
    token: str
    """Identifies this writer among the writers of one message."""

    def cancel_soon(self) -> None:
        """Cancel the task that writes the message, and end the message as cancelled."""

    def send_whole_soon(self) -> None:
        """Publish the whole text with the next record."""

    def abandon_soon(self) -> None:
        """Cancel the task that writes the message: another process ended or began it."""


class _Writers:
    """The writers of this process by topic and id, of all event loops."""

    def __init__(self) -> None:
        self._by_message: defaultdict[tuple[str, str], list[Writer]] = defaultdict(list)

    def add(self, topic: str, message_id: str, writer: Writer) -> None:
        """Pass control messages to a writer from now on."""
        self._by_message[topic, message_id].append(writer)

    def discard(self, topic: str, message_id: str, writer: Writer) -> None:
        """Undo ``add``."""
        writers = self._by_message.get((topic, message_id), [])
        if writer in writers:
            writers.remove(writer)
        if not writers:
            self._by_message.pop((topic, message_id), None)

    def call(self, payload: Any, method: Callable[[Writer], None]) -> None:
        """Call a method of the writers that a control message is for, in their loops."""
        for writer in list(self._by_message.get((payload["topic"], payload["id"]), ())):
            if writer.token != payload.get("but"):
                call_soon(writer.loop, method, writer)


process_writers = _Writers()


@cluster.handler(CANCEL)
def _cancel(payload: Any) -> None:
    process_writers.call(payload, lambda writer: writer.cancel_soon())


@cluster.handler(WANTED)
def _send_whole(payload: Any) -> None:
    process_writers.call(payload, lambda writer: writer.send_whole_soon())


@cluster.handler(ENDED)
def _abandon(payload: Any) -> None:
    process_writers.call(payload, lambda writer: writer.abandon_soon())


async def end_other_writers(topic: str, message_id: str, token: str) -> None:
    """Stop all writers of a message but the one with ``token``.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    payload = {"topic": topic, "id": message_id, "but": token}
    await cluster.current().tell(ENDED, payload)


async def acancel_message(topic: str, message_id: str) -> None:
    """Cancel a message that grows, in whatever process it is written.

    The block of ``agrow`` or ``grow`` ends, and the message is published as ``cancelled``
    with the text so far. Without a growing message of this id nothing happens.

    Raises:
        UnknownTopic: when no declared topic has this name.
        LayerUnavailable: when the broker could not be reached in time.
    """
    declared.resolve(topic)
    await cluster.current().tell(CANCEL, {"topic": topic, "id": message_id})
