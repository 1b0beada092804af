"""What an ASGI server can do with nothing above it: one loop over the sockets."""

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
            said = {"type": "websocket.send", "text": event["text"]}
            for each in list(sends) if together else (send,):
                await each(said)
    finally:
        sends.discard(send)
