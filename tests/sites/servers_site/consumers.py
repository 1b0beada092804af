"""Consumers that go through every station of a connection when a test says so."""

from asgiref.sync import async_to_sync
from channels.exceptions import DenyConnection
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from sites.servers_site import journal


class Life(AsyncWebsocketConsumer):
    async def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        spoken = self.scope["subprotocols"]
        await self.accept(
            subprotocol="life.v2" if "life.v2" in spoken else None,
            headers=[(b"x-life", b"long"), (b"set-cookie", b"seat=7; Path=/")],
        )

    async def receive(self, text_data=None, bytes_data=None):
        if bytes_data is not None:
            await self.send(bytes_data=bytes_data[::-1])
        elif text_data == "leave":
            await self.close(code=4007, reason="you asked for it")
        elif text_data == "crash":
            raise RuntimeError("told to crash")
        elif text_data.startswith("all:"):
            await self.channel_layer.group_send(
                self.room, {"type": "room.told", "text": text_data[4:]}
            )
        else:
            await self.send(text_data=text_data.upper())

    async def room_told(self, event):
        await self.send(text_data=f"{self.room}: {event['text']}")

    async def disconnect(self, code):
        journal.write(self.room, "disconnect", code)
        await self.channel_layer.group_discard(self.room, self.channel_name)


class SyncLife(WebsocketConsumer):
    def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        async_to_sync(self.channel_layer.group_add)(self.room, self.channel_name)
        self.accept()

    def receive(self, text_data=None, bytes_data=None):
        async_to_sync(self.channel_layer.group_send)(
            self.room, {"type": "room.told", "text": text_data}
        )

    def room_told(self, event):
        self.send(text_data=f"sync {self.room}: {event['text']}")

    def disconnect(self, code):
        journal.write(self.room, "disconnect", code)
        async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)


class Closed(AsyncWebsocketConsumer):
    async def connect(self):
        await self.close(code=4001, reason="not today")


class Denied(AsyncWebsocketConsumer):
    async def connect(self):
        raise DenyConnection


class Broken(AsyncWebsocketConsumer):
    async def connect(self):
        raise RuntimeError("told to break")
