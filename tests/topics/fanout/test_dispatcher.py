"""The fan-out: one publication, encoded once for each codec, to all subscribers."""

from __future__ import annotations

import pytest

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
