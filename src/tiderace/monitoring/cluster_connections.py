"""Asking every process who is connected to it, and having connections end everywhere.

Nothing is reported all the time: a process answers when it is asked. It knows layers
with listeners; what there is to tell is ``monitoring.connections``'s to know.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import secrets
import threading
import weakref
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec

from tiderace.exceptions import LayerUnavailable
from tiderace.history import Publication
from tiderace.layers import InMemoryChannelLayer, get_channel_layer
from tiderace.layers.names import group_name
from tiderace.layers.stats import LayerStats
from tiderace.monitoring.connections import (
    ProcessReport,
    close_topic,
    disconnect_user,
    report,
)
from tiderace.protocol import codes
from tiderace.protocol.codes import Unsubscription
from tiderace.runtime.connections import process_connections
from tiderace.topics.api import CONNECTIONS_GROUP

__all__ = [
    "ConnectionSurvey",
    "Ended",
    "ProcessReport",
    "attend",
    "end_topic_everywhere",
    "end_user_everywhere",
    "roll_call",
]

logger = logging.getLogger("tiderace.monitoring")

# Seconds that processes have for their answers.
_PATIENCE = 1.0
_RETRY = 1.0


@dataclass(frozen=True, slots=True)
class ConnectionSurvey:
    """Who is connected where, as far as the processes have answered."""

    answers: tuple[ProcessReport, ...]
    silent: tuple[str, ...]
    """Host and process id of those that serve somebody and have not answered in time."""
    stats: LayerStats
    whole: bool = True
    """Whether the layer can ask other processes at all."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How many connections were told to end."""

    connections: int
    silent: tuple[str, ...]


async def roll_call(
    *, limit: int = 100, user: str = "", topic: str = "", timeout: float = _PATIENCE
) -> ConnectionSurvey:
    """Ask all processes who is connected to them.

    Args:
        limit: connections that each process tells of one by one, the newest ones;
            numbers are exact whatever the limit.
        user: only connections of the user with this primary key.
        topic: only connections that hear this topic.
        timeout: seconds for the answers; who has not answered by then is ``silent``.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    question = {"type": "who", "limit": limit, "user": user, "topic": topic}
    said, silent, stats = await _ask(question, timeout)
    answers = []
    for each in said:
        try:
            answers.append(msgspec.convert(each, ProcessReport))
        except msgspec.ValidationError as error:
            logger.warning("a process of another release answers otherwise: %s", error)
    answers.sort(key=lambda each: (each.host, each.pid))
    return ConnectionSurvey(tuple(answers), silent, stats, _hears(get_channel_layer()))


async def end_user_everywhere(
    user: str, reason: str, *, timeout: float = _PATIENCE
) -> Ended:
    """Close all connections of a user, of topic clients and of consumers.

    It keeps nobody from coming back who may: deactivate the user for that.

    Args:
        user: its primary key.
        reason: what the clients are told; at most 123 bytes.
        timeout: seconds in which the processes say how many they were.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    question = {"type": "end", "user": user, "reason": reason}
    said, silent, _ = await _ask(question, timeout)
    return Ended(sum(said), silent)


