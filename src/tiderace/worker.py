"""Reads named channels of a layer, and runs consumers of ``ASGI_APPLICATION`` on them.

It is not a task queue: the messages of a worker that is killed are lost, and nothing is
retried.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from asgiref.compatibility import guarantee_single_callable
from asgiref.server import StatelessServer

from tiderace.exceptions import StopConsumer
from tiderace.runtime.tasks import as_error

if TYPE_CHECKING:
    from tiderace.asgi import ASGIApp, Event, Receive, Scope

__all__ = ["Worker"]

logger = logging.getLogger("django.channels.worker")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The last item of an input queue, which remains there.
_END: Event = {}


class Worker(StatelessServer):
    """Runs one consumer for each of ``channels``, with the messages sent there.

    The messages of a channel are handled in order, one after the other; channels are
    independent. A message is received from the layer only when the consumer has taken
    the one before it, so messages that cannot be handled yet stay in the layer, within
    its capacity.

    ``run()`` and ``arun()`` supervise: a message without a type is logged and dropped;
    an error of the layer is logged, and reading continues after a pause that doubles
    from ``retry_delay`` to ``retry_delay_max`` seconds; a consumer that has ended (or
    failed, which is logged) is replaced for the next message. ``run()`` ends on SIGINT or
    SIGTERM, ``arun()`` after ``request_stop()``: no more messages are received, those
    received are handled, and a consumer that takes longer than ``stop_timeout`` seconds
    is cancelled. A second signal cancels at once.

    Raises:
        ValueError: when ``channel_layer`` is None.
    """

    retry_delay = 0.1
    retry_delay_max = 5.0
    stop_timeout = 10.0

    def __init__(
        self,
        application: ASGIApp,
        channels: Iterable[str],
        channel_layer: Any,
        max_applications: int = 1000,
    ) -> None:
        super().__init__(application, max_applications)  # type: ignore[no-untyped-call]
        self.channels = channels
        self.channel_layer = channel_layer
        if self.channel_layer is None:
            raise ValueError("Channel layer is not valid")
        self.application_instances: dict[str, dict[str, Any]] = {}
        self._ended: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._stop: asyncio.Event | None = None
        self._kill: asyncio.Event | None = None

    def run(self) -> None:
        """Run until SIGINT or SIGTERM; return when the messages received are handled."""
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(self._run_until_signalled())

    async def arun(self) -> None:
        """Run, supervised, until ``request_stop()`` or until ``handle()`` returns."""
        stop, kill = self._prepare()
        handling = asyncio.create_task(self.handle())
        checking = asyncio.create_task(self.application_checker())
        stopping = asyncio.create_task(_wait_for(stop))
        tasks = [handling, checking, stopping]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await _cancel(handling)
            await self._finish_applications(kill)
        finally:
            self._stop = self._kill = None
            await _cancel(*tasks)
            instances = list(self.application_instances.values())
            self.application_instances.clear()
            await _cancel(*(details["future"] for details in instances))
        for task in tasks:
            if not task.cancelled():
                task.result()

    def request_stop(self) -> None:
        """Receive no more messages and let ``arun()`` return; call it in its event loop.

        A second call cancels the consumers.
        """
        if self._stop is None or self._kill is None:
            return
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()

    async def handle(self) -> None:
        """Read all channels until every listener has ended.

        Within ``arun()`` listeners are supervised; otherwise the first listener's error
        is raised once all have ended.
        """
        listen = self.listener if self._stop is None else self._supervise
        listeners = [asyncio.create_task(listen(name)) for name in self.channels]
        try:
            await asyncio.wait(listeners)
        finally:
            await _cancel(*listeners)
        for listener in listeners:
            listener.result()

    async def listener(self, channel: str) -> None:
        """Read one channel, and queue each message for its application instance.

        Raises:
            ValueError: for a message without a type, which is dropped.
            Exception: the error of the layer's ``receive``.
        """
        while True:
            if (details := self.application_instances.get(channel)) is not None:
                await details["input_queue"].caught_up()
            message = await self.channel_layer.receive(channel)
            if not message.get("type", None):
                raise _MissingTypeError("Worker received message with no type.")
            scope = {"type": "channel", "channel": channel}
            instance_queue = self.get_or_create_application_instance(channel, scope)
            await instance_queue.put(message)

    def get_or_create_application_instance(
        self, scope_id: str, scope: Scope
    ) -> asyncio.Queue[Event]:
        """Return the input queue of the instance ``scope_id``, which is made if needed.

        An instance that has ended is replaced by a new one, which also gets the messages
        that the old one has not read.
        """
        loop = asyncio.get_running_loop()
        old = self.application_instances.get(scope_id)
        if old is not None and not old["future"].done():
            old["last_used"] = loop.time()
            queue: _InputQueue = old["input_queue"]
            return queue
        queue = _InputQueue(old["input_queue"].take_all() if old else ())
        while len(self.application_instances) > self.max_applications:
            self.delete_oldest_application_instance()  # type: ignore[no-untyped-call]
        future = loop.create_task(self._run_application(scope, queue.get))
        details = {
            "input_queue": queue,
            "future": future,
            "scope": scope,
            "last_used": loop.time(),
        }
        self.application_instances[scope_id] = details
        future.add_done_callback(lambda _: self._application_ended(scope_id, details))
        return queue

    async def application_checker(self) -> None:
        """Report the error of each application that ends, and pass on its messages.

        After an application that took no message they are dropped, which is logged: a
        new one would end in the same way.
        """
        while True:
            scope_id, details = await self._ended.get()
            future, queue = details["future"], details["input_queue"]
            error = None if future.cancelled() else future.exception()
            if error is not None and not isinstance(error, StopConsumer):
                await self.application_exception(error, details)
            if self.application_instances.get(scope_id) is not details:
                continue
            del self.application_instances[scope_id]
            unread = queue.take_all()
            if not unread:
                continue
            if queue.taken:
                scope = details["scope"]
                successor = self.get_or_create_application_instance(scope_id, scope)
                for message in unread:
                    successor.put_nowait(message)
            else:
                logger.error(
                    "the consumer of channel %s ended without taking a message; "
                    "%d dropped",
                    details["scope"].get("channel"),
                    len(unread),
                )

    async def application_exception(
        self, exception: BaseException, application_details: dict[str, Any]
    ) -> None:
        """Log the error that ended an application.

        ``application_details`` has ``scope``, ``future``, ``input_queue`` and
        ``last_used`` (the event loop's time).
        """
        logger.error(
            "the consumer of channel %s failed; it starts anew with the next message",
            application_details["scope"].get("channel"),
            exc_info=exception,
        )

    async def application_send(self, scope: Scope, message: Event) -> None:
        """Refuse to send, since a worker has no client.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"the consumer of channel {scope['channel']!r} sent {message.get('type')!r}, "
            f"but a worker has no client; answer through the channel layer"
        )

    async def _run_application(self, scope: Scope, receive: Receive) -> None:
        application = guarantee_single_callable(self.application)  # type: ignore[no-untyped-call]
        try:
            await application(
                scope=scope,
                receive=receive,
                send=lambda message: self.application_send(scope, message),
            )
        except SystemExit as raised:
            raise as_error(raised) from raised

    async def _run_until_signalled(self) -> None:
        self._prepare()
        with _on_signals(self.request_stop):
            await self.arun()

    def _prepare(self) -> tuple[asyncio.Event, asyncio.Event]:
        if self._stop is None or self._kill is None:
            self._stop, self._kill = asyncio.Event(), asyncio.Event()
        return self._stop, self._kill

    async def _supervise(self, channel: str) -> None:
        """Read one channel, also after errors of its messages and of the layer."""
        loop = asyncio.get_running_loop()
        delay = self.retry_delay
        while True:
            began = loop.time()
            try:
                await self.listener(channel)
            except _MissingTypeError:
                logger.error(
                    "a message on channel %s has no type, so no handler is meant; "
                    "it is dropped",
                    channel,
                )
            except Exception:
                if loop.time() - began > self.retry_delay_max:
                    delay = self.retry_delay
                logger.exception(
                    "reading channel %s failed; trying again in %.1f s", channel, delay
                )
                await asyncio.sleep(delay)
                delay = min(delay * 2, self.retry_delay_max)
            else:
                return

    def _application_ended(self, scope_id: str, details: dict[str, Any]) -> None:
        details["input_queue"].abandon()
        self._ended.put_nowait((scope_id, details))

    async def _finish_applications(self, kill: asyncio.Event) -> None:
        """Let each application handle its messages, for ``stop_timeout`` seconds."""
        instances = {
            details["future"]: scope_id
            for scope_id, details in self.application_instances.items()
        }
        if not instances:
            return
        for details in self.application_instances.values():
            details["input_queue"].end()
        finished = asyncio.create_task(asyncio.wait(list(instances)))
        killed = asyncio.create_task(_wait_for(kill))
        try:
            await asyncio.wait(
                [finished, killed],
                timeout=self.stop_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            await _cancel(finished, killed)
        for future, scope_id in instances.items():
            if not future.done():
                logger.warning(
                    "the consumer of channel %s is cut off at its message", scope_id
                )


class _MissingTypeError(ValueError):
    """A message on a worker's channel has no type."""


class _InputQueue(asyncio.Queue["Event"]):
    """The unread messages of an application instance; ``get`` is its ``receive``."""

    def __init__(self, messages: Iterable[Event] = ()) -> None:
        super().__init__()
        self.taken = 0
        self._caught_up = asyncio.Event()
        self._caught_up.set()
        for message in messages:
            self.put_nowait(message)

    def put_nowait(self, item: Event) -> None:
        self._caught_up.clear()
        super().put_nowait(item)

    async def get(self) -> Event:
        """Return the next message.

        Raises:
            StopConsumer: after the last message, which ends the consumer.
        """
        message = await super().get()
        if message is _END:
            super().put_nowait(_END)
            raise StopConsumer
        self.taken += 1
        if self.empty():
            self._caught_up.set()
        return message

    async def caught_up(self) -> None:
        """Wait until the queue is empty, or its application has ended."""
        await self._caught_up.wait()

    def end(self) -> None:
        """Let ``get`` raise ``StopConsumer`` after the messages queued."""
        super().put_nowait(_END)

    def abandon(self) -> None:
        """Let ``caught_up`` return: the application has ended."""
        self._caught_up.set()

    def take_all(self) -> list[Event]:
        """Remove and return the unread messages."""
        left = []
        while not self.empty():
            if (message := self.get_nowait()) is not _END:
                left.append(message)
        return left


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended; errors stay in the tasks."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


@contextlib.contextmanager
def _on_signals(callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` on SIGINT and SIGTERM, where the event loop supports that.

    Elsewhere (on Windows, outside the main thread) signals keep their handlers.
    """
    loop = asyncio.get_running_loop()
    handled = []
    for number in _SIGNALS:
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(number, callback)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
