"""The stream on which a process receives messages to its channels from others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiderace.layers.broker import StreamMessage
from tiderace.layers.local import LocalChannels
from tiderace.layers.messages import CHANNEL_KEY, ENVELOPE_KEY
from tiderace.layers.pubsub.delivery import LossLog
from tiderace.layers.pubsub.loop_tasks import LoopTasks
from tiderace.layers.pubsub.subscriptions import GroupSubscriptions


def inbox_name(process: str) -> str:
    """Return the name of a process's inbox."""
    return f"process!{process}"


class ProcessInbox:
    """The sink of the inbox of this process.

    Args:
        local: the channels of this process.
        subscriptions: joins and leaves groups.
        deserialize: turns the bytes of a message into the message.
        loss_log: logs lost messages.
        tasks: runs the joins.
    """

    def __init__(
        self,
        local: LocalChannels,
        subscriptions: GroupSubscriptions,
        *,
        deserialize: Callable[[bytes], Any],
        loss_log: LossLog,
        tasks: LoopTasks,
    ) -> None:
        self.process = local.process
        self.name = inbox_name(local.process)
        self._local = local
        self._subscriptions = subscriptions
        self._deserialize = deserialize
        self._loss_log = loss_log
        self._tasks = tasks

    async def deliver(self, item: StreamMessage) -> None:
        """Deliver a message or carry out a request; log one that cannot be decoded."""
        try:
            message = self._deserialize(item.data)
            channel = message.pop(CHANNEL_KEY)
            request = message.pop(ENVELOPE_KEY, None)
            if request == "join":
                if channel in self._local.mailboxes:
                    # Joined in a task: the subscription waits for the loop that delivers.
                    self._tasks.spawn(
                        self._subscriptions.join(message["group"], channel)
                    )
            elif request == "leave":
                self._subscriptions.leave(message["group"], channel)
            else:
                self._local.put_or_drop(channel, message, age=item.age)
        except Exception as error:
            # The messages of other senders must still arrive.
            self._loss_log.unreadable(item.subject, error)

    def report_gap(self, subject: str, missed: int | None) -> None:
        """Report lost messages to all consumers: any of them may be missing one."""
        self._loss_log.lost(subject, missed)
        self._local.put_gap(None, missed)
