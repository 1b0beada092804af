"""Writes one message that grows: its beginning, its appends and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import Raw

from tiderace import cluster
from tiderace.exceptions import LayerUnavailable, MessageTooLarge
from tiderace.history import Position
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.growing.options import Growing
from tiderace.topics.growing.pacing import SendPace
from tiderace.topics.growing.records import TEXT, Message, Record, State, length
from tiderace.topics.growing.stream import (
    KEEP,
    delete_records,
    is_published,
    publish_end,
    publish_record,
    read_records,
    record_in,
)
from tiderace.topics.growing.writers import end_other_writers, process_writers
from tiderace.topics.json_fields import data_as_json

logger = logging.getLogger("tiderace.topics")

# Bytes that are appended and not sent, above which ``append`` waits until they are sent.
_UNSENT = 65_536
# Bytes of appends after which the whole text is sent, unless the last whole text was
# longer: so the whole texts have at most as many bytes as the appends.
_WHOLE_AFTER = 4096
_RETRY = 1.0  # seconds between two attempts while the broker is away


class MessageEnded(RuntimeError):
    """A growing message was appended to, or ended, after its end."""


class MessageCancelled(Exception):
    """A growing message was cancelled; ``with grow()`` ends without an error then."""


class AsyncGrowingMessage:
    """A message that is being written; returned by ``agrow``.

    It belongs to the event loop in which its block was entered.
    """

    def __init__(
        self,
        topic: Topic,
        options: Growing,
        fields: dict[str, Any],
        message_id: str,
        tags: Mapping[str, str] | None,
    ) -> None:
        # If the application chose the id, another writer may have begun the same message.
        self._is_named = bool(message_id)
        self.id = message_id or secrets.token_hex(8)
        """The message's id: the tag ``grow`` of what clients get."""
        self.topic = topic.topic
        """The name of its topic."""
        self.loop = asyncio.get_running_loop()
        self._topic = topic
        self._options = options
        self._fields = fields
        self._tags = dict(tags) if tags else None
        self.token = secrets.token_hex(8)
        """Identifies this writer among the writers of one message."""
        self._state = State.GROWING
        self._text: list[str] = []
        self._size = 0  # bytes in UTF-8
        self._unsent: list[str] = []
        self._unsent_size = 0
        self._sent = 0  # UTF-16 code units that are in the stream
        self._needs_whole = True
        self._whole_size = 0
        self._since_whole = 0  # bytes
        self._whole_at = 0.0
        self._last: Position | None = None
        # When another writer's record was seen last in the topic's growth stream.
        self._shared_at = 0.0
        self._publishing = asyncio.Lock()
        self._wake: asyncio.Future[None] | None = None
        self._sent_at = 0.0
        self._silence: asyncio.TimerHandle | None = None
        self._tasks = TaskGroup(logger)
        # The task that runs the block; None in sync code.
        self._owner: asyncio.Task[Any] | None = None
        self._cancelling = False
        self._abandoned = False

    @property
    def state(self) -> str:
        """``"growing"``, ``"finished"``, ``"failed"`` or ``"cancelled"``."""
        return self._state.value

    @property
    def cancelled(self) -> bool:
        """Whether the message was cancelled, or is about to end as cancelled."""
        return self._cancelling or self._state is State.CANCELLED

    @property
    def ended_elsewhere(self) -> bool:
        """Whether another process has ended the message, or begun it again."""
        return self._abandoned

    @property
    def text(self) -> str:
        """The text so far."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    # The block

    async def __aenter__(self) -> Self:
        self._owner = asyncio.current_task()
        await self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        owner, self._owner = self._owner, None
        is_ours = isinstance(
            error, asyncio.CancelledError | MessageCancelled | MessageEnded
        )
        interrupted = self._cancelling or self._abandoned
        if owner is not None and interrupted:
            if not isinstance(error, asyncio.CancelledError):
                # The next await of the task raises the cancellation. It must not be one
                # of those below.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            # Like asyncio.timeout(), let another cancellation of the task go on.
            is_ours = owner.uncancel() == 0 and is_ours
        if self._abandoned:
            await self._stop()
            if error is None or is_ours:
                raise self._ended() from None
            return False
        if self._state is State.GROWING:
            if self._cancelling:
                await self._end(State.CANCELLED)
            elif error is None:
                await self._end(State.FINISHED)
            else:
                await self._end_after_error()
        return interrupted and is_ours

    async def _end_after_error(self) -> None:
        # The block's own error is raised, whatever the broker does.
        try:
            await self._end(State.FAILED)
        except LayerUnavailable as error:
            logger.warning("the message %r was not marked failed: %s", self.id, error)

    async def begin(self) -> None:
        """Publish the message's beginning; without a block the caller has to end it.

        Raises:
            MessageEnded: when a message with this id has ended in the last five minutes.
            LayerUnavailable: when the broker could not be reached in time.
        """
        if await is_published(self._topic, self.id):
            raise MessageEnded(
                f"a message {self.id!r} of {self.topic} has ended within the last five "
                "minutes; give the new one another id"
            )
        await cluster.current().open()
        self._shared_at = self.loop.time()
        await self._send()
        if self._is_named:
            await end_other_writers(self.topic, self.id, self.token)
        process_writers.add(self.topic, self.id, self)
        self._tasks.spawn(self._send_appends())
        self._end_silence()

    # Writing

    async def append(self, text: str) -> None:
        """Append to the text; subscribers get it within the topic's interval.

        Waits only while more than 64 KiB are not sent yet.

        Raises:
            TypeError: for what is not a string, or cannot be encoded in UTF-8.
            MessageTooLarge: when the text would be longer than ``Growing.size``.
            MessageCancelled: when the message was cancelled.
            MessageEnded: when it has ended.
            LayerUnavailable: when 64 KiB wait and the broker is away.
        """
        self.add(text)
        if self._unsent_size > _UNSENT:
            await self.flush()

    def add(self, text: str) -> None:
        """Append without waiting, in the message's event loop; raises as ``append``."""
        self._require_growing()
        if not isinstance(text, str):
            raise TypeError(f"append() takes a string, not {type(text).__qualname__}")
        text = str.__str__(text)  # subclasses, such as SafeString, cannot be encoded
        size = len(text) if text.isascii() else _size(text)
        if self._size + size > self._options.size:
            raise MessageTooLarge(
                f"the text of the message {self.id} of {self.topic} would have more "
                f"than {self._options.size} bytes; end it and begin another, or raise "
                f"{type(self._topic).__name__}.growing = Growing(size=...)"
            )
        if not size:
            return
        self._size += size
        self._unsent_size += size
        self._text.append(text)
        self._unsent.append(text)
        self._wake_up()

    async def update(self, **fields: Any) -> None:
        """Set fields of the message's data, such as ``percent=40``.

        They are sent with the whole text, at once.

        Raises:
            TypeError: for ``text``, and for what JSON cannot express.
            MessageCancelled, MessageEnded, LayerUnavailable: as for ``append``.
        """
        self._require_growing()
        self._set(fields)
        await self.flush()

    async def flush(self) -> None:
        """Send what was appended now.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        self._require_growing()
        if self._unsent or self._needs_whole:
            await self._send()

    async def finish(self, **fields: Any) -> None:
        """End the message; ``fields`` become part of its data.

        Raises:
            MessageCancelled, MessageEnded: as for ``append``.
            LayerUnavailable: when the broker could not be reached; call it again.
        """
        self._require_growing()
        if fields:
            self._set(fields)
        await self._end(State.FINISHED)

    async def fail(self, reason: str = "") -> None:
        """End the message as failed; ``reason`` is sent to the clients.

        Raises:
            MessageEnded, LayerUnavailable: as for ``finish``.
        """
        self._require_not_ended()
        await self._end(State.FAILED, reason)

    async def cancel(self) -> None:
        """End the message as cancelled.

        Raises:
            MessageEnded, LayerUnavailable: as for ``finish``.
        """
        self._require_not_ended()
        await self._end(State.CANCELLED)

    def _set(self, fields: Mapping[str, Any]) -> None:
        if TEXT in fields:
            raise TypeError(f'"{TEXT}" is what append() adds to; use another name')
        data_as_json(fields, f"topic {self.topic!r}")
        self._fields.update(fields)
        self._needs_whole = True

    # Requests of other processes

    def cancel_soon(self) -> None:
        """Cancel the block's task; called in the message's event loop."""
        if self._state is State.GROWING and not self._cancelling:
            self._cancelling = True
            self._interrupt()

    def abandon_soon(self) -> None:
        """Cancel the block's task: another process has ended the message."""
        if self._state is State.GROWING and not self._abandoned:
            self._abandoned = True
            self._interrupt()

    def send_whole_soon(self) -> None:
        """Send the whole text as soon as the interval allows it."""
        self._needs_whole = True
        self._wake_up()

    def _interrupt(self) -> None:
        if self._owner is not None:
            self._owner.cancel()

    # Sending

    def _require_growing(self) -> None:
        if self._abandoned or self._state is not State.GROWING:
            raise self._ended()
        if self._cancelling:
            raise MessageCancelled(f"the message {self.id} was cancelled")

    def _require_not_ended(self) -> None:
        if self._abandoned or self._state is not State.GROWING:
            raise self._ended()

    def _ended(self) -> MessageEnded:
        if self._abandoned:
            return MessageEnded(
                f"the message {self.id} of {self.topic} was ended by another process, "
                f"because it got no sign of this one for {self._options.lease:g} s "
                "(is the event loop blocked?) or the message was begun again there"
            )
        return MessageEnded(
            f"the message {self.id} of {self.topic} is {self._state.value} already"
        )

    def _wake_up(self) -> None:
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def _send_appends(self) -> None:
        """Send appends, and empty records during pauses, until the message has ended."""
        pace, interval = SendPace.of_running_loop(), self._options.interval
        pause = interval
        warned = False
        while True:
            if not (self._unsent or self._needs_whole):
                self._wake = self.loop.create_future()
                await self._wake
            if self.loop.time() - self._whole_at > KEEP.seconds / 2:
                self._needs_whole = True
            try:
                await self._send()
                pause, warned = interval, False
            except LayerUnavailable as error:
                pause = _RETRY
                if not warned:
                    warned = True
                    logger.warning("appends to %r wait: %s", self.topic, error)
            await pace.wait(pause)

    def _end_silence(self) -> None:
        """Have an empty record sent after a third of the lease without a record."""
        third = self._options.lease / 3
        quiet = self.loop.time() - self._sent_at
        if quiet >= third:
            self._wake_up()
            quiet = 0.0
        self._silence = self.loop.call_later(third - quiet, self._end_silence)

    async def _send(self, state: State = State.GROWING, reason: str = "") -> None:
        async with self._publishing:
            await self._publish(state, reason)

    async def _publish(self, state: State, reason: str) -> None:
        count, text, size = len(self._unsent), "".join(self._unsent), self._unsent_size
        whole, self._needs_whole = self._needs_whole, False
        record = Record(
            self.id, self.token, self._sent, text, None, None, state, reason
        )
        if whole:
            record.at, record.text = 0, self.text
            record.data, record.tags = self._raw_fields(), self._tags
        try:
            position = await publish_record(self._topic, record)
        except BaseException:
            self._needs_whole |= whole
            raise
        # Only what was sent: more may have been appended meanwhile.
        del self._unsent[:count]
        self._unsent_size -= size
        self._sent += length(text)
        now = self._sent_at = self.loop.time()
        last, self._last = self._last or position, position
        # A new epoch: the broker has lost the stream, and perhaps others' records.
        lost = last.epoch != position.epoch
        if lost or position.offset > last.offset + 1:
            self._shared_at = now
        if whole:
            self._whole_size, self._since_whole, self._whole_at = self._size, 0, now
        else:
            self._since_whole += size
        if lost or self._since_whole > max(_WHOLE_AFTER, self._whole_size):
            self._needs_whole = True
            if lost:
                self._wake_up()

    def _raw_fields(self) -> dict[str, Raw]:
        text = data_as_json(self._fields, f"topic {self.topic!r}")
        return msgspec.json.decode(text, type=dict[str, Raw])

    # The end

    async def _end(self, state: State, reason: str = "") -> None:
        await self._stop()
        if await is_published(self._topic, self.id):
            if not await self._was_ended(state, reason):
                self._abandoned = True
                raise self._ended()
            self._state = state
            return
        await self._send(state, reason)
        whole = Record(
            self.id, self.token, 0, self.text, self._raw_fields(), self._tags
        )
        message = Message(whole)
        message.state, message.reason = state, reason
        await publish_end(self._topic, message)
        self._state = state
        if self.loop.time() - self._shared_at > self._options.lease:
            # No other writer has published here for a lease, so no other message grows.
            # If this fails, the records expire.
            with contextlib.suppress(LayerUnavailable):
                await delete_records(self._topic)

    async def _was_ended(self, state: State, reason: str) -> bool:
        """Return whether an earlier call ended the message, whose reply was lost."""
        _, publications = await read_records(self._topic, None)
        for record in map(record_in, publications):
            if record.id == self.id and record.state is not State.GROWING:
                # The first end counts.
                end = record.writer, record.state, record.reason
                return end == (self.token, state, reason)
        return False

    async def _stop(self) -> None:
        process_writers.discard(self.topic, self.id, self)
        if self._silence is not None:
            self._silence.cancel()
        # Wait for a record that is being published, so that the end comes after it.
        async with self._publishing:
            await self._tasks.cancel()


def _size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise TypeError(
            f"the text cannot be encoded in UTF-8 ({error}); do not divide a text within "
            "a surrogate pair"
        ) from None
