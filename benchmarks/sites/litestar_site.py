"""Litestar's channels: a subscription of every socket to one channel."""

from __future__ import annotations

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.exceptions import WebSocketDisconnect


@websocket("/fan/")
async def fan(socket: WebSocket, channels: ChannelsPlugin) -> None:
    await socket.accept()
    async with (
        channels.start_subscription(["fan"]) as subscriber,
        subscriber.run_in_background(socket.send_text),
    ):
        try:
            while True:
                channels.publish(await socket.receive_text(), "fan")
        except WebSocketDisconnect:
            return


@websocket("/echo/")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        return


application = Litestar(
    [fan, echo],
    plugins=[ChannelsPlugin(backend=MemoryChannelsBackend(), channels=["fan"])],
)
