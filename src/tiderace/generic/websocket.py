"""Consumers for WebSockets: sync and async, plain and JSON.

    class Chat(AsyncJsonWebsocketConsumer):
        groups = ["lobby"]

        async def receive_json(self, content):
            await self.channel_layer.group_send(
                "lobby", {"type": "chat.message", "text": content["text"]}
            )

        async def chat_message(self, event):
            await self.send_json({"text": event["text"]})

``connect``, ``receive`` and ``disconnect`` are to be overridden; ``accept``, ``send``
and ``close`` speak to the client. It knows the events of WebSockets; how a consumer
runs and ends stands in ``tiderace.consumer``.

In an async consumer a ``connect``, ``receive`` or ``disconnect`` that is a plain
``def`` runs in a thread, where the verbs need no ``await``; in a sync one an ``async
def`` runs on the event loop, where the verbs return something to await.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction

from tiderace.asgi import Event, websocket_accept, websocket_close, websocket_send
from tiderace.consumer import AsyncConsumer, SyncConsumer, may_block, verb
from tiderace.db import database_sync_to_async
from tiderace.exceptions import (
    AcceptConnection,
    DenyConnection,
    InvalidChannelLayerError,
    StopConsumer,
)
from tiderace.json_compat import dumps

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

# What an application overrides and the generic consumers call.
_LIFE_CYCLE = (
    "connect",
    "disconnect",
    "receive",
    "receive_json",
    "websocket_connect",
    "websocket_disconnect",
    "websocket_receive",
)

_VERBS = ("accept", "close", "send", "send_json")


def _life_cycle(cls: type) -> list[tuple[str, Callable[..., Any]]]:
    """The life-cycle methods of ``cls`` that are functions, its mixins' included."""
    return [
        (name, method)
        for name in _LIFE_CYCLE
        if inspect.isfunction(method := inspect.getattr_static(cls, name, None))
    ]


def _in_thread(method: Callable[..., Any]) -> Callable[..., Any]:
    """``method``, a plain function, as a coroutine function that runs it in a thread."""

    @functools.wraps(method)
    async def run(*args: Any, **kwargs: Any) -> Any:
        result = await database_sync_to_async(method)(*args, **kwargs)
        if hasattr(result, "__await__"):  # it returned a verb's coroutine
            return await result
        return result

    return run


def _from_thread(method: Callable[..., Any]) -> Callable[..., Any]:
    """``method``, a coroutine function, as a plain one that waits for it in a thread."""

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        return async_to_sync(method)(*args, **kwargs)

    # What is inside is nobody's business: looked through, it would seem not to block.
    del run.__wrapped__
    return run


