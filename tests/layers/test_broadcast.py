"""One message for all clients of a group, encoded once and past their handlers."""

from __future__ import annotations

import asyncio

import pytest

from support.waiting import until
from tiderace import metrics
from tiderace.consumer import concurrent
from tiderace.delivery.outbox import NOTHING_TO_WRITE
from tiderace.generic.websocket import AsyncWebsocketConsumer
from tiderace.layers import InMemoryChannelLayer, channel_layers
from tiderace.server.frames import binary_frame, text_frame
from tiderace.testing import WebsocketCommunicator


@pytest.fixture
def layer(monkeypatch):
    layer = InMemoryChannelLayer()
    monkeypatch.setitem(channel_layers.backends, "default", layer)
    return layer


class Member(AsyncWebsocketConsumer):
    groups = ["room"]
    accepts_broadcasts = True

    async def said(self, event):
        await self.send(text_data=event["text"])


class Frames:
    """A frame writer as our server puts it into the scope; it records what is written."""

    def __init__(self):
        self.written = []
        self.built = 0
        self.congested = False
        self.buffered = 0
        self.scheduler = NOTHING_TO_WRITE

    def text_frame(self, payload):
        self.built += 1
        return text_frame(payload)

    def binary_frame(self, payload):
        self.built += 1
        return binary_frame(payload)

    def write(self, frame):
        self.written.append(frame)

    def write_all(self, writers, frame):
        for each in writers:
            if not each.congested:
                each.write(frame)
        return [each for each in writers if each.congested]


async def connected(consumer=Member, frames=None):
    client = WebsocketCommunicator(consumer.as_asgi(), "/")
    if frames is not None:
        client.scope["extensions"] = {"tiderace.frames": frames}
    assert (await client.connect())[0]
    for _ in range(3):
        await asyncio.sleep(0)
    return client


async def test_a_broadcast_reaches_every_client_of_the_group(layer):
    clients = [await connected() for _ in range(3)]

    await layer.group_broadcast("room", "hello")
    await layer.group_broadcast("room", bytes_data=b"\x00\x01")

    for client in clients:
        assert await client.receive_from() == "hello"
        assert await client.receive_from() == b"\x00\x01"
        await client.disconnect()


async def test_on_our_server_a_broadcast_is_one_frame_for_all_sockets(layer):
    frames = [Frames() for _ in range(3)]
    clients = [await connected(frames=each) for each in frames]

    await layer.group_broadcast("room", "größer")

    written = [each.written for each in frames]
    assert written == [[text_frame("größer".encode())]] * 3
    assert written[0][0] is written[1][0] is written[2][0]
    assert sum(each.built for each in frames) == 1
    for client in clients:
        await client.disconnect()


async def test_a_broadcast_keeps_its_place_among_other_messages(layer):
    gate = asyncio.Event()

    class Slow(Member):
        async def said(self, event):
            await gate.wait()
            await super().said(event)

    client = await connected(Slow)
    await layer.group_send("room", {"type": "said", "text": "first"})
    await layer.group_broadcast("room", "second")
    gate.set()

    assert await client.receive_from() == "first"
    assert await client.receive_from() == "second"
    await client.disconnect()


async def test_consumers_that_do_not_accept_broadcasts_get_none(layer, caplog):
    class Checking(Member):
        accepts_broadcasts = False

    client = await connected(Checking)
    await layer.group_broadcast("room", "not for all eyes")
    await layer.group_send("room", {"type": "said", "text": "checked"})

    assert await client.receive_from() == "checked"
    assert "accepts_broadcasts" in caplog.text
    await client.disconnect()


async def test_a_broadcast_on_our_server_keeps_its_place_among_other_messages(layer):
    gate = asyncio.Event()

    class Slow(Member):
        async def said(self, event):
            await gate.wait()
            self.scope["extensions"]["tiderace.frames"].write(b"first")

    frames = Frames()
    client = await connected(Slow, frames)
    await layer.group_send("room", {"type": "said"})
    await layer.group_broadcast("room", "second")
    gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    await layer.group_broadcast("room", "third")

    assert frames.written == [b"first", text_frame(b"second"), text_frame(b"third")]
    await client.disconnect()


async def test_a_broadcast_does_not_overtake_an_unread_message(layer):
    class Told(Member):
        async def said(self, event):
            self.scope["extensions"]["tiderace.frames"].write(b"first")

    class Telling(AsyncWebsocketConsumer):
        groups = ["tellers"]

        async def tell(self, event):
            await layer.group_send("room", {"type": "said"})
            await layer.group_broadcast("room", "second")

    frames = Frames()
    client = await connected(Told, frames)
    teller = await connected(Telling)
    await layer.group_send("tellers", {"type": "tell"})
    for _ in range(5):
        await asyncio.sleep(0)

    assert frames.written == [b"first", text_frame(b"second")]
    await client.disconnect()
    await teller.disconnect()


async def test_a_broadcast_does_not_overtake_a_message_that_a_handler_has_sent(layer):
    class Forwarding(Member):
        async def forward(self, event):
            broadcast.set()
            await self.channel_layer.group_send("room", {"type": "said", "text": "1"})

    async def broadcast_next():
        await broadcast.wait()
        await layer.group_broadcast("room", "2")

    broadcast = asyncio.Event()
    frames = Frames()
    client = await connected(Forwarding, frames)
    broadcasting = asyncio.create_task(broadcast_next())
    await asyncio.sleep(0)
    await layer.group_send("room", {"type": "forward"})
    await broadcasting
    await until(lambda: len(frames.written) == 2)

    assert frames.written == [text_frame(b"1"), text_frame(b"2")]
    await client.disconnect()


