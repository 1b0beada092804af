"""Consumers of tests: one that echoes, one that fails, one in a group."""

from __future__ import annotations

from tiderace.consumer import (
    AsyncConsumer,
    StopConsumer,
)

__all__ = ["Accepting", "Failing", "Member"]


class Accepting(AsyncConsumer):
    """Accepts its socket, and echoes text."""

    async def websocket_connect(self, event):
        await self.send({"type": "websocket.accept"})

    async def websocket_receive(self, event):
        await self.say(event["text"])

    async def say(self, text):
        await self.send({"type": "websocket.send", "text": text})


class Failing(Accepting):
    """Fails at its first message, joined to a group by hand."""

    def __init__(self):
        self.codes = []

    async def websocket_connect(self, event):
        await self.channel_layer.group_add("room", self.channel_name)
        await super().websocket_connect(event)

    async def websocket_receive(self, event):
        raise LookupError("nothing there")

    async def websocket_disconnect(self, event):
        self.codes.append(event["code"])


class Member(Accepting):
    """Is in the group "room", and has things that no message may touch."""

    lobby = "a text, not a method"

    async def websocket_connect(self, event):
        self.called = []
        self.room = "harbour"
        await self.channel_layer.group_add("room", self.channel_name)
        await super().websocket_connect(event)

    async def websocket_disconnect(self, event):
        raise StopConsumer

    async def _private(self, event):
        await self.say("private")

    async def ping(self, event):
        await self.say("pong")
