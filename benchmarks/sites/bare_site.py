"""A bare ASGI application: one loop over the sockets, without a framework."""

from __future__ import annotations

sends = set()


async def application(scope, receive, send):
    """A broadcast at /fan/, an echo elsewhere."""
    if scope["type"] != "websocket":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        return
    together = scope["path"] == "/fan/"
    await receive()
    await send({"type": "websocket.accept"})
    if together:
        sends.add(send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            message = {"type": "websocket.send", "text": event["text"]}
            for each in list(sends) if together else (send,):
                await each(message)
    finally:
        sends.discard(send)
