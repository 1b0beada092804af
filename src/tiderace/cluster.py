"""The control bus between the processes of a site: tell all of them, or ask and wait.

    @handler("cache.clear")
    def clear(payload): ...

    await current().tell("cache.clear", {"key": "menu"})
    answers = await current().ask("cache.size", None, timeout=1.0)

A message reaches each process at most once, and those of one sender in order. Every
process with open connections takes part; one that only sends, as a command or a task
queue does, need not. What is sent is JSON; the layer's ``encryption_keys`` protect it.

The process table of the layer names the processes that take part, so ``ask`` returns as
soon as these have answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import secrets
import threading
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import msgspec

from tiderace.exceptions import LayerUnavailable
from tiderace.history import Publication
from tiderace.layers import get_channel_layer
from tiderace.layers.manager import layer_attribute
from tiderace.layers.names import CLUSTER_GROUP, group_name
from tiderace.layers.stats import LayerStats, ProcessStats
from tiderace.runtime.connections import process_connections
from tiderace.runtime.forks import after_fork, keep_alive
from tiderace.runtime.futures import call_soon
from tiderace.runtime.lifespan import on_shutdown
from tiderace.runtime.tasks import TaskGroup

__all__ = [
    "Answers",
    "Cluster",
    "close",
    "current",
    "handler",
    "on_gap",
    "on_reconnect",
]

logger = logging.getLogger("tiderace.monitoring")

Handler = Callable[[Any], Any]
F = TypeVar("F", bound=Handler)
H = TypeVar("H", bound=Callable[[], object])

# Seconds between two attempts to reach the broker.
_RETRY = 1.0

_handlers: dict[str, Handler] = {}
_gap_hooks: list[Callable[[], object]] = []
_reconnect_hooks: list[Callable[[], object]] = []


def handler(kind: str) -> Callable[[F], F]:
    """Register the decorated function for messages of one kind.

    It is called with the payload, in the event loop that receives, one message after the
    other. What it returns, awaited where that is needed, is the answer to ``ask``; None
    is no answer.
    """

    def register(function: F) -> F:
        _handlers[kind] = function
        return function

    return register


def on_gap(hook: H) -> H:
    """Call the decorated function when messages of other processes were lost."""
    _gap_hooks.append(hook)
    return hook


def on_reconnect(hook: H) -> H:
    """Call the decorated function when the broker can be reached again.

    Messages that other processes could not send meanwhile are not sent later.
    """
    _reconnect_hooks.append(hook)
    return hook


class Answers(msgspec.Struct, frozen=True):
    """The answers of the processes to one question."""

    by_process: dict[str, Any]
    """By ``ProcessStats.process``; processes without an answer are missing."""
    silent: tuple[ProcessStats, ...]
    """The processes that have not answered in time."""
    stats: LayerStats
    """The layer's table of processes, read before the question was sent."""


class _Question:
    """Collects the answers to one question, in the event loop that asked it."""

    def __init__(self, expected: Collection[str]) -> None:
        self._expected = set(expected)
        self._loop = asyncio.get_running_loop()
        self.answers: dict[str, Any] = {}
        self.complete = asyncio.Event()

    def add_soon(self, process: str, answer: Any) -> None:
        """Add an answer, from any thread."""
        call_soon(self._loop, self._add, process, answer)

    def _add(self, process: str, answer: Any) -> None:
        self.answers[process] = answer
        if self._expected <= self.answers.keys():
            self.complete.set()


