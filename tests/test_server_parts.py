"""The parts of the protocol class that need no socket and no loop: bytes and clocks."""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raw_websocket import client_frame
from tiderace.server import ReadyFrames, frames, handshake
from tiderace.server.gunicorn import UvicornWorker
from tiderace.server.incoming import Incoming
from tiderace.server.keepalive import KeepAlive
from tiderace.server.messages import MessageReader, ProtocolFailure
from tiderace.server.outgoing import Tick

# Frames


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_text_frame_says_its_length_in_the_fewest_bytes(size, head):
    assert frames.text_frame(b"x" * size) == head + b"x" * size


@pytest.mark.parametrize(
    ("size", "head"), [(3, b"\x82\x03"), (300, b"\x82\x7e\x01\x2c")]
)
def test_a_binary_frame_says_that_it_is_binary(size, head):
    assert frames.binary_frame(bytes(size)) == head + bytes(size)


def test_a_ready_frame_can_be_built_where_it_is_written():
    assert ReadyFrames.text_frame(b"hi") == frames.text_frame(b"hi")
    assert ReadyFrames.binary_frame(b"hi") == frames.binary_frame(b"hi")


def test_a_close_frame_has_code_and_reason():
    assert frames.close_frame(4007, "é") == b"\x88\x04\x0f\xa7\xc3\xa9"


def test_a_close_frame_without_a_code_is_empty():
    assert frames.close_frame() == b"\x88\x00"


def test_a_reason_without_a_code_is_refused():
    with pytest.raises(ValueError, match="needs a close code"):
        frames.close_frame(None, "because")


def test_a_reason_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="at most 125 bytes, not 126"):
        frames.close_frame(1000, "x" * 124)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_both_ways_of_unmasking_agree(data, mask):
    expected = bytes(b ^ m for b, m in zip(data, itertools.cycle(mask), strict=False))

    assert frames.unmask(data, mask) == frames.unmask_in_python(data, mask) == expected


# Messages


class Heard:
    """A handler that keeps what it is told."""

    def __init__(self):
        self.said = []

    def text_received(self, text):
        self.said.append(text)

    def bytes_received(self, data):
        self.said.append(data)

    def ping_received(self, payload):
        self.said.append(("ping", payload))

    def pong_received(self, payload):
        self.said.append(("pong", payload))

    def close_received(self, code, reason):
        self.said.append((code, reason))


@st.composite
def conversations(draw):
    """What a client may say, as bytes, and what is to be heard of it."""
    data, said = b"", []
    for message in draw(st.lists(st.text(max_size=200) | st.binary(max_size=200))):
        payload = message.encode() if isinstance(message, str) else message
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        pieces = [
            payload[start:stop] for start, stop in itertools.pairwise([0, *cuts, None])
        ]
        opcode = 1 if isinstance(message, str) else 2
        for number, piece in enumerate(pieces):
            if draw(st.booleans()):
                data += client_frame(9, piece[:9])
                said.append(("ping", piece[:9]))
            final = number == len(pieces) - 1
            data += client_frame(opcode if not number else 0, piece, final=final)
        said.append(message)
    return data, said


