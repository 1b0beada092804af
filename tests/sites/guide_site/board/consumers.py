"""One connection at a time: the life cycle in the guide's several styles."""

import urllib.parse

from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from sites.guide_site.board.journal import note


class HighLevelEcho(AsyncWebsocketConsumer):
    """Its receive() takes no bytes_data, its disconnect() names the code otherwise."""

    async def connect(self):
        await self.accept()

    async def receive(self, text_data=None):
        await self.send(text_data=f"heard: {text_data}")

    async def disconnect(self, close_code):
        note("high level", close_code)


class LowLevelEcho(AsyncConsumer):
    """Speaks raw ASGI and never raises StopConsumer."""

    async def websocket_connect(self, event):
        await self.send({"type": "websocket.accept"})

    async def websocket_receive(self, event):
        heard = event["text"]
        await self.send({"type": "websocket.send", "text": f"heard: {heard}"})

    async def websocket_disconnect(self, event):
        note("low level", event["code"])


class SyncEcho(SyncConsumer):
    """The sync one, with a header on accept and a close event of its own."""

    def websocket_connect(self, event):
        self.send(
            {
                "type": "websocket.accept",
                "headers": [[b"set-cookie", b"seat=window"]],
            }
        )

    def websocket_receive(self, event):
        if event["text"] == "enough":
            self.send(
                {
                    "type": "websocket.close",
                    "code": 4000,
                    "reason": "the token is stale",
                }
            )
        else:
            self.send({"type": "websocket.send", "text": f"heard: {event['text']}"})

    def websocket_disconnect(self, event):
        note("sync", event["code"])
        raise StopConsumer()


class OverridingEcho(AsyncWebsocketConsumer):
    """Replaces the ASGI handlers of the generic consumer and stops nothing."""

    async def websocket_connect(self, event):
        await self.accept()

    async def websocket_receive(self, event):
        heard = event["text"]
        await self.send(text_data=f"heard: {heard}")

    async def websocket_disconnect(self, event):
        note("overriding", event["code"])


class WhoAmI(AsyncWebsocketConsumer):
    """Reads the scope in connect()."""

    async def connect(self):
        user = self.scope["user"]
        path = self.scope["path"]
        query = self.scope["query_string"].decode()
        address = self.scope["client"][0]
        await self.accept()
        await self.send(text_data=f"{user} {path} {query} {address}")


class QueryRoom(AsyncWebsocketConsumer):
    """Takes its room from the query string."""

    async def connect(self):
        query = urllib.parse.parse_qs(self.scope["query_string"].decode())
        self.room = query.get("room", ["hall"])[0]
        await self.accept()
        await self.send(text_data=self.room)


class MembersOnly(AsyncWebsocketConsumer):
    """Turns strangers away before accept."""

    async def connect(self):
        if self.scope["user"].is_anonymous:
            await self.close(code=4001, reason="who are you?")
        else:
            await self.accept()
            await self.send(text_data=f"welcome, {self.scope['user']}")


class ShownOut(AsyncWebsocketConsumer):
    """Turns strangers away after accept, so that they learn why."""

    async def connect(self):
        await self.accept()
        if self.scope["user"].is_anonymous:
            await self.close(code=4001, reason="who are you?")


class Files(AsyncWebsocketConsumer):
    """Takes text and binary, and accepts the first subprotocol that it supports."""

    async def connect(self):
        spoken = [p for p in self.scope["subprotocols"] if p in ("chat", "echo")]
        await self.accept(subprotocol=spoken[0] if spoken else None)

    async def receive(self, text_data=None, bytes_data=None):
        if bytes_data:
            await self.send(bytes_data=bytes_data)
        else:
            await self.send(text_data=text_data)