class Cluster:
    """The part of one process in the bus, over a channel layer.

    It receives in one event loop, the first that opens it. With a layer of another
    project only ``tell`` reaches other processes; without a layer nothing does.
    """

    def __init__(self, layer: Any) -> None:
        # The groups it listens to; set by the stream hub.
        self.groups: Collection[str] = ()
        self.layer = layer
        self.can_ask = all(
            layer_attribute(layer, name) for name in ("stream_subscribe", "stats_here")
        )
        self.process: str = layer.stats_here(0).process if self.can_ask else ""
        """The layer's name for this process."""
        self._own_groups = {CLUSTER_GROUP, _group_of(self.process)}
        self._questions: dict[str, _Question] = {}
        # The loop that handles messages, and the tasks that run there.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks = TaskGroup(logger)
        self._starting: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._persistent = False

    @property
    def is_open(self) -> bool:
        """Whether this process receives messages of the bus."""
        if self._loop is None or self._loop.is_closed():
            return False
        if self.can_ask:
            return self._own_groups.issubset(self.groups)
        return self.layer is None or (
            self._reading is not None and not self._reading.done()
        )

    async def open(self) -> bool:
        """Start receiving; return False if this process does so already.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        if self.is_open:
            return False
        self._use_running_loop()
        if self.can_ask:
            self.layer.after_reconnect = self._reconnected
            try:
                await self.layer.stream_subscribe(CLUSTER_GROUP, self)
                await self.layer.stream_subscribe(_group_of(self.process), self)
                if layer_attribute(self.layer, "report"):
                    # From now on other processes wait for this one's answers.
                    await self.layer.report()
            except BaseException:
                self._unsubscribe()
                raise
        elif self.layer is not None:
            channel = await self.layer.new_channel()
            await self.layer.group_add(CLUSTER_GROUP, channel)
            self._reading = self._tasks.spawn(self._read(channel))
        return True

    def start(self, *, persistent: bool = False) -> None:
        """Open in the background, trying again while the broker is away.

        Args:
            persistent: whether to try again even without open connections.
        """
        self._persistent |= persistent
        starting = self._starting
        if not self.is_open and (
            starting is None or starting.done() or starting.get_loop().is_closed()
        ):
            self._use_running_loop()
            self._starting = self._tasks.spawn(self._keep_opening())

    async def close(self) -> None:
        """Stop receiving, if this is the event loop that receives."""
        if self._loop is asyncio.get_running_loop():
            self._unsubscribe()
            await self._tasks.cancel()
            self._loop = None

    def _use_running_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._unsubscribe()
            self._loop = loop
            self._tasks = TaskGroup(logger)

    def _unsubscribe(self) -> None:
        for group in list(self.groups):
            self.layer.stream_unsubscribe(group, self)

    async def tell(self, kind: str, payload: Any) -> None:
        """Send a message to every process, this one included.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        message = self._message(kind=kind, payload=payload)
        if self.layer is None:
            self._handle(message)
        else:
            await self.layer.group_send(CLUSTER_GROUP, message)

    async def ask(self, kind: str, payload: Any, *, timeout: float) -> Answers:
        """Ask every process, this one included.

        Args:
            kind: names the handler.
            payload: its argument.
            timeout: seconds for the answers of other processes.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        if not self.can_ask:
            stats = LayerStats(())
            if layer_attribute(self.layer, "stats"):
                stats = await self.layer.stats()
            return _answers({self.process: await _answer(kind, payload)}, [], stats)
        await self.open()
        stats = await self.layer.stats(fleet=True)
        others = [
            each
            for each in stats.processes
            if each.in_cluster and each.process != self.process
        ]
        expected = [each.process for each in others]
        own, answers = await asyncio.gather(
            _answer(kind, payload),
            self._send(CLUSTER_GROUP, kind, payload, expected, timeout),
        )
        return _answers({self.process: own, **answers}, others, stats)

    async def ask_one(
        self, process: str, kind: str, payload: Any, *, timeout: float
    ) -> Any:
        """Return the answer of one process.

        Raises:
            TimeoutError: when it does not answer within ``timeout`` seconds.
            LayerUnavailable: when the broker could not be reached in time.
        """
        if process == self.process:
            return await _answer(kind, payload)
        await self.open()
        answers = await self._send(
            _group_of(process), kind, payload, [process], timeout
        )
        if process not in answers:
            raise TimeoutError
        return answers[process]

    async def _send(
        self,
        group: str,
        kind: str,
        payload: Any,
        expected: Collection[str],
        timeout: float,
    ) -> dict[str, Any]:
        number = secrets.token_hex(8)
        question = self._questions[number] = _Question(expected)
        message = self._message(kind=kind, payload=payload, question=number)
        try:
            await self.layer.group_send(group, message)
            if expected:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await question.complete.wait()
        finally:
            del self._questions[number]
        return question.answers

    # What arrives

    def on_publication(self, group: str, publication: Publication) -> None:
        if asyncio.get_running_loop() is self._loop:
            self._handle(msgspec.json.decode(publication.data))

    def on_gap(self, group: str) -> None:
        _call_all(_gap_hooks)

    def _reconnected(self) -> None:
        # Called in the loop of the layer.
        call_soon(self._loop, _call_all, _reconnect_hooks)

    async def _read(self, channel: str) -> None:
        """Handle the messages of a channel, for a layer without streams."""
        try:
            while True:
                self._handle(await self.layer.receive(channel))
        finally:
            await self.layer.group_discard(CLUSTER_GROUP, channel)

    def _handle(self, message: dict[str, Any]) -> None:
        sender: str = message["from"]
        number: Any = message.get("question")
        if "answer" in message:
            if question := self._questions.get(number):
                question.add_soon(sender, message["answer"])
            return
        if number is not None and sender == self.process:
            return  # ``ask`` has called the handler itself
        try:
            # The handler runs here, not in a task, so that messages are handled in order.
            answer = _call_handler(message["kind"], message["payload"])
        except Exception:
            logger.exception("a message of another process could not be handled")
            return
        if number is not None or inspect.isawaitable(answer):
            self._tasks.spawn(self._reply(sender, number, answer))

    async def _reply(self, asker: str, number: str | None, answer: Any) -> None:
        try:
            answer = await _plain(answer)
            if number is not None:
                message = self._message(question=number, answer=answer)
                await self.layer.group_send(_group_of(asker), message)
        except Exception as error:
            logger.warning("another process could not be answered: %s", error)

    def _message(self, **fields: Any) -> dict[str, Any]:
        return {"type": "tiderace.cluster", "from": self.process, **fields}

    async def _keep_opening(self) -> None:
        while True:
            try:
                await self.open()
            except LayerUnavailable:
                # The layer has logged it.
                if not (self._persistent or process_connections):
                    return
                await asyncio.sleep(_RETRY)
            else:
                return


def _call_handler(kind: str, payload: Any) -> Any:
    handle = _handlers.get(kind)
    return None if handle is None else handle(payload)


async def _answer(kind: str, payload: Any) -> Any:
    return await _plain(_call_handler(kind, payload))


async def _plain(answer: Any) -> Any:
    """Return an answer, or the result of its coroutine, as plain data."""
    if inspect.isawaitable(answer):
        answer = await answer
    return msgspec.to_builtins(answer)


def _answers(
    by_process: dict[str, Any], expected: Collection[ProcessStats], stats: LayerStats
) -> Answers:
    silent = tuple(each for each in expected if each.process not in by_process)
    given = {name: each for name, each in by_process.items() if each is not None}
    return Answers(given, silent, stats)


def _group_of(process: str) -> str:
    return group_name("tiderace-process", process)


def _call_all(hooks: list[Callable[[], object]]) -> None:
    for hook in hooks:
        hook()


_cluster: Cluster | None = None
_lock = threading.Lock()


def current() -> Cluster:
    """Return the bus over the default channel layer."""
    global _cluster
    layer = get_channel_layer()
    with _lock:
        if _cluster is None or _cluster.layer is not layer:
            _cluster = Cluster(layer)
        return _cluster


@on_shutdown
async def close() -> None:
    """Stop receiving in this event loop."""
    if _cluster is not None:
        await _cluster.close()


def _reset_after_fork() -> None:
    global _cluster, _lock
    if _cluster is not None:
        keep_alive(_cluster)
    _cluster = None
    _lock = threading.Lock()


after_fork(_reset_after_fork)
