"""The fan-out: one publication, encoded once for each codec, to all subscribers."""

from __future__ import annotations

import pytest

from tiderace.delivery.stream_hub import StreamHub
from tiderace.history import Position, Publication
from tiderace.protocol.codec import JSONCodec
from tiderace.protocol.messages import SubscribeRequest
from tiderace.protocol.stream_codecs import LINES
from tiderace.topics import History, Topic
from tiderace.topics.declaration.topic import declared
from tiderace.topics.fanout.dispatcher import ActiveSubscription
from tiderace.topics.fanout.outbox import ClientOutbox
from tiderace.topics.names import topic_group

GROUP = topic_group("news")


class CountingCodec(JSONCodec):
    """JSON, with the number of frames that were encoded."""

    def __init__(self):
        super().__init__()
        self.encoded = 0

    def encode(self, reply):
        self.encoded += 1
        return super().encode(reply)

    def encode_publication(self, channel, publication, *, offsets):
        self.encoded += 1
        return super().encode_publication(channel, publication, offsets=offsets)


class RecordingWriter:
    """A server's writer of frames: what was written to each, and in how many calls."""

    calls = 0
    congested = False
    buffered = 0

    def __init__(self):
        self.frames = []

    @staticmethod
    def text_frame(payload):
        return b"text:" + payload

    def write(self, frame):
        self.frames.append(frame)

    def write_all(self, writers, frame):
        RecordingWriter.calls += 1
        for writer in writers:
            if not writer.congested:
                writer.write(frame)
        return [writer for writer in writers if writer.congested]


@pytest.fixture
async def topic():
    class News(Topic):
        pattern = "news"
        history = History()

    yield declared.resolve("news")
    declared.remove(News)


@pytest.fixture
def subscribe(topic):
    """Make a subscription at offset 5, with a client's outbox."""
    lost = []

    def make(codec, *, writer=None, position=5):
        slow = []
        outbox = ClientOutbox(
            codec, None, writer=writer, limit=10, on_slow=lambda: slow.append(outbox)
        )
        client = ActiveSubscription(topic, outbox, lost.append)
        client.build_reply(
            SubscribeRequest(),
            Position("e", position),
        )
        client.commit()
        return client, slow

    make.lost = lost
    return make


class Room:
    """A stream hub with three subscribers at offset 5."""

    def __init__(self, subscribe):
        RecordingWriter.calls = 0
        self._hub = StreamHub()
        self._codec = CountingCodec()
        self._subscribe = subscribe
        self.slow = []
        self.members = [self.join(5) for _ in range(3)]

    def join(self, offset):
        client, slow = self._subscribe(
            self._codec, writer=RecordingWriter(), position=offset
        )
        self.slow.append(slow)
        self._hub.add(GROUP, client)
        return client

    def leave(self, client):
        self._hub.discard(GROUP, client)

    def publish(self, offset):
        assert self._hub.put(GROUP, publication(offset)).start()


@pytest.fixture
async def room(subscribe):
    return Room(subscribe)


def received(client):
    """Return the offsets of the publications that a client was sent."""
    return [int(frame[frame.rindex(b":") + 1 : -3]) for frame in written(client)]


def written(client):
    return client.outbox.writer.frames


def publication(offset):
    return Publication(Position("e", offset), str(offset))


async def test_a_publication_is_encoded_once_for_each_codec(subscribe):
    codec = CountingCodec()
    subscriptions = [subscribe(codec)[0] for _ in range(3)]
    lines, _ = subscribe(LINES)

    ActiveSubscription.dispatch(GROUP, publication(6), [*subscriptions, lines])

    assert codec.encoded == 1
    frame = b'{"push":{"channel":"news","pub":{"data":6,"offset":6}}}'
    assert [list(each.outbox._queue) for each in subscriptions] == [[frame]] * 3
    assert list(lines.outbox._queue) == [frame + b"\n"]


async def test_a_publication_is_written_to_all_sockets_in_one_call(subscribe):
    codec, writers = CountingCodec(), [RecordingWriter() for _ in range(3)]
    subscriptions = [subscribe(codec, writer=each)[0] for each in writers]
    RecordingWriter.calls = 0

    ActiveSubscription.dispatch(GROUP, publication(6), subscriptions)

    assert RecordingWriter.calls == 1
    [first] = writers[0].frames
    assert all(each.frames[0] is first for each in writers)


async def test_a_subscriber_behind_is_reported_and_the_others_are_served(subscribe):
    codec = CountingCodec()
    behind, _ = subscribe(codec, position=3)
    current, _ = subscribe(codec)

    ActiveSubscription.dispatch(GROUP, publication(6), [behind, current])

    assert subscribe.lost == [behind]
    assert not behind.outbox._queue
    assert len(current.outbox._queue) == 1


async def test_a_congested_socket_over_its_limit_is_reported_as_slow(subscribe):
    codec = CountingCodec()
    writer, full, quick = RecordingWriter(), RecordingWriter(), RecordingWriter()
    writer.congested = full.congested = True
    full.buffered = 11
    waiting, waiting_slow = subscribe(codec, writer=writer)
    over, over_slow = subscribe(codec, writer=full)
    other, other_slow = subscribe(codec, writer=quick)

    ActiveSubscription.dispatch(GROUP, publication(6), [waiting, over, other])

    assert len(writer.frames) == len(quick.frames) == 1
    assert not full.frames
    assert over_slow == [over.outbox]
    assert waiting_slow == other_slow == []


async def test_the_subscribers_of_a_room_are_written_to_in_one_call_each_time(room):
    room.publish(6)
    room.publish(7)
    room.publish(8)

    assert RecordingWriter.calls == 3
    assert [received(each) for each in room.members] == [[6, 7, 8]] * 3
    assert [each.position.offset for each in room.members] == [8] * 3
    assert len({id(written(each)[2]) for each in room.members}) == 1


async def test_a_subscriber_that_joins_or_leaves_between_publications(room):
    room.publish(6)
    room.publish(7)
    first, second, third = room.members

    room.leave(second)
    fourth = room.join(7)
    room.publish(8)

    assert received(first) == received(third) == [6, 7, 8]
    assert received(second) == [6, 7]
    assert received(fourth) == [8]


async def test_a_subscriber_that_has_fallen_behind_in_a_room_is_reported(
    room, subscribe
):
    room.publish(6)
    room.publish(7)
    first, second, third = room.members
    second.position = Position("e", 6)

    room.publish(8)

    assert subscribe.lost == [second]
    assert received(second) == [6, 7]
    assert received(first) == received(third) == [6, 7, 8]


async def test_a_subscriber_in_a_room_that_subscribes_again_gets_it_after_the_reply(
    room,
):
    room.publish(6)
    room.publish(7)
    second = room.members[1]
    second.buffered = []

    room.publish(8)
    before = received(second)
    second.send_buffered()

    assert before == [6, 7]
    assert [received(each) for each in room.members] == [[6, 7, 8]] * 3


async def test_a_publication_that_a_room_has_is_not_sent_again(room):
    room.publish(6)
    room.publish(7)

    room.publish(7)

    assert [received(each) for each in room.members] == [[6, 7]] * 3


async def test_a_slow_client_in_a_room_is_reported_and_the_others_are_served(room):
    room.publish(6)
    room.publish(7)
    first, second, third = room.members
    writer = second.outbox.writer
    writer.congested, writer.buffered = True, 11

    room.publish(8)

    assert room.slow == [[], [second.outbox], []]
    assert received(first) == received(third) == [6, 7, 8]
    assert received(second) == [6, 7]
