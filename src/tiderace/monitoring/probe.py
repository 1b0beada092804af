"""Tests a configured channel layer with real messages, and times them.

Two layer objects are created, as in two processes, so that messages pass through the
broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tiderace.exceptions import InvalidChannelLayerError, LayerUnavailable
from tiderace.layers import InMemoryChannelLayer, channel_layers
from tiderace.layers.manager import layer_attribute
from tiderace.layers.pubsub.layer import PubSubLayer

# Round trips whose median is reported: the first also opens connections.
_ROUNDS = 5
# Messages sent while the reader is disconnected.
_MISSED = 3


class ProbeFailed(Exception):
    """A layer broke its contract, as the message describes."""


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one test.

    Attributes:
        name: the test.
        passed: whether it worked; None when the layer does not offer it.
        seconds: its duration; for round trips their median.
        note: what failed and what to do, or a remark.
    """

    name: str
    passed: bool | None
    seconds: float | None = None
    note: str = ""


def any_failed(steps: Iterable[Step]) -> bool:
    """Return whether a test has failed."""
    return any(step.passed is False for step in steps)


async def probe_layer(alias: str, *, timeout: float) -> list[Step]:
    """Test the layer ``alias`` of ``CHANNEL_LAYERS``; stop at the first failure.

    The names it uses are random, so it may be called on a system that is in use.

    Args:
        alias: the layer.
        timeout: seconds for each step. A broker that is away is reported after the
            layer's own ``publish_timeout``, if that is shorter.
    """
    try:
        sender = channel_layers.make_backend(alias)
        # Two layers in memory are not connected.
        alone = isinstance(sender, InMemoryChannelLayer)
        reader = sender if alone else channel_layers.make_backend(alias)
    except (InvalidChannelLayerError, TypeError, ValueError, ImportError) as error:
        note = f"{error}; correct CHANNEL_LAYERS[{alias!r}]"
        return [Step("make", False, None, note)]
    probe = _Probe(sender, reader)
    steps: list[Step] = []
    try:
        for name, attempt in (
            ("send and receive", probe.send_and_receive),
            ("group", probe.group),
            ("recovery", probe.recovery),
        ):
            steps.append(await _run_step(name, attempt, timeout))
            if any_failed(steps):
                break  # the next steps depend on it
    finally:
        for layer in {id(sender): sender, id(reader): reader}.values():
            await _closed(layer)
    return steps


async def _run_step(
    name: str, attempt: Callable[[], Awaitable[tuple[float, str]]], timeout: float
) -> Step:
    try:
        async with asyncio.timeout(timeout):
            seconds, note = await attempt()
        return Step(name, True, seconds, note)
    except TimeoutError:
        note = (
            f"nothing arrived within {timeout:g} s; is something else reading or "
            "emptying this server, or is it too slow?"
        )
    except LayerUnavailable as error:
        note = str(error)
    except NotImplementedError as error:
        return Step(name, None, None, str(error))
    except Exception as error:
        # A layer of another project may raise anything.
        note = f"{type(error).__name__}: {error}"
    return Step(name, False, None, note)


async def _closed(layer: Any) -> None:
    close = layer_attribute(layer, "close") or layer_attribute(layer, "close_pools")
    if close is not None:
        with contextlib.suppress(LayerUnavailable):
            await close()


class _Probe:
    """Sends messages from one layer to the other, which may be the same.

    Each test returns its duration and a remark.
    """

    def __init__(self, sender: Any, reader: Any) -> None:
        self._sender = sender
        self._reader = reader
        self._name = f"tiderace-check.{uuid.uuid4().hex[:16]}"

    async def send_and_receive(self) -> tuple[float, str]:
        """Send to a named channel with one layer, and receive with the other."""
        median = await self._round_trip(self._sender.send, self._name)
        note = "in this process alone" if self._sender is self._reader else ""
        return median, note

    async def group(self) -> tuple[float, str]:
        """Check that a member of a group gets its messages, and none after it has left."""
        channel = await self._reader.new_channel()
        await self._reader.group_add(self._name, channel)
        median = await self._round_trip(self._sender.group_send, channel)
        await self._reader.group_discard(self._name, channel)
        await self._sender.group_send(self._name, _numbered(-1))
        await self._sender.send(channel, _numbered(-2))
        if await self._reader.receive(channel) != _numbered(-2):
            raise ProbeFailed("a channel that had left a group still got its messages")
        return median, ""

    async def _round_trip(self, send: Any, channel: str) -> float:
        """Return the median time from ``send`` to the message's receipt on a channel."""
        times = []
        for number in range(_ROUNDS):
            message = {**_numbered(number), "data": b"\x00\xff"}
            begun = time.perf_counter()
            await send(self._name, message)
            received = await self._reader.receive(channel)
            times.append(time.perf_counter() - begun)
            _same([received], [message])
        return statistics.median(times)

    async def recovery(self) -> tuple[float, str]:
        """Check that messages arrive that are sent while the reader is disconnected."""
        if not isinstance(self._reader, PubSubLayer):
            reason = "nothing can be cut off"
            if self._sender is not self._reader:
                reason = "this layer does not fetch what a process missed"
            raise NotImplementedError(reason)
        channel = await self._reader.new_channel()
        group = f"{self._name}.cut"
        await self._reader.group_add(group, channel)
        messages = [_numbered(number) for number in range(_MISSED)]
        with _without_warnings():
            await self._reader.interrupt()
            begun = time.perf_counter()
            for message in messages:
                await self._sender.group_send(group, message)
            received = [await self._reader.receive(channel) for _ in messages]
            took = time.perf_counter() - begun
        _same(received, messages)
        return (
            took,
            f"{_MISSED} messages sent while the connection was cut came, in order",
        )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress the layer's warnings of a disconnection that the probe causes."""
    logger = logging.getLogger("tiderace.layers")

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    logger.addFilter(is_error)
    try:
        yield
    finally:
        logger.removeFilter(is_error)


def _numbered(number: int) -> dict[str, Any]:
    return {"type": "tiderace.check", "number": number}


def _same(received: list[Any], sent: list[Any]) -> None:
    if received != sent:
        raise ProbeFailed(
            f"what arrived is not what was sent: {received!r} instead of {sent!r}"
        )
