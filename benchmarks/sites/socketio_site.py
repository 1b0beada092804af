"""python-socketio: one room with all sockets."""

from __future__ import annotations

import socketio

# No ping during a run.
server = socketio.AsyncServer(async_mode="asgi", ping_interval=3600)


@server.event
async def connect(sid, environ):
    await server.enter_room(sid, "fan")


@server.event
async def say(sid, said):
    await server.emit("said", said, room="fan")


@server.event
async def echo(sid, said):
    await server.emit("said", said, to=sid)


application = socketio.ASGIApp(server)
