"""Runs the calls of a topic client: methods with ``@rpc``, and the built-in ``$`` calls."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from django.core.exceptions import PermissionDenied
from msgspec import Raw

from tiderace.protocol import codes
from tiderace.protocol.codes import Failure
from tiderace.protocol.session import Refused
from tiderace.topics.client.context import ClientContext
from tiderace.topics.declaration.topic import (
    Topic,
    rpc_arguments,
    rpc_method,
    rpc_names,
)
from tiderace.topics.growing.writers import acancel_message
from tiderace.topics.hooks import call_hook
from tiderace.topics.json_fields import read_fields

_ITEMS = 64  # items of a generator between two iterations of the event loop


class TopicCall(msgspec.Struct):
    """A call of a method of a topic."""

    channel: str
    method: str
    data: Raw = Raw(b"")


class _StreamedCall(msgspec.Struct):
    id: str
    method: str
    data: Raw = Raw(b"")


class _Id(msgspec.Struct):
    id: str


async def call_topic(context: ClientContext, topic: Topic, call: TopicCall) -> Any:
    """Run a call of a topic, and return its result.

    The methods with a ``$`` are called by ``tiderace/grow`` and ``tiderace/stream``.

    Raises:
        Refused: to answer with an error.
    """
    data = bytes(call.data)
    match call.method:
        case "$cancel":
            await _cancel(context, topic, read_fields(data, _Id).id)
        case "$stream":
            _stream(context, topic, read_fields(data, _StreamedCall))
        case "$stop":
            context.streams.stop(read_fields(data, _Id).id, topic.topic)
        case _:
            return await call_method(context, topic, call.method, data)
    return None


async def call_method(
    context: ClientContext, owner: Any, name: str, data: bytes
) -> Any:
    """Call a method of a topic or an endpoint, and return its result.

    Raises:
        Refused: when there is no such method, or it has taken too long.
    """
    method = _method(owner, name)
    arguments = rpc_arguments(method, context.identity.user, data)
    try:
        async with asyncio.timeout(context.settings.call_timeout):
            if inspect.isasyncgenfunction(method):
                async with aclosing(method(**arguments)) as generator:
                    return await _items_of(generator)
            return await call_hook(method, **arguments)
    except TimeoutError:
        raise Refused(Failure(100, "the call took too long", temporary=True)) from None


async def _items_of(generator: AsyncGenerator[Any, None]) -> list[Any]:
    items = []
    async for item in generator:
        items.append(item)
        if len(items) % _ITEMS == 0:
            # The timeout can only end a generator that waits.
            await asyncio.sleep(0)
    return items


def _method(owner: Any, name: str) -> Callable[..., Any]:
    method = rpc_method(owner, name)
    if method is None:
        methods = ", ".join(rpc_names(owner)) or "none"
        reason = (
            f"{type(owner).__name__} has no method {name[:80]!r} marked with @rpc "
            f"(it has {methods})"
        )
        raise Refused(codes.METHOD_NOT_FOUND, reason=reason)
    return method


def _stream(context: ClientContext, topic: Topic, call: _StreamedCall) -> None:
    """Start a call whose result is streamed to a subscriber."""
    subscription = context.subscriptions.get(topic.topic)
    if subscription is None or not subscription.active:
        reason = "only a subscriber gets the stream of a call"
        raise Refused(codes.PERMISSION_DENIED, reason=reason)
    method = _method(topic, call.method)
    if not inspect.isasyncgenfunction(method):
        kind = type(topic).__name__
        reason = f"{kind}.{call.method} is no async generator; call it without a stream"
        raise Refused(codes.METHOD_NOT_FOUND, reason=reason)
    arguments = rpc_arguments(method, context.identity.user, bytes(call.data))
    context.streams.start(
        call.id,
        method(**arguments),
        channel=topic.topic,
        outbox=subscription.outbox,
        scope=context.scope,
    )


async def _cancel(context: ClientContext, topic: Topic, message_id: str) -> None:
    """Cancel a growing message, if the topic's ``can_cancel`` allows it."""
    message = context.growing.find(topic.topic, message_id)
    if topic.topic not in context.subscriptions or message is None:
        raise Refused(Failure(400, "no growing message has this id"))
    hook, kind = topic.can_cancel, type(topic).__name__
    if hook is None:
        raise Refused(codes.PERMISSION_DENIED, reason=f"{kind} has no can_cancel")
    may: Any
    try:
        may = await call_hook(hook, context.identity.user, message.fields())
    except PermissionDenied:
        may = False
    if not may:
        reason = f"{kind}.can_cancel does not allow it"
        raise Refused(codes.PERMISSION_DENIED, reason=reason)
    await acancel_message(topic.topic, message.id)
