"""HTTP streams on a server that takes finished parts of responses."""

from __future__ import annotations

import asyncio

import pytest

from support.clients.stream_client import begin
from support.waiting import until
from tiderace.protocol.codec import JSON
from tiderace.server import ServerFrameWriter
from tiderace.server.parts import ServerPartWriter, part
from tiderace.server.writer import WriteScheduler
from tiderace.topics import AllowAny, History, Topic, TopicsEndpoint, apublish
from tiderace.topics.declaration.topic import declared
from tiderace.topics.fanout.outbox import ClientOutbox, write_all


class Transport:
    """A transport that keeps what is written, and reports as much as unread as is set."""

    unread = 0

    def __init__(self):
        self.written = []

    def write(self, data):
        self.written.append(data)

    def get_write_buffer_size(self):
        return self.unread

    def is_closing(self):
        return False

    def abort(self):
        pass


class Server:
    """The extension of a scope, with the writer that it has opened."""

    def __init__(self, kind=ServerPartWriter):
        self.transport = Transport()
        self.writer = kind(self.transport, WriteScheduler(asyncio.get_running_loop()))

    def open(self):
        self.writer.open()
        return self.writer


@pytest.fixture
def app(settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }
    settings.TIDERACE = {"OUTBOX_LIMIT": 2000}

    class Prices(Topic):
        pattern = "prices"
        history = History(size=10, ttl=60)
        permission_classes = [AllowAny]

    yield TopicsEndpoint.as_asgi()
    declared.remove(Prices)


def events(app, server):
    """Begin a stream of events of the topic."""
    extensions = {"tiderace.parts": server}
    path, query = "/connection/events", "topic=prices"
    return begin(app, "GET", path, query=query, extensions=extensions)


async def test_events_are_written_as_parts_in_order(app):
    server = Server()
    client = events(app, server)
    written = server.transport.written
    await until(lambda: b"id: " in b"".join(written))

    for number in range(3):
        await apublish("prices", number)
    await until(lambda: b"data: 2" in b"".join(written))

    text = b"".join(written)
    places = [text.index(b"data: %d\n\n\r\n" % number) for number in range(3)]
    assert places == sorted(places)
    assert [event["type"] for event in client.sent] == ["http.response.start"]
    client.say("http.disconnect")
    await client.end()


async def test_a_client_that_does_not_read_its_parts_is_given_up(app):
    server = Server()
    client = events(app, server)
    await until(lambda: b"id: " in b"".join(server.transport.written))
    before = len(server.transport.written)

    server.writer.pause()
    server.transport.unread = 3000
    await apublish("prices", "lost")

    await client.end()
    assert server.transport.written[before:] == []


async def test_a_frame_goes_to_websockets_and_http_streams_of_one_codec():
    servers = Server(ServerFrameWriter), Server(ServerPartWriter)
    outboxes = [
        ClientOutbox(JSON, None, writer=each.open(), limit=1000, on_slow=None)
        for each in servers
    ]

    write_all(outboxes, b"{}")
    await until(lambda: all(each.transport.written for each in servers))

    assert [each.transport.written for each in servers] == [
        [ServerFrameWriter.text_frame(b"{}")],
        [part(b"{}")],
    ]
