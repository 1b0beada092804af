"""A consumer beside the topics."""

from __future__ import annotations

from typing import Any

from tiderace.generic.websocket import AsyncJsonWebsocketConsumer


class Greeter(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"hello": content})
