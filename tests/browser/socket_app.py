"""The server of the socket tests: an ASGI application with a log of events on disk.

The log (``$EVENT_LOG``, one JSON object a line) is kept when the server is killed. A
page in its folder, ``NAME.html``, is served with the content security policy of
``$POLICY``.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from support.paths import STATIC

EVENT_LOG = Path(os.environ["EVENT_LOG"])
EMPTY = b"<!doctype html><meta charset=utf-8><link rel=icon href=data:,>"
TYPES = {".js": b"text/javascript", ".map": b"application/json"}

numbers = itertools.count(1)

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


def log(**entry: object) -> None:
    with EVENT_LOG.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


async def app(scope: Event, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
    elif scope["type"] == "http":
        await http(scope, send)
    else:
        raise NotImplementedError(scope["type"])


async def http(scope: Event, send: Send) -> None:
    """Serve the built client under ``/static/``, a page of the test, or an empty one."""
    path: str = scope["path"]
    headers, body = [(b"content-type", b"text/html")], EMPTY
    if path.startswith("/static/"):
        file = STATIC / path.removeprefix("/static/")
        headers, body = [(b"content-type", TYPES[file.suffix])], file.read_bytes()
    elif path.endswith(".html"):
        policy = os.environ["POLICY"].encode()
        headers.append((b"content-security-policy", policy))
        body = (EVENT_LOG.parent / path[1:]).read_bytes()
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def websocket(scope: Event, receive: Receive, send: Send) -> None:
    """Echo messages and answer ``{"type": "ping"}``; ``/ws/close/CODE`` closes."""
    number = f"{os.getpid()}.{next(numbers)}"
    await receive()
    log(at="connect", number=number, path=scope["path"])
    offered = scope["subprotocols"]
    await send(
        {"type": "websocket.accept", "subprotocol": offered[0] if offered else None}
    )
    if scope["path"].startswith("/ws/close/"):
        code = int(scope["path"].rsplit("/", 1)[1])
        await send({"type": "websocket.close", "code": code, "reason": "as asked"})
    while (event := await receive())["type"] != "websocket.disconnect":
        text, data = event.get("text"), event.get("bytes")
        if text == '{"type":"ping"}':
            await send({"type": "websocket.send", "text": '{"type":"pong"}'})
            continue
        log(at="message", number=number, text=text, bytes=data and list(data))
        await send({"type": "websocket.send", "text": text, "bytes": data})
    log(at="disconnect", number=number, code=event["code"])