async def end_topic_everywhere(topic: str, *, timeout: float = _PATIENCE) -> Ended:
    """End all subscriptions to a topic, as ``topics.close_topic`` does, and count them.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    why = codes.UNSUBSCRIBED_BY_SERVER
    question = {"type": "end-topic", "topic": topic}
    said, silent, _ = await _ask(
        {**question, "code": why.code, "reason": why.reason}, timeout
    )
    return Ended(sum(said), silent)


# Asking


class _Asking:
    """One question, and its answers by process; a listener of the layer."""

    def __init__(self) -> None:
        token = secrets.token_hex(8)
        self.name = f"asking:{token}"
        self.groups: set[str] = set()
        self.group = group_name("tiderace-answers", token)
        self.answers: dict[str, Any] = {}
        self.complete = asyncio.Event()
        self.expected: set[str] = set()

    def on_publication(self, group: str, publication: Publication) -> None:
        """See ``tiderace.delivery.stream_hub.Listener``."""
        event = msgspec.json.decode(publication.data)
        self.answers[event["process"]] = event["answer"]
        if self.expected <= self.answers.keys():
            self.complete.set()

    def on_gap(self, group: str) -> None:
        """See ``tiderace.delivery.stream_hub.Listener``; who was missed is silent."""


async def _ask(
    question: dict[str, Any], timeout: float
) -> tuple[list[Any], tuple[str, ...], LayerStats]:
    """The answers of all processes, this one included; who is silent; their numbers."""
    layer = get_channel_layer()
    if not _hears(layer) or isinstance(layer, InMemoryChannelLayer):
        stats = LayerStats(()) if layer is None else await _stats(layer)
        return [await _answer(question, layer)], (), stats
    await _attend(layer)
    stats = await layer.stats(fleet=True)
    me = layer.stats_here(0).process
    others = {each.process: each for each in stats.processes if each.process != me}
    asking = _Asking()
    asking.expected = set(others)
    await layer.stream_subscribe(asking.group, asking)
    try:
        event = {**question, "reply": asking.group, "from": me}
        await layer.group_send(CONNECTIONS_GROUP, event)
        mine = await _answer(question, layer)
        if others:
            try:
                async with asyncio.timeout(timeout):
                    await asking.complete.wait()
            except TimeoutError:
                pass  # the missing ones are named
    finally:
        layer.stream_unsubscribe(asking.group, asking)
    silent = tuple(
        f"{each.host}:{each.pid}"
        for name, each in others.items()
        if name not in asking.answers and (each.connections or each.topic_clients)
    )
    return [mine, *asking.answers.values()], silent, stats


async def _stats(layer: Any) -> LayerStats:
    if not hasattr(layer, "stats"):
        return LayerStats(())  # of another project
    stats: LayerStats = await layer.stats()
    return stats


def _hears(layer: Any) -> bool:
    return hasattr(layer, "stream_subscribe") and hasattr(layer, "stats_here")


# Answering


async def _answer(event: dict[str, Any], layer: Any) -> Any:
    match event.get("type"):
        case "who":
            answer = report(
                layer.stats_here(0).process if _hears(layer) else "",
                limit=event["limit"],
                user=event["user"],
                topic=event["topic"],
            )
            return msgspec.to_builtins(answer)
        case "end":
            return await disconnect_user(event["user"], event["reason"])
        case "end-topic":
            return close_topic(
                event["topic"], Unsubscription(event["code"], event["reason"])
            )
    return None


class _Attendant:
    """Hears what is asked of this process, and of every other one."""

    def __init__(self, layer: Any) -> None:
        self.name = f"attendant:{secrets.token_hex(8)}"
        self.groups: set[str] = set()
        self._layer = weakref.ref(layer)
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.beginning: asyncio.Task[None] | None = None
        # Whether to wait for the broker though nobody is connected.
        self.patient = False

    def serves(self, layer: Any) -> bool:
        """Whether it hears, or is about to hear, this layer."""
        return (
            self._layer() is layer
            and self._pid == os.getpid()
            and not self._loop.is_closed()
            and (CONNECTIONS_GROUP in self.groups or self.beginning is not None)
        )

    def begin(self) -> None:
        """Listen as soon as the broker can be reached, while somebody is connected.

        A patient one waits for the broker in any case.
        """
        self.beginning = self._spawn(self._begin())

    async def _begin(self) -> None:
        try:
            while (layer := self._layer()) is not None:
                try:
                    await layer.stream_subscribe(CONNECTIONS_GROUP, self)
                except LayerUnavailable:
                    # The layer itself says so in the log.
                    if not (self.patient or process_connections):
                        return
                    await asyncio.sleep(_RETRY)
                else:
                    return
        finally:
            self.beginning = None

    def on_publication(self, group: str, publication: Publication) -> None:
        """See ``tiderace.delivery.stream_hub.Listener``."""
        event = msgspec.json.decode(publication.data)
        layer = self._layer()
        if layer is None or event.get("from") == layer.stats_here(0).process:
            return
        self._spawn(self._respond(layer, event))

    def on_gap(self, group: str) -> None:
        """See ``tiderace.delivery.stream_hub.Listener``."""
        logger.warning(
            "this process may have missed that a user was disconnected or a topic "
            "closed; do it again if it was"
        )

    async def _respond(self, layer: Any, event: dict[str, Any]) -> None:
        answer = await _answer(event, layer)
        if reply := event.get("reply"):
            process = layer.stats_here(0).process
            said = {"type": "answer", "process": process, "answer": answer}
            await layer.group_send(reply, said)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # A copy of the context would keep the request or socket that came first.
        task = self._loop.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("another process could not be answered: %s", error)


_attendant: _Attendant | None = None
_lock = threading.Lock()


def _attendant_of(layer: Any) -> _Attendant:
    """The one of this process; it begins in the running event loop if there is none.

    One for all loops, for who asks has to know when a whole process has answered.
    """
    global _attendant
    with _lock:
        if _attendant is None or not _attendant.serves(layer):
            _attendant = _Attendant(layer)
            _attendant.begin()
        return _attendant


async def _attend(layer: Any) -> None:
    """Answer others from now on."""
    beginning = _attendant_of(layer).beginning
    if beginning is not None and beginning.get_loop() is asyncio.get_running_loop():
        await asyncio.wait([beginning])


def attend(*, patient: bool = False) -> None:
    """Answer others from now on, in the running event loop; again is as once.

    Args:
        patient: whether to go on trying while the broker is away, though nobody is
            connected to this process.
    """
    layer = get_channel_layer()
    if _hears(layer):
        _attendant_of(layer).patient |= patient
