"""The messages of the clients of each site and server, for the load generator."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import quote

from benchmarks import nats
from benchmarks.frames import RunFailed, masked_frame, parse_frame
from benchmarks.unpacking import Chunks, Lines

__all__ = [
    "ECHO",
    "FAN",
    "NATS",
    "ONCE",
    "Script",
    "Unpacker",
    "our_events",
    "our_http_stream",
    "our_topic",
    "socketio",
    "their_events",
    "their_http_stream",
    "their_topic",
]


class Unpacker(Protocol):
    """Removes the frames or chunks of a stream whose pieces differ between sockets."""

    def feed(self, data: bytes) -> bytes:
        """Return the content of the pieces that are complete.

        Raises:
            ValueError: if there is anything unexpected.
        """


@dataclass(frozen=True, slots=True)
class Script:
    """The protocol of a site: its handshake, and the envelope of its messages.

    Attributes:
        path: the URL's path.
        opening: the text that a client sends first; "" for none. With ``http`` the body
            of its request.
        greeting: for each text that the server sends first, its prefix and the answer
            to it ("" for none), such as the handshake of Socket.IO.
        envelope: the text around a message, with ``%s`` in its place.
        publisher: the protocol of a client of its own that publishes; None where the
            first client does.
        unpacker: where the pieces of the stream differ between sockets.
        end: the end of a message in what ``unpacker`` returns.
        nats: whether messages are those of NATS' own protocol.
        http: whether the stream is an HTTP response instead of a WebSocket.
    """

    path: str
    opening: str = ""
    greeting: tuple[tuple[str, str], ...] = ()
    envelope: str = "%s"
    publisher: Script | None = None
    unpacker: Callable[[], Unpacker] | None = None
    end: bytes = b"\n"
    nats: bool = False
    http: bool = False

    def request(self) -> bytes:
        """Return the request with which a client begins."""
        head = f" {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        if not self.http:
            key = base64.b64encode(os.urandom(16)).decode()
            return (
                f"GET{head}Upgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        if not self.opening:
            return f"GET{head}\r\n".encode()
        return (
            f"POST{head}Origin: http://127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self.opening)}\r\n\r\n{self.opening}"
        ).encode()

    def encode(self, text: str) -> bytes:
        """Return the bytes that a client sends to publish ``text``."""
        return masked_frame(
            nats.publication(text) if self.nats else self.envelope % text
        )

    def decode(
        self, data: bytes | bytearray, start: int
    ) -> tuple[bytes | bytearray, int] | None:
        """Return the message at ``start`` and its end, or None if it is incomplete.

        Raises:
            RunFailed: if there is anything else than a message.
        """
        if self.unpacker is None:
            return parse_frame(data, start)
        if not self.nats:
            return self.line(data, start)
        try:
            return nats.message(data, start)
        except ValueError as error:
            raise RunFailed(str(error)) from None

    def line(
        self, data: bytes | bytearray, start: int
    ) -> tuple[bytes | bytearray, int] | None:
        """Return the text before ``end`` and the place after it, or None."""
        stop = data.find(self.end, start)
        return None if stop < 0 else (data[start:stop], stop + len(self.end))


FAN = Script("/fan/")
ONCE = Script("/once/")
ECHO = Script("/echo/")
NATS = Script(
    "/",
    greeting=(("INFO", nats.CONNECT), ("PONG", "")),
    unpacker=nats.Unpacker,
    end=b"\r\n",
    nats=True,
)


def socketio(event: str) -> Script:
    return Script(
        "/socket.io/?EIO=4&transport=websocket",
        greeting=(("0", "40"), ("40", "")),
        envelope=f'42["{event}",%s]',
    )


def _topic(path: str, channel: str, envelope: str) -> Script:
    """Return the protocol of topics over a WebSocket, with one subscription."""
    subscribe = json.dumps({"id": 2, "subscribe": {"channel": channel}})
    return Script(
        path,
        opening='{"id":1,"connect":{}}',
        greeting=(('{"id":1', subscribe), ('{"id":2', "")),
        envelope=envelope,
    )


def our_topic(name: str) -> Script:
    return _topic(f"/{name}/", name, '{"send":{"data":%s}}')


def their_topic(name: str) -> Script:
    """Return the protocol of a topic of Centrifugo.

    A client of its own publishes: the reply to each publication goes to it alone, and
    the subscribers receive the same.
    """
    channel = f"{name}:fan"
    envelope = f'{{"id":3,"publish":{{"channel":"{channel}","data":%s}}}}'
    script = _topic("/connection/websocket", channel, envelope)
    return replace(script, publisher=script, unpacker=Lines)


# Topics over HTTP streams


def our_events(topic: str) -> Script:
    """Return the protocol of a topic as server-sent events."""
    path = f"/topics/events?topic={topic}"
    return _events(path, ("retry:", "id:"), our_topic(topic))


def their_events(name: str) -> Script:
    """Return the protocol of a topic of Centrifugo as server-sent events."""
    subscriptions = quote(json.dumps({"subs": {f"{name}:fan": {}}}))
    path = f"/connection/uni_sse?cf_connect={subscriptions}"
    return _events(path, ('\r\ndata: {"connect"',), their_topic(name))


def _events(path: str, greeting: tuple[str, ...], publisher: Script) -> Script:
    return Script(
        path,
        greeting=tuple((prefix, "") for prefix in greeting),
        publisher=publisher,
        unpacker=Chunks,
        end=b"\n\n",
        http=True,
    )


def our_http_stream(topic: str) -> Script:
    """Return the protocol of a topic over ``http_stream``."""
    return _http_stream("/topics/http_stream", our_topic(topic))


def their_http_stream(name: str) -> Script:
    """Return the protocol of a topic of Centrifugo over ``http_stream``."""
    return _http_stream("/connection/http_stream", their_topic(name))


def _http_stream(path: str, topic: Script) -> Script:
    """Return a protocol with the first commands of a WebSocket's as one request."""
    (first, subscribe), (second, _) = topic.greeting
    return Script(
        path,
        opening=f"{topic.opening}\n{subscribe}",
        greeting=((first, ""), (second, "")),
        publisher=topic,
        unpacker=Chunks,
        http=True,
    )