async def test_a_consumer_may_stop_and_take_broadcasts_again(layer):
    class Choosy(Member):
        async def receive(self, text_data=None, bytes_data=None):
            self.accepts_broadcasts = text_data == "on"

    frames = Frames()
    client = await connected(Choosy, frames)
    for choice in ("off", "on"):
        await client.send_to(text_data=choice)
        for _ in range(3):
            await asyncio.sleep(0)
        await layer.group_broadcast("room", choice)

    assert frames.written == [text_frame(b"on")]
    await client.disconnect()


async def test_a_broadcast_after_the_close_is_counted_and_dropped(layer):
    class Leaving(Member):
        async def receive(self, text_data=None, bytes_data=None):
            await self.close()

    frames = Frames()
    client = await connected(Leaving, frames)
    await client.send_to(text_data="bye")
    assert (await client.receive_output())["type"] == "websocket.close"
    for _ in range(3):
        await asyncio.sleep(0)
    dropped = metrics.SENDS_AFTER_CLOSE.value

    await layer.group_broadcast("room", "too late")

    assert frames.written == []
    assert metrics.SENDS_AFTER_CLOSE.value == dropped + 1
    await client.disconnect()


async def test_a_client_that_is_slow_for_a_while_gets_broadcasts_again(layer):
    frames = Frames()
    client = await connected(frames=frames)
    frames.congested = True
    await layer.group_broadcast("room", "while it is slow")
    frames.congested = False
    await layer.group_broadcast("room", "afterwards")

    assert frames.written == [
        text_frame(b"while it is slow"),
        text_frame(b"afterwards"),
    ]
    await client.disconnect()


async def test_nothing_is_sent_after_a_broadcast_that_exceeds_the_limit(
    layer, settings
):
    settings.TIDERACE = {"OUTBOX_LIMIT": 1000}
    frames = Frames()
    client = await connected(frames=frames)
    frames.congested, frames.buffered = True, 1001
    await layer.group_broadcast("room", "too much")
    frames.congested, frames.buffered = False, 0

    await layer.group_broadcast("room", "after a gap")

    assert await client.receive_output() == {"type": "websocket.close", "code": 1013}
    assert frames.written == []
    await client.wait()


async def test_broadcasts_wait_while_too_many_handlers_run(layer, settings):
    settings.TIDERACE = {"CONCURRENT_HANDLERS": 1}
    gate = asyncio.Event()

    class Busy(Member):
        @concurrent
        async def work(self, event):
            await gate.wait()

    frames = Frames()
    client = await connected(Busy, frames)
    await layer.group_send("room", {"type": "work"})
    await layer.group_broadcast("room", "after the work")
    for _ in range(3):
        await asyncio.sleep(0)
    assert frames.written == []

    gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert frames.written == [text_frame(b"after the work")]
    await client.disconnect()


async def test_excluded_channels_get_no_broadcast(layer):
    names = []

    class Named(Member):
        async def connect(self):
            names.append(self.channel_name)
            await self.accept()

    one, two = await connected(Named), await connected(Named)
    await layer.group_broadcast("room", "for the other", exclude=names[0])
    await layer.group_broadcast(["room", "room"], "for both, once")

    assert await one.receive_from() == "for both, once"
    assert await two.receive_from() == "for the other"
    assert await two.receive_from() == "for both, once"
    assert await one.receive_nothing()
    await one.disconnect()
    await two.disconnect()


async def test_a_client_that_reads_too_slowly_is_closed_and_others_are_served(
    layer, settings, caplog
):
    settings.TIDERACE = {"OUTBOX_LIMIT": 1000}
    slow, quick = Frames(), Frames()
    lazy = await connected(frames=slow)
    eager = await connected(frames=quick)
    slow.congested, slow.buffered = True, 1001
    closed = metrics.SLOW_CLIENTS.value

    await layer.group_broadcast("room", "too much")

    assert await lazy.receive_output() == {"type": "websocket.close", "code": 1013}
    await lazy.wait()
    assert metrics.SLOW_CLIENTS.value == closed + 1
    assert "left more than 1000 bytes unread" in caplog.text
    assert quick.written == [text_frame(b"too much")]
    assert len(layer.groups["room"]) == 1
    await eager.disconnect()


async def test_a_broadcast_to_a_socket_not_accepted_yet_is_dropped(layer):
    class Waiting(Member):
        async def connect(self):
            pass

    frames = Frames()
    client = WebsocketCommunicator(Waiting.as_asgi(), "/")
    client.scope["extensions"] = {"tiderace.frames": frames}
    await client.send_input({"type": "websocket.connect"})
    for _ in range(5):
        await asyncio.sleep(0)
    dropped = metrics.SENDS_AFTER_CLOSE.value

    await layer.group_broadcast("room", "too early")

    assert frames.written == []
    assert metrics.SENDS_AFTER_CLOSE.value == dropped + 1
    client.stop()


async def test_a_broadcast_of_nothing_is_refused(layer):
    with pytest.raises(ValueError, match="one of bytes_data or text_data"):
        await layer.group_broadcast("room")


async def test_a_reader_of_a_channel_gets_the_event_of_a_broadcast(layer):
    await layer.group_add("room", "spy")
    await layer.group_broadcast("room", "hello")

    assert await layer.receive("spy") == {"type": "websocket.send", "text": "hello"}


def test_sync_code_broadcasts(layer):
    async def main():
        client = await connected()
        await asyncio.to_thread(layer.sync.group_broadcast, "room", "from a thread")
        heard = await client.receive_from()
        await client.disconnect()
        return heard

    assert asyncio.run(main()) == "from a thread"


async def test_a_message_with_a_reserved_key_is_refused(layer):
    with pytest.raises(AssertionError, match="__tiderace__"):
        await layer.group_send("room", {"type": "said", "__tiderace__": {}})