@given(conversations(), st.data())
def test_it_does_not_matter_where_the_network_cuts(conversation, choice):
    data, said = conversation
    cuts = sorted(choice.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    reader, heard = MessageReader(10_000), Heard()

    for start, stop in itertools.pairwise([0, *cuts, len(data)]):
        reader.feed(data[start:stop], heard)

    assert heard.said == said


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    reader = MessageReader(1000)
    codes = []

    try:
        reader.feed(data, Heard())
    except ProtocolFailure as failure:
        codes.append(failure.code)

    assert set(codes) <= {1002, 1007, 1009}


# The handshake


def test_a_request_that_is_no_get_is_405():
    with pytest.raises(handshake.HandshakeRefused) as refusal:
        handshake.read_request(b"POST / HTTP/1.1\r\nhost: a\r\n\r\n")

    assert refusal.value.status == 405
    assert refusal.value.headers == [(b"allow", b"GET")]


def test_a_path_beyond_ascii_is_a_bad_request():
    with pytest.raises(handshake.HandshakeRefused) as refusal:
        handshake.read_request("GET /é HTTP/1.1\r\n\r\n".encode())

    assert refusal.value.status == 400


def test_a_status_without_a_name_is_sent_without_one():
    response = handshake.http_response(599, [], b"")

    assert response.startswith(b"HTTP/1.1 599 \r\n")


# Writing


class Loop:
    """What a loop is asked to do, done when the test says so."""

    def __init__(self):
        self.soon = []
        self.timers = []

    def call_soon(self, callback):
        self.soon.append(callback)

    def tick(self):
        """Run what was asked for before now."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def call_later(self, delay, callback):
        timer = Timer(delay, callback)
        self.timers.append(timer)
        return timer

    def ring(self):
        """Let the one timer that is set go off; return after how many seconds."""
        (timer,) = [timer for timer in self.timers if not timer.cancelled]
        self.timers.clear()
        timer.callback()
        return timer.delay


class Timer:
    def __init__(self, delay, callback):
        self.delay = delay
        self.callback = callback
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


class Transport:
    """Keeps every write apart; ``room`` is how many it takes before it is full."""

    def __init__(self, room=10**9):
        self.writes = []
        self.room = room
        self.frames = None
        self.closing = False
        self.cut = False
        self.reading = True

    def write(self, data):
        if not isinstance(data, bytes):
            raise TypeError(data)
        self.writes.append(data)
        if len(self.writes) == self.room:
            self.frames.pause()

    def is_closing(self):
        return self.closing

    def get_write_buffer_size(self):
        return 7

    def abort(self):
        self.cut = True

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


def open_frames(loop=None, tick=None, **options):
    transport = Transport(**options)
    ready = ReadyFrames(transport, tick or Tick(loop or Loop()))
    transport.frames = ready
    ready.open()
    return ready, transport


def test_what_is_queued_in_a_tick_is_one_write():
    loop = Loop()
    ready, transport = open_frames(loop)

    for frame in (b"a", b"b", b"c"):
        ready.write(frame)
    assert transport.writes == []
    loop.tick()

    assert transport.writes == [b"abc"]
    assert loop.soon == []


def test_a_frame_alone_is_written_as_it_is_when_the_tick_ends():
    loop = Loop()
    ready, transport = open_frames(loop)
    frame = ready.text_frame(b"alone")

    ready.write(frame)
    loop.tick()

    assert transport.writes[0] is frame


def test_many_sockets_wait_for_one_call():
    loop = Loop()
    tick = Tick(loop)
    crowd = [open_frames(tick=tick) for _ in range(50)]

    for ready, _ in crowd:
        ready.write(b"x")
    assert len(loop.soon) == 1
    loop.tick()

    assert all(transport.writes == [b"x"] for _, transport in crowd)


def test_a_large_crowd_is_written_to_in_slices():
    loop = Loop()
    tick = Tick(loop)
    crowd = [open_frames(tick=tick) for _ in range(150)]
    for ready, _ in crowd:
        ready.write(b"x")

    reached = []
    while loop.soon:
        loop.tick()
        reached.append(sum(bool(transport.writes) for _, transport in crowd))

    assert reached == [64, 128, 150]


def test_what_comes_for_a_socket_not_reached_yet_joins_its_write():
    loop = Loop()
    tick = Tick(loop)
    crowd = [open_frames(tick=tick) for _ in range(300)]
    for ready, _ in crowd:
        ready.write(b"x")
    loop.tick()

    for ready, _ in crowd:
        ready.write(b"y")
    while loop.soon:
        loop.tick()

    assert [transport.writes for _, transport in crowd] == (
        [[b"x", b"y"]] * 64 + [[b"xy"]] * 236
    )


def test_a_burst_does_not_wait_for_the_end_of_the_tick():
    ready, transport = open_frames()

    for _ in range(70):
        ready.write(b"x" * 1000)

    assert b"".join(transport.writes) == b"x" * 66_000
    assert ready.buffered == 4000 + 7


def test_a_socket_that_fails_is_cut_and_harms_no_other(caplog):
    loop = Loop()
    tick = Tick(loop)
    (broken, lost), (sound, kept) = (open_frames(tick=tick) for _ in range(2))

    broken.write("not bytes")
    sound.write(b"x")
    with caplog.at_level(logging.ERROR):
        loop.tick()

    assert lost.cut
    assert kept.writes == [b"x"]
    assert "could not be written to" in caplog.text


def test_a_full_transport_gets_nothing_more_until_it_has_room():
    loop = Loop()
    ready, transport = open_frames(loop, room=1)
    ready.write(b"a")
    loop.tick()

    ready.write(b"b")
    ready.write(b"c")
    loop.tick()
    assert transport.writes == [b"a"]
    assert ready.buffered == 2 + 7

    ready.resume()
    assert transport.writes == [b"a", b"bc"]


def test_a_transport_with_room_again_gets_no_more_than_it_takes():
    ready, transport = open_frames()
    ready.pause()
    for _ in range(200):
        ready.write(b"x" * 1000)

    transport.room = 1
    ready.resume()

    assert len(transport.writes) == 1
    assert len(transport.writes[0]) == 66_000
    assert ready.buffered == 134_000 + 7


@pytest.mark.parametrize("number", [1, 2])
def test_a_transport_that_closes_gets_nothing(number):
    loop = Loop()
    ready, transport = open_frames(loop)

    for _ in range(number):
        ready.write(b"x")
    transport.closing = True
    loop.tick()

    assert transport.writes == []
    assert ready.buffered == 7


def test_what_a_slow_client_has_not_taken_is_given_up_when_it_says_goodbye():
    loop = Loop()
    ready, transport = open_frames(loop)
    ready.pause()
    ready.write(b"too slow")

    ready.finish(b"bye")

    assert transport.writes == [b"bye"]


# Reading


async def test_an_application_that_does_not_read_stops_the_client():
    transport = Transport()
    incoming = Incoming(transport, 4)

    for number in range(4):
        incoming.put({"type": "websocket.receive", "text": str(number)}, 1)
    assert not transport.reading

    for _ in range(2):
        await incoming.get()
    assert transport.reading


async def test_a_few_large_messages_stop_the_client_too():
    transport = Transport()
    incoming = Incoming(transport, 32)

    for _ in range(2):
        event = {"type": "websocket.receive", "bytes": bytes(600_000)}
        incoming.put(event, 600_000)
    assert not transport.reading

    await incoming.get()
    assert transport.reading


async def test_a_cancelled_reader_takes_nothing_with_it():
    incoming = Incoming(Transport(), 4)
    reader = asyncio.ensure_future(incoming.get())
    await asyncio.sleep(0)

    incoming.put({"type": "websocket.receive", "text": "kept"}, 4)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader

    assert (await incoming.get())["text"] == "kept"


async def test_nothing_comes_after_the_disconnect():
    incoming = Incoming(Transport(), 4)
    incoming.disconnect(4000)

    incoming.put({"type": "websocket.receive", "text": "late"}, 4)
    incoming.disconnect(1006)

    assert (await incoming.get())["code"] == 4000
    assert (await incoming.get())["code"] == 4000


# Keep-alive


class Pinged:
    def __init__(self):
        self.pings = 0
        self.reads = True
        self.lost = False

    def send_ping(self):
        self.pings += 1

    def is_read_from(self):
        return self.reads

    def ping_unanswered(self):
        self.lost = True


def test_a_client_that_answers_is_pinged_once_an_interval():
    loop, connection = Loop(), Pinged()
    keep_alive = KeepAlive(connection, loop, 20, 5)

    assert loop.ring() == 20
    keep_alive.heard()
    assert loop.ring() == 5
    assert loop.ring() == 15

    assert connection.pings == 2
    assert not connection.lost


def test_a_client_that_is_silent_after_a_ping_is_lost():
    loop, connection = Loop(), Pinged()
    KeepAlive(connection, loop, 20, 5)

    loop.ring()
    assert loop.ring() == 5

    assert connection.lost
    assert loop.timers == []


def test_a_client_that_is_not_read_from_is_not_blamed():
    loop, connection = Loop(), Pinged()
    keep_alive = KeepAlive(connection, loop, 20, 5)
    connection.reads = False

    loop.ring()
    loop.ring()
    assert not connection.lost

    keep_alive.heard()
    loop.ring()
    assert not connection.lost


def test_without_a_timeout_a_silent_client_is_pinged_on():
    loop, connection = Loop(), Pinged()
    KeepAlive(connection, loop, 20, None)

    assert [loop.ring(), loop.ring()] == [20, 20]
    assert connection.pings == 2


def test_a_stopped_keep_alive_sets_no_timer():
    loop = Loop()
    KeepAlive(Pinged(), loop, 20, 5).stop()

    assert loop.timers[0].cancelled


# gunicorn


def test_gunicorns_worker_serves_websockets_with_the_class():
    assert UvicornWorker.CONFIG_KWARGS["ws"] == "tiderace.server:WebSocketProtocol"


def test_gunicorns_worker_says_what_it_lacks():
    # In another process, where the package is hidden from the very first import.
    script = (
        "import sys\n"
        "sys.modules['uvicorn_worker'] = None\n"
        "from tiderace.server.gunicorn import UvicornWorker\n"
        "UvicornWorker()\n"
    )

    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert run.returncode == 1
    assert "pip install gunicorn uvicorn-worker" in run.stderr