class WebsocketConsumer(SyncConsumer):
    """A WebSocket, handled in a thread.

    Attributes:
        groups: the groups to join before ``connect`` and to leave at the end.
    """

    groups: Iterable[str] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self.groups is None:
            self.groups = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, method in _life_cycle(cls):
            if iscoroutinefunction(method):
                setattr(cls, name, _from_thread(method))

    def websocket_connect(self, message: Event) -> None:
        """The client asks for a socket: join ``groups``, then ``connect()``."""
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
        """Accept or close the socket; accepts when not overridden."""
        self.accept()

    def accept(
        self,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
    ) -> Any:
        """Accept the socket.

        Args:
            subprotocol: one of ``scope["subprotocols"]``, or None.
            headers: for the handshake's response, where the server supports it.
        """
        return super().send(websocket_accept(subprotocol, headers))

    def websocket_receive(self, message: Event) -> None:
        """The client sent a message: text or bytes to ``receive()``."""
        if message.get("text") is not None:
            self.receive(text_data=message["text"])
        else:
            self.receive(bytes_data=message["bytes"])

    def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Handle a message of the client: exactly one of the two is given."""

    def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> Any:
        """Send a message to the client, and close afterwards if ``close`` says so.

        Args:
            text_data: text to send; wins over ``bytes_data``.
            bytes_data: bytes to send.
            close: True, or the code to close with.

        Raises:
            ValueError: when neither text nor bytes are given.
        """
        sent = super().send(websocket_send(text_data, bytes_data))
        if not close:
            return sent
        if sent is None:
            return self.close(close)
        return _in_turn(sent, lambda: self.close(close))

    def close(self, code: int | bool | None = None, reason: str | None = None) -> Any:
        """Close the socket, or refuse it when it was not accepted yet.

        Args:
            code: the close code (RFC 6455 section 7.4); the server's 1000 if None.
            reason: text of at most 123 bytes, where the server supports it.
        """
        return super().send(websocket_close(code, reason))

    def websocket_disconnect(self, message: Event) -> None:
        """The socket is gone: leave ``groups``, then ``disconnect()``."""
        if self.groups:
            layer = _layer_with_groups(self.channel_layer)
            for group in self.groups:
                async_to_sync(layer.group_discard)(group, self.channel_name)
        self.disconnect(message.get("code", 1005))
        raise StopConsumer

    def disconnect(self, code: int) -> None:
        """Called once when the socket is gone, with its close code.

        The code is the server's: for a connection that was lost it is 1005 or 1006,
        for one that ends because a handler raised 1011.
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
        """Decode a message of the client and hand it to ``receive_json()``.

        Raises:
            ValueError: for a message that is not text, or not JSON.
        """
        if not text_data:
            raise ValueError("No text section for incoming WebSocket frame!")
        self.receive_json(self.decode_json(text_data), **kwargs)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Handle what the client sent."""

    def send_json(self, content: Any, close: bool | int = False) -> Any:
        """Send ``content`` as JSON; ``close`` as in ``send``."""
        return super().send(text_data=self.encode_json(content), close=close)

    @classmethod
    def decode_json(cls, text_data: str) -> Any:
        """JSON to an object; override for another dialect."""
        return json.loads(text_data)

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """An object to JSON, see ``tiderace.json_compat.dumps``; override for a dialect."""
        return dumps(content)


class AsyncWebsocketConsumer(AsyncConsumer):
    """A WebSocket, handled by coroutines.

    Attributes:
        groups: the groups to join before ``connect`` and to leave at the end.
    """

    _sends_plainly: bool = True

    groups: Iterable[str] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self.groups is None:
            self.groups = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, method in _life_cycle(cls):
            if may_block(method):
                setattr(cls, name, _in_thread(method))
        for name in _VERBS:
            if inspect.isfunction(own := vars(cls).get(name)):
                setattr(cls, name, verb(own))
        # Whether no class between has a ``send`` of its own.
        after = cls.__mro__[cls.__mro__.index(AsyncWebsocketConsumer) + 1 :]
        cls._sends_plainly = (
            next(base for base in after if "send" in vars(base)) is AsyncConsumer
        )

    async def websocket_connect(self, message: Event) -> None:
        """The client asks for a socket: join ``groups``, then ``connect()``."""
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
        """Accept or close the socket; accepts when not overridden."""
        await self.accept()

    @verb
    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """Accept the socket; see ``WebsocketConsumer.accept``."""
        await super().send(websocket_accept(subprotocol, headers))

    async def websocket_receive(self, message: Event) -> None:
        """The client sent a message: text or bytes to ``receive()``."""
        if message.get("text") is not None:
            await self.receive(text_data=message["text"])
        else:
            await self.receive(bytes_data=message["bytes"])

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Handle a message of the client: exactly one of the two is given."""

    def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> Any:
        """Send a message to the client; see ``WebsocketConsumer.send``."""
        if (
            text_data is not None
            and not close
            and self._sends_plainly
            and get_ident() == self._thread_id
        ):
            # What the long way comes to, without its coroutines: the hot path.
            return self.base_send({"type": "websocket.send", "text": text_data})
        return self._send(text_data, bytes_data, close)

    @verb
    async def _send(
        self, text_data: str | None, bytes_data: bytes | None, close: bool | int
    ) -> None:
        await super().send(websocket_send(text_data, bytes_data))
        if close:
            await self.close(close)

    send._tiderace_verb = True  # type: ignore[attr-defined]  # noqa: SLF001
    markcoroutinefunction(send)

    @verb
    async def close(
        self, code: int | bool | None = None, reason: str | None = None
    ) -> None:
        """Close or refuse the socket; see ``WebsocketConsumer.close``."""
        await super().send(websocket_close(code, reason))

    async def websocket_disconnect(self, message: Event) -> None:
        """The socket is gone: leave ``groups``, then ``disconnect()``."""
        if self.groups:
            layer = _layer_with_groups(self.channel_layer)
            for group in self.groups:
                await layer.group_discard(group, self.channel_name)
        await self.disconnect(message.get("code", 1005))
        raise StopConsumer

    async def disconnect(self, code: int) -> None:
        """Called once when the socket is gone; see ``WebsocketConsumer.disconnect``."""


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer):
    """A WebSocket that carries JSON in text messages, handled by coroutines."""

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        """Decode a message of the client and hand it to ``receive_json()``.

        Raises:
            ValueError: for a message that is not text, or not JSON.
        """
        if not text_data:
            raise ValueError("No text section for incoming WebSocket frame!")
        await self.receive_json(await _result(self.decode_json(text_data)), **kwargs)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Handle what the client sent."""

    @verb
    async def send_json(self, content: Any, close: bool | int = False) -> None:
        """Send ``content`` as JSON; ``close`` as in ``send``."""
        text_data = await _result(self.encode_json(content))
        await super().send(text_data=text_data, close=close)

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        """JSON to an object; override for another dialect."""
        return json.loads(text_data)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        """An object to JSON, see ``tiderace.json_compat.dumps``; override for a dialect."""
        return dumps(content)


async def _result(value: Any) -> Any:
    """``value``, awaited if it has to be: a codec may be a plain def as well."""
    return await value if inspect.isawaitable(value) else value


async def _in_turn(first: Any, then: Callable[[], Any]) -> None:
    await first
    await then()


def _layer_with_groups(layer: Any) -> Any:
    """``layer`` if it can do what ``groups`` needs.

    Raises:
        InvalidChannelLayerError: when there is no layer, or one without groups.
    """
    if layer is None or not hasattr(layer, "group_add"):
        raise InvalidChannelLayerError(
            "BACKEND is unconfigured or doesn't support groups"
        )
    return layer
