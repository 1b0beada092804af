"""Consumers for WebSockets: sync and async, plain and JSON.

::

    class Chat(AsyncJsonWebsocketConsumer):
        groups = ["lobby"]

        async def receive_json(self, content):
            await self.channel_layer.group_send(
                "lobby", {"type": "chat.message", "text": content["text"]}
            )

        async def chat_message(self, event):
            await self.send_json({"text": event["text"]})

Override ``connect``, ``receive`` and ``disconnect``; call ``accept``, ``send`` and
``close``. ``tiderace.consumer`` describes how a consumer runs and ends.

In an async consumer a ``connect``, ``receive`` or ``disconnect`` that is a plain
``def`` runs in a thread, where ``accept``, ``send`` and ``close`` need no ``await``. In a
sync consumer an ``async def`` runs on the event loop, where they return an awaitable.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import ImproperlyConfigured

from tiderace.asgi import Event, websocket_accept, websocket_close, websocket_send
from tiderace.consumer import (
    AsyncConsumer,
    SyncConsumer,
    may_block,
)
from tiderace.db import database_sync_to_async
from tiderace.exceptions import (
    AcceptConnection,
    DenyConnection,
    InvalidChannelLayerError,
    StopConsumer,
)
from tiderace.json_compat import dumps, require_depth
from tiderace.runtime.sync_bridge import callable_in_threads

__all__ = [
    "AcceptConnection",
    "AsyncConsumer",
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "DenyConnection",
    "InvalidChannelLayerError",
    "JsonWebsocketConsumer",
    "StopConsumer",
    "SyncConsumer",
    "WebsocketConsumer",
    "async_to_sync",
]

# The methods that an application overrides and the generic consumers call.
_LIFE_CYCLE = (
    "connect",
    "disconnect",
    "receive",
    "receive_json",
    "websocket_connect",
    "websocket_disconnect",
    "websocket_receive",
)

_SENDING = ("accept", "close", "send", "send_json")


def _life_cycle(cls: type) -> list[tuple[str, Callable[..., Any]]]:
    """Return the life-cycle methods of ``cls``, those of its mixins included."""
    return [
        (name, method)
        for name in _LIFE_CYCLE
        if inspect.isfunction(method := inspect.getattr_static(cls, name, None))
    ]


def _require_groups(cls: type) -> None:
    """Check that ``groups`` is no string, of which each letter would be a group.

    Raises:
        ImproperlyConfigured: when it is one.
    """
    groups = inspect.getattr_static(cls, "groups", None)
    if isinstance(groups, str):
        raise ImproperlyConfigured(
            f'{cls.__module__}.{cls.__qualname__} has groups = "{groups}", a string, so '
            f'it would join a group for each letter; write groups = ["{groups}"]'
        )


def _run_in_thread(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a coroutine function that runs ``method``, a plain function, in a thread."""

    @functools.wraps(method)
    async def run(*args: Any, **kwargs: Any) -> Any:
        result = await database_sync_to_async(method)(*args, **kwargs)
        if hasattr(result, "__await__"):  # such as the coroutine of send()
            return await result
        return result

    return run


