"""The calls that a typed project may write. Only type checkers read this module.

A line here that stops checking is a change that breaks somebody's build.
"""

from __future__ import annotations

import asyncio
from typing import Any, assert_type

from django.urls import path

import tiderace
from tiderace.asgi import ASGIApp, Scope
from tiderace.auth import AuthMiddlewareStack
from tiderace.consumer import AsyncConsumer, SyncConsumer, concurrent
from tiderace.db import database_sync_to_async
from tiderace.generic.http import AsyncHttpConsumer
from tiderace.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from tiderace.layers import InMemoryChannelLayer, group_name
from tiderace.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from tiderace.security.websocket import AllowedHostsOriginValidator
from tiderace.testing import HttpCommunicator, WebsocketCommunicator

tiderace.install_as_channels()
assert_type(tiderace.__version__, str)


class Chat(AsyncWebsocketConsumer):
    groups = ["lobby"]

    async def connect(self) -> None:
        assert_type(self.scope, Scope)
        assert_type(self.channel_name, str)
        await self.accept(subprotocol="chat", headers=[(b"x-room", b"1")])

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.send(text_data=text_data, close=4001)
        assert_type(self.spawn(self.ticking()), asyncio.Task[int])

    async def disconnect(self, code: int) -> None:
        await self.close(code=4000, reason="gone")

    async def ticking(self) -> int:
        return 1

    @concurrent
    async def report_wanted(self, event: dict[str, Any]) -> None: ...

    async def on_error(self, error: Exception) -> None: ...


class Board(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"text": content}, close=True)


class SyncChat(WebsocketConsumer):
    def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        self.send(bytes_data=b"")


class SyncBoard(JsonWebsocketConsumer):
    def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.send_json(content)


class Page(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        await self.send_response(200, b"ok", headers=[(b"Content-Type", b"text/plain")])


class Mailer(SyncConsumer):
    def mail_wanted(self, event: dict[str, Any]) -> None: ...


class Clock(AsyncConsumer):
    async def clock_tick(self, event: dict[str, Any]) -> None: ...


@database_sync_to_async
def title(pk: int) -> str:
    return str(pk)


async def read() -> None:
    assert_type(await title(1), str)


application = ProtocolTypeRouter(
    {
        "http": Page.as_asgi(),
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter([path("ws/", Chat.as_asgi())]))
        ),
        "channel": ChannelNameRouter({"mail": Mailer.as_asgi()}),
    }
)
chat: ASGIApp = Chat.as_asgi()
assert_type(group_name("room", 7), str)


async def talk() -> None:
    layer = InMemoryChannelLayer(capacity=10)
    assert_type(await layer.receive(await layer.new_channel()), dict[str, Any])
    await layer.group_send("lobby", {"type": "chat.message"})
    communicator = WebsocketCommunicator(application, "/ws/")
    connected, _ = await communicator.connect()
    assert_type(connected, bool)
    assert_type(await communicator.receive_from(timeout=2), str | bytes)
    await communicator.send_json_to({"text": "hi"})
    await communicator.disconnect()
    response = await HttpCommunicator(application, "GET", "/").get_response()
    assert_type(response, dict[str, Any])