def _run_from_thread(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function that runs ``method``, a coroutine function, from a thread."""

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        return async_to_sync(method)(*args, **kwargs)

    # ``may_block`` looks at what is wrapped, and would find a coroutine function.
    del run.__wrapped__
    return run


class WebsocketConsumer(SyncConsumer):
    """A WebSocket, handled in a thread.

    Attributes:
        groups: the groups that are joined before ``connect`` and left at the end.
    """

    groups: Iterable[str] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self.groups is None:
            self.groups = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _require_groups(cls)
        for name, method in _life_cycle(cls):
            if iscoroutinefunction(method):
                setattr(cls, name, _run_from_thread(method))

    def websocket_connect(self, message: Event) -> None:
        """Join ``groups``, then call ``connect()``: a client opens the WebSocket."""
        if self.groups:
            layer = _layer_with_groups(self.channel_layer)
            for group in self.groups:
                async_to_sync(layer.group_add)(group, self.channel_name)
        try:
            self.connect()
        except AcceptConnection:
            self.accept()
        except DenyConnection:
            self.close()

    def connect(self) -> None:
        """Accept or close the socket; the default accepts it.

        Raise ``AcceptConnection`` or ``DenyConnection`` to do so from nested code.
        """
        self.accept()

    def accept(
        self,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
    ) -> Any:
        """Accept the socket.

        Args:
            subprotocol: one of ``scope["subprotocols"]``, or None.
            headers: added to the handshake's response, if the server supports it.
        """
        return super().send(websocket_accept(subprotocol, headers))

    def websocket_receive(self, message: Event) -> None:
        """Call ``receive()`` with the text or bytes that the client has sent."""
        if message.get("text") is not None:
            self.receive(text_data=message["text"])
        else:
            self.receive(bytes_data=message["bytes"])

    def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Handle a message of the client; exactly one of the arguments is given."""

    def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> Any:
        """Send a message to the client, and close the socket after it if ``close`` is set.

        Args:
            text_data: text to send; if it is given, ``bytes_data`` is ignored.
            bytes_data: bytes to send.
            close: True, or the close code.

        Raises:
            ValueError: when neither text nor bytes are given.
        """
        sent = super().send(websocket_send(text_data, bytes_data))
        if not close:
            return sent
        if sent is None:
            return self.close(close)
        return _await_both(sent, lambda: self.close(close))

    def close(self, code: int | bool | None = None, reason: str | None = None) -> Any:
        """Close the socket, or refuse it if it was not accepted.

        Args:
            code: the close code (RFC 6455 section 7.4); with None the server sends 1000.
            reason: a text of at most 123 bytes, if the server supports it.
        """
        return super().send(websocket_close(code, reason))

    def websocket_disconnect(self, message: Event) -> None:
        """Leave ``groups``, then call ``disconnect()``: the socket is closed."""
        if self.groups:
            layer = _layer_with_groups(self.channel_layer)
            for group in self.groups:
                async_to_sync(layer.group_discard)(group, self.channel_name)
        self.disconnect(message.get("code", 1005))
        raise StopConsumer

    def disconnect(self, code: int) -> None:
        """Called once after the socket is closed.

        ``code`` is the close code: the client's or the application's; 1005 or 1006 for a
        connection that was lost, 1011 after an exception of a handler.
        """


class JsonWebsocketConsumer(WebsocketConsumer):
    """A WebSocket that carries JSON in text messages, handled in a thread."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("decode_json", "encode_json"):
            if iscoroutinefunction(getattr(cls, name)):
                raise TypeError(
                    f"{cls.__qualname__}.{name} is a coroutine function, but "
                    "JsonWebsocketConsumer calls it in a thread; write it as a plain "
                    "def, or derive from AsyncJsonWebsocketConsumer"
                )

    def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        """Decode a message of the client and call ``receive_json()``.

        Raises:
            ValueError: for a message that is not text, or not JSON.
        """
        if not text_data:
            raise ValueError("No text section for incoming WebSocket frame!")
        self.receive_json(self.decode_json(text_data), **kwargs)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Handle a decoded message of the client."""

    def send_json(self, content: Any, close: bool | int = False) -> Any:
        """Send ``content`` as JSON; ``close`` as in ``send``."""
        return super().send(text_data=self.encode_json(content), close=close)

    @classmethod
    def decode_json(cls, text_data: str) -> Any:
        """Decode JSON; override it for another decoder."""
        return _loads(text_data)

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """Encode as JSON, by ``tiderace.json_compat.dumps``; override it for another encoder."""
        return dumps(content)


class AsyncWebsocketConsumer(AsyncConsumer):
    """A WebSocket, handled by coroutines.

    Attributes:
        groups: the groups that are joined before ``connect`` and left at the end.
    """

    _send_is_inherited: bool = True

    groups: Iterable[str] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self.groups is None:
            self.groups = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _require_groups(cls)
        for name, method in _life_cycle(cls):
            if may_block(method):
                setattr(cls, name, _run_in_thread(method))
        for name in _SENDING:
            if inspect.isfunction(own := vars(cls).get(name)):
                setattr(cls, name, callable_in_threads(own))
        # Whether no class in between overrides ``send``.
        after = cls.__mro__[cls.__mro__.index(AsyncWebsocketConsumer) + 1 :]
        cls._send_is_inherited = (
            next(base for base in after if "send" in vars(base)) is AsyncConsumer
        )

    async def websocket_connect(self, message: Event) -> None:
        """Join ``groups``, then call ``connect()``: a client opens the WebSocket."""
        if self.groups:
            layer = _layer_with_groups(self.channel_layer)
            for group in self.groups:
                await layer.group_add(group, self.channel_name)
        try:
            await self.connect()
        except AcceptConnection:
            await self.accept()
        except DenyConnection:
            await self.close()

    async def connect(self) -> None:
        """Accept or close the socket; the default accepts it.

        Raise ``AcceptConnection`` or ``DenyConnection`` to do so from nested code.
        """
        await self.accept()

    @callable_in_threads
    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """Accept the socket; arguments as in ``WebsocketConsumer.accept``."""
        await super().send(websocket_accept(subprotocol, headers))

    async def websocket_receive(self, message: Event) -> None:
        """Call ``receive()`` with the text or bytes that the client has sent."""
        if message.get("text") is not None:
            await self.receive(text_data=message["text"])
        else:
            await self.receive(bytes_data=message["bytes"])

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Handle a message of the client; exactly one of the arguments is given."""

    def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> Any:
        """Send a message to the client; arguments as in ``WebsocketConsumer.send``."""
        if (
            text_data is not None
            and not close
            and self._send_is_inherited
            and get_ident() == self._thread_id
        ):
            # As ``_send``, without its coroutines: the hot path.
            return self.base_send({"type": "websocket.send", "text": text_data})
        return self._send(text_data, bytes_data, close)

    @callable_in_threads
    async def _send(
        self, text_data: str | None, bytes_data: bytes | None, close: bool | int
    ) -> None:
        await super().send(websocket_send(text_data, bytes_data))
        if close:
            await self.close(close)

    send._tiderace_callable_in_threads = True  # type: ignore[attr-defined]  # noqa: SLF001
    markcoroutinefunction(send)

    @callable_in_threads
    async def close(
        self, code: int | bool | None = None, reason: str | None = None
    ) -> None:
        """Close or refuse the socket; arguments as in ``WebsocketConsumer.close``."""
        await super().send(websocket_close(code, reason))

    async def websocket_disconnect(self, message: Event) -> None:
        """Leave ``groups``, then call ``disconnect()``: the socket is closed."""
        if self.groups:
            layer = _layer_with_groups(self.channel_layer)
            for group in self.groups:
                await layer.group_discard(group, self.channel_name)
        await self.disconnect(message.get("code", 1005))
        raise StopConsumer

    async def disconnect(self, code: int) -> None:
        """Called once after the socket is closed; as ``WebsocketConsumer.disconnect``."""


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer):
    """A WebSocket that carries JSON in text messages, handled by coroutines."""

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        """Decode a message of the client and call ``receive_json()``.

        Raises:
            ValueError: for a message that is not text, or not JSON.
        """
        if not text_data:
            raise ValueError("No text section for incoming WebSocket frame!")
        await self.receive_json(await _result(self.decode_json(text_data)), **kwargs)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Handle a decoded message of the client."""

    @callable_in_threads
    async def send_json(self, content: Any, close: bool | int = False) -> None:
        """Send ``content`` as JSON; ``close`` as in ``send``."""
        text_data = await _result(self.encode_json(content))
        await super().send(text_data=text_data, close=close)

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        """Decode JSON; override it for another decoder."""
        return _loads(text_data)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        """Encode as JSON, by ``tiderace.json_compat.dumps``; override it for another encoder."""
        return dumps(content)


async def _result(value: Any) -> Any:
    """Return ``value``, awaited if it is awaitable: codecs may be plain functions."""
    return await value if inspect.isawaitable(value) else value


async def _await_both(first: Any, then: Callable[[], Any]) -> None:
    await first
    await then()


def _layer_with_groups(layer: Any) -> Any:
    """Return ``layer``, which must support groups.

    Raises:
        InvalidChannelLayerError: for None, or a layer without groups.
    """
    if layer is None or not hasattr(layer, "group_add"):
        raise InvalidChannelLayerError(
            "BACKEND is unconfigured or doesn't support groups"
        )
    return layer


def _loads(text: str) -> Any:
    require_depth(text)
    try:
        return json.loads(text)
    except RecursionError:  # of a caller that is deep in the stack itself
        raise ValueError("the message is nested too deeply") from None
