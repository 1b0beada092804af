"""The parts of the protocol class that need no socket and no loop: bytes and clocks."""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import pickle
import subprocess
import sys
import threading
import tracemalloc
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.clients.raw_websocket import client_frame
from tiderace.server import ServerFrameWriter, frames, handshake
from tiderace.server.connection import ServerConnection
from tiderace.server.gunicorn import UvicornWorker
from tiderace.server.parser import FrameParser, ProtocolError
from tiderace.server.read_queue import ReadQueue
from tiderace.server.writer import WriteScheduler

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
def test_a_text_frame_has_the_shortest_length_field(size, head):
    assert frames.text_frame(b"x" * size) == head + b"x" * size


@pytest.mark.parametrize(
    ("size", "head"), [(3, b"\x82\x03"), (300, b"\x82\x7e\x01\x2c")]
)
def test_a_binary_frame_has_the_binary_opcode(size, head):
    assert frames.binary_frame(bytes(size)) == head + bytes(size)


def test_a_ready_frame_can_be_built_where_it_is_written():
    assert ServerFrameWriter.text_frame(b"hi") == frames.text_frame(b"hi")
    assert ServerFrameWriter.binary_frame(b"hi") == frames.binary_frame(b"hi")


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


class Recorder:
    """A message handler that records its calls."""

    def __init__(self):
        self.received = []

    def text_received(self, text):
        self.received.append(text)

    def bytes_received(self, data):
        self.received.append(data)

    def ping_received(self, payload):
        self.received.append(("ping", payload))

    def close_received(self, code, reason):
        self.received.append((code, reason))


@st.composite
def message_sequences(draw):
    """Frames of a client as bytes, and the calls that a parser makes for them."""
    data, expected = b"", []
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
                expected.append(("ping", piece[:9]))
            final = number == len(pieces) - 1
            data += client_frame(opcode if not number else 0, piece, final=final)
        expected.append(message)
    return data, expected


@given(message_sequences(), st.data())
def test_frames_are_parsed_from_pieces_of_any_size(sequence, choice):
    data, expected = sequence
    cuts = sorted(choice.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    parser, recorder = FrameParser(10_000), Recorder()

    for start, stop in itertools.pairwise([0, *cuts, len(data)]):
        parser.feed(data[start:stop], recorder)

    assert recorder.received == expected


def test_a_handler_that_is_full_pauses_the_parser():
    class Slow(Recorder):
        def bytes_received(self, data):
            super().bytes_received(data)
            parser.paused = True

    parser, slow = FrameParser(10_000), Slow()
    parser.feed(client_frame(2, b"1") + client_frame(2, b"2") + b"\x82", slow)
    parser.feed(client_frame(2, b"3")[1:], slow)
    assert slow.received == [b"1"]

    parser.resume(slow)
    assert slow.received == [b"1", b"2"]

    parser.resume(slow)
    assert slow.received == [b"1", b"2", b"3"]


@pytest.mark.parametrize("opcode", [0, 9, 10], ids=["fragment", "ping", "pong"])
def test_the_parser_pauses_after_many_frames_that_are_no_message(opcode):
    parser, recorder = FrameParser(10_000), Recorder()

    parser.feed(client_frame(2, final=False), recorder)
    parser.feed(client_frame(opcode, final=opcode > 0) * 1000, recorder)

    assert parser.paused


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    parser = FrameParser(1000)
    codes = []

    try:
        parser.feed(data, Recorder())
    except ProtocolError as error:
        codes.append(error.code)

    assert set(codes) <= {1002, 1007, 1009}


@pytest.mark.parametrize(
    "unfinished",
    [
        client_frame(2, bytes(200_000))[:-1],
        client_frame(2, bytes(200_000), final=False),
    ],
    ids=["frame", "message"],
)
def test_an_unfinished_message_is_freed_when_the_client_is_lost(unfinished):
    connection = ServerConnection(
        *(mock.Mock() for _ in range(4)),
        max_size=10_000_000,
        close_timeout=10,
        refusal_timeout=2,
    )
    tracemalloc.start()
    try:
        connection.feed(unfinished)
        held, _ = tracemalloc.get_traced_memory()
        connection.lost()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held > 200_000 - 10
    assert kept < 50_000


def test_nothing_is_read_while_the_application_has_received_nothing():
    """Also where it accepts first, with a queue for one event."""
    transport = mock.Mock()
    connection = ServerConnection(
        transport,
        mock.Mock(on_text=None),
        mock.Mock(paused=True),
        Loop(),
        max_size=1000,
        close_timeout=10,
        refusal_timeout=2,
    )

    connection.feed(client_frame(1, b"early"))

    assert transport.pause_reading.called


# The handshake


def test_a_request_that_is_no_get_is_405():
    with pytest.raises(handshake.HandshakeRefused) as refusal:
        handshake.read_request(b"POST / HTTP/1.1\r\nhost: a\r\n\r\n")

    assert refusal.value.status == 405
    assert refusal.value.headers == [(b"allow", b"GET")]


@pytest.mark.parametrize(
    "target",
    ["/é", "/?é", "/\nGET", "/?\nGET", "/\x1b[2J", "/%ff", "/%ed%a0%80", "/%c3"],
)
def test_an_address_that_is_no_text_is_a_bad_request(target):
    with pytest.raises(handshake.HandshakeRefused) as refusal:
        handshake.read_request(f"GET {target} HTTP/1.1\r\n\r\n".encode())

    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "headers", [b"a: b\r\n" * 300, b"a: " + b"b" * 70_000 + b"\r\n"]
)
def test_a_request_with_too_many_or_long_headers_is_431(headers):
    with pytest.raises(handshake.HandshakeRefused) as refusal:
        handshake.read_request(b"GET / HTTP/1.1\r\n" + headers)

    assert refusal.value.status == 431


def opening_request(*lines):
    fixed = (
        b"GET / HTTP/1.1",
        b"sec-websocket-version: 13",
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    return handshake.read_request(b"\r\n".join([*fixed, *lines]))


def test_headers_that_clients_send_alike_are_one_object():
    first = opening_request(b"User-Agent: Firefox \t")
    second = opening_request(b"User-Agent: Firefox \t")

    assert first.headers[-1] == (b"user-agent", b"Firefox")
    assert second.headers[-1] is first.headers[-1]


@pytest.mark.parametrize(
    "line",
    [
        b"Cookie: sessionid=secret",
        b"Authorization: Bearer secret",
        b"X-Forwarded-For: 192.0.2.1",
        b"User-Agent: " + b"x" * 300,
    ],
)
def test_headers_with_secrets_addresses_or_long_values_are_not_kept(line):
    first, second = opening_request(line), opening_request(line)

    assert second.headers[-1] == first.headers[-1]
    assert second.headers[-1] is not first.headers[-1]


def test_the_headers_that_are_kept_are_bounded():
    tracemalloc.start()
    try:
        for number in range(20_000):
            opening_request(b"X-Number: %d" % number + b"x" * 200)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 1_000_000


def test_a_status_without_a_name_is_sent_without_one():
    response = handshake.http_response(599, [], b"")

    assert response.startswith(b"HTTP/1.1 599 \r\n")


# Writing


class Loop:
    """An event loop whose callbacks run when a test calls them."""

    def __init__(self):
        self.soon = []
        self.timers = []
        self.running = True

    def call_soon(self, callback):
        self.soon.append(callback)

    def is_running(self):
        return self.running

    def tick(self):
        """Run what was asked for before now."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def call_later(self, delay, callback):
        timer = Timer(delay, callback)
        self.timers.append(timer)
        return timer

    def fire(self):
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
    ready = ServerFrameWriter(transport, tick or WriteScheduler(loop or Loop()))
    transport.frames = ready
    ready.open()
    return ready, transport


def test_a_scope_with_frames_can_be_copied_and_sent_to_another_process():
    ready, _ = open_frames()
    scope = {"path": "/", "extensions": {"tiderace.frames": ready}}

    copied = copy.deepcopy(scope)
    sent = pickle.loads(pickle.dumps(scope))

    assert copied == scope
    assert sent == {"path": "/", "extensions": {"tiderace.frames": None}}


def test_frames_of_one_tick_are_one_write():
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


def test_many_sockets_are_flushed_by_one_call():
    loop = Loop()
    tick = WriteScheduler(loop)
    batch = [open_frames(tick=tick) for _ in range(50)]

    for ready, _ in batch:
        ready.write(b"x")
    assert len(loop.soon) == 1
    loop.tick()

    assert all(transport.writes == [b"x"] for _, transport in batch)


def test_a_large_batch_is_written_in_slices():
    loop = Loop()
    tick = WriteScheduler(loop)
    batch = [open_frames(tick=tick) for _ in range(150)]
    for ready, _ in batch:
        ready.write(b"x")

    reached = []
    while loop.soon:
        loop.tick()
        reached.append(sum(bool(transport.writes) for _, transport in batch))

    assert reached == [64, 128, 150]


def test_a_frame_for_a_socket_not_written_yet_joins_its_write():
    loop = Loop()
    tick = WriteScheduler(loop)
    batch = [open_frames(tick=tick) for _ in range(300)]
    for ready, _ in batch:
        ready.write(b"x")
    loop.tick()

    for ready, _ in batch:
        ready.write(b"y")
    while loop.soon:
        loop.tick()

    assert [transport.writes for _, transport in batch] == (
        [[b"x", b"y"]] * 64 + [[b"xy"]] * 236
    )


def test_a_burst_does_not_wait_for_the_end_of_the_tick():
    ready, transport = open_frames()

    for _ in range(70):
        ready.write(b"x" * 1000)

    assert b"".join(transport.writes) == b"x" * 66_000
    assert ready.buffered == 4000 + 7


def test_a_socket_that_fails_is_cut_without_harm_to_others(caplog):
    loop = Loop()
    tick = WriteScheduler(loop)
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


def test_a_client_that_reads_no_more_gets_nothing():
    loop = Loop()
    ready, transport = open_frames(loop)

    ready.write(b"x")
    ready.stop()
    ready.write(b"y")
    loop.tick()

    assert transport.writes == []
    assert ready.buffered == 7


def test_a_transport_that_closes_by_itself_is_given_nothing_that_was_held_back():
    ready, transport = open_frames()
    ready.pause()
    ready.write(b"x")

    transport.closing = True
    ready.resume()

    assert transport.writes == []
    assert ready.buffered == 7


def test_the_queue_of_a_slow_client_is_dropped_at_its_close_frame():
    loop = Loop()
    ready, transport = open_frames(loop)
    ready.pause()
    ready.write(b"too slow")

    ready.finish(b"bye")

    assert transport.writes == [b"bye"]


# Sending to many


def shared_queue_of(number, tick, **options):
    """Open ``number`` sockets; return their writers and their transports."""
    pairs = [open_frames(tick=tick, **options) for _ in range(number)]
    return [ready for ready, _ in pairs], [transport for _, transport in pairs]


def run_until_idle(loop):
    while loop.soon:
        loop.tick()


def test_a_frame_for_many_is_queued_once_and_written_to_each():
    loop = Loop()
    ready, transports = shared_queue_of(100, WriteScheduler(loop))
    frame = ready[0].text_frame(b"hello")

    assert ready[0].write_all(ready, frame) == []
    assert len(loop.soon) == 1
    run_until_idle(loop)

    assert all(transport.writes == [frame] for transport in transports)
    assert all(transport.writes[0] is frame for transport in transports)
    assert loop.soon == []


def test_frames_for_many_are_joined_once_for_all():
    loop = Loop()
    ready, transports = shared_queue_of(64, WriteScheduler(loop))

    for frame in (b"a", b"b", b"c"):
        ready[0].write_all(ready, frame)
    run_until_idle(loop)

    assert all(transport.writes == [b"abc"] for transport in transports)
    assert len({id(transport.writes[0]) for transport in transports}) == 1


def test_a_frame_for_few_joins_what_they_get_as_well():
    loop = Loop()
    ready, transports = shared_queue_of(3, WriteScheduler(loop))

    ready[0].write(b"a")
    assert ready[0].write_all(ready, b"b") == []
    ready[0].write(b"c")
    run_until_idle(loop)

    assert [transport.writes for transport in transports] == [[b"abc"], [b"b"], [b"b"]]


def test_a_shared_queue_is_written_in_slices():
    loop = Loop()
    ready, transports = shared_queue_of(150, WriteScheduler(loop))
    ready[0].write_all(ready, b"x")

    reached = []
    while loop.soon:
        loop.tick()
        reached.append(sum(bool(transport.writes) for transport in transports))

    assert reached == [64, 128, 150]


def test_slices_are_smaller_where_frames_are_large():
    loop = Loop()
    ready, transports = shared_queue_of(20, WriteScheduler(loop))
    ready[0].write_all(ready, b"x" * 300_000)

    loop.tick()

    assert sum(bool(transport.writes) for transport in transports) == 3


def test_a_frame_for_members_not_written_yet_joins_their_write():
    loop = Loop()
    ready, transports = shared_queue_of(300, WriteScheduler(loop))
    ready[0].write_all(ready, b"x")
    loop.tick()

    assert ready[0].write_all(ready, b"y") == []
    run_until_idle(loop)

    assert [transport.writes for transport in transports] == (
        [[b"x", b"y"]] * 64 + [[b"xy"]] * 236
    )


def test_a_part_of_a_shared_queue_may_get_more_frames():
    loop = Loop()
    ready, transports = shared_queue_of(60, WriteScheduler(loop))

    ready[0].write_all(ready, b"a")
    assert ready[0].write_all(ready[20:], b"b") == []
    assert ready[0].write_all(ready[40:], b"c") == []
    assert ready[0].write_all(ready, b"d") == []
    run_until_idle(loop)

    assert [transport.writes for transport in transports] == (
        [[b"ad"]] * 20 + [[b"abd"]] * 20 + [[b"abcd"]] * 20
    )


def test_a_frame_for_one_member_keeps_its_place():
    loop = Loop()
    ready, transports = shared_queue_of(40, WriteScheduler(loop))

    ready[0].write_all(ready, b"a")
    ready[7].write(b"b")
    assert ready[0].write_all(ready, b"c") == []
    run_until_idle(loop)

    assert transports[7].writes == [b"abc"]
    assert all(
        transport.writes == [b"ac"]
        for number, transport in enumerate(transports)
        if number != 7
    )


def test_small_groups_do_not_wait_behind_a_large_one():
    loop = Loop()
    tick = WriteScheduler(loop)
    many, _ = shared_queue_of(500, tick)
    few, transports = shared_queue_of(3, tick)

    many[0].write_all(many, b"x")
    few[0].write_all(few, b"y")
    loop.tick()

    assert [transport.writes for transport in transports] == [[b"y"]] * 3


def test_sockets_that_cannot_be_written_to_are_returned():
    loop = Loop()
    tick = WriteScheduler(loop)
    ready, transports = shared_queue_of(30, tick)
    slow, closing, unopened, foreign = ready[3], ready[4], ready[5], ready[6]
    slow.pause()
    closing.end(b"bye")
    unopened = ServerFrameWriter(Transport(), tick)
    (foreign,), _ = shared_queue_of(1, WriteScheduler(loop))
    others = [each for each in ready if each not in (slow, closing)]

    refused = ready[0].write_all([*ready, unopened, foreign], b"x")
    run_until_idle(loop)

    assert refused == [slow, closing, unopened, foreign]
    assert transports[3].writes == []
    assert transports[4].writes == [b"bye"]
    assert all(each._transport.writes == [b"x"] for each in others)


def test_sockets_that_share_a_queue_of_another_server_are_returned():
    loop = Loop()
    here, _ = shared_queue_of(20, WriteScheduler(loop))
    there, transports = shared_queue_of(20, WriteScheduler(loop))
    there[0].write_all(there, b"x")

    assert here[0].write_all(there, b"y") == there
    run_until_idle(loop)

    assert all(transport.writes == [b"x"] for transport in transports)


def test_outside_the_thread_of_the_loop_no_socket_is_written_to():
    loop = Loop()
    ready, _ = shared_queue_of(20, WriteScheduler(loop))
    refused = []

    thread = threading.Thread(
        target=lambda: refused.extend(ready[0].write_all(ready, b"x"))
    )
    thread.start()
    thread.join()

    assert refused == ready
    assert loop.soon == []


def test_a_loop_that_does_not_run_is_given_nothing():
    loop = Loop()
    ready, _ = shared_queue_of(20, WriteScheduler(loop))
    loop.running = False

    assert ready[0].write_all(ready, b"x") == ready


def test_a_frame_for_many_has_to_be_bytes():
    ready, _ = shared_queue_of(2, WriteScheduler(Loop()))

    with pytest.raises(TypeError, match="text_frame"):
        ready[0].write_all(ready, "x")


def test_a_shared_queue_has_a_bound():
    loop = Loop()
    ready, transports = shared_queue_of(20, WriteScheduler(loop))
    frame = b"x" * 1000

    for _ in range(70):
        assert ready[0].write_all(ready, frame) == []

    assert {each.buffered for each in ready} == {4000 + 7}
    run_until_idle(loop)
    assert all(b"".join(transport.writes) == b"x" * 70_000 for transport in transports)


@pytest.mark.parametrize("number", [2, 20])
def test_a_large_frame_reaches_few_and_many(number):
    loop = Loop()
    ready, transports = shared_queue_of(number, WriteScheduler(loop))
    frame = b"x" * 70_000

    ready[0].write_all(ready, frame)
    run_until_idle(loop)

    assert all(transport.writes == [frame] for transport in transports)


def test_frames_in_a_shared_queue_count_as_buffered():
    ready, _ = shared_queue_of(20, WriteScheduler(Loop()))

    ready[0].write_all(ready, b"abc")
    ready[0].write(b"de")

    assert ready[0].buffered == 5 + 7
    assert ready[1].buffered == 3 + 7


def test_a_socket_that_is_full_keeps_what_it_was_to_get_with_others():
    loop = Loop()
    ready, transports = shared_queue_of(20, WriteScheduler(loop))
    ready[0].write_all(ready, b"a")

    ready[5].pause()
    run_until_idle(loop)
    assert transports[5].writes == []

    ready[5].resume()
    assert transports[5].writes == [b"a"]


def test_a_socket_filled_by_what_it_shares_gets_nothing_more_until_it_has_room():
    loop = Loop()
    ready, transports = shared_queue_of(20, WriteScheduler(loop), room=1)
    ready[0].write_all(ready, b"a")
    run_until_idle(loop)

    assert ready[0].write_all(ready, b"b") == ready
    ready[0].write(b"b")
    run_until_idle(loop)
    assert transports[0].writes == [b"a"]

    ready[0].resume()
    assert transports[0].writes == [b"a", b"b"]


def test_the_close_frame_comes_after_shared_frames():
    loop = Loop()
    ready, transports = shared_queue_of(40, WriteScheduler(loop))
    ready[0].write_all(ready, b"a")

    ready[1].end(b"bye")
    ready[2].finish(b"bye")
    assert ready[0].write_all(ready, b"b") == ready[1:3]
    run_until_idle(loop)

    assert transports[1].writes == [b"abye"]
    assert transports[2].writes == [b"a", b"bye"]
    assert transports[3].writes == [b"ab"]


@pytest.mark.parametrize("before", [0, 1, 65_530])
def test_nothing_follows_a_close_frame(before):
    loop = Loop()
    (ready, *rest), (transport, *_) = shared_queue_of(20, WriteScheduler(loop))
    if before:
        ready.write(b"x" * before)
    ready.end(b"goodbye")
    run_until_idle(loop)

    ready.write(b"late")
    assert ready.write_all([ready, *rest], b"late") == [ready]
    run_until_idle(loop)

    assert b"".join(transport.writes) == b"x" * before + b"goodbye"


def test_a_frame_waits_where_its_transport_is_full_before_the_tick_ends():
    loop = Loop()
    ready, transport = open_frames(loop)
    ready.write(b"a")

    ready.pause()
    loop.tick()
    assert transport.writes == []

    ready.resume()
    assert transport.writes == [b"a"]


def test_other_members_get_their_frames_after_a_socket_is_gone():
    loop = Loop()
    ready, transports = shared_queue_of(40, WriteScheduler(loop))
    ready[0].write_all(ready, b"a")

    ready[1].cut()
    ready[2].stop()
    run_until_idle(loop)

    assert [bool(transport.writes) for transport in transports[:4]] == [
        True, False, False, True
    ]  # fmt: skip


def test_a_shared_queue_without_members_is_removed():
    loop = Loop()
    tick = WriteScheduler(loop)
    ready, transports = shared_queue_of(100, tick)
    ready[0].write_all(ready, b"a")

    for each in ready:
        each.flush()
    loop.tick()

    assert loop.soon == []
    assert all(transport.writes == [b"a"] for transport in transports)


def test_a_transport_that_fails_is_cut_without_harm_to_other_members(caplog):
    loop = Loop()
    ready, transports = shared_queue_of(20, WriteScheduler(loop))
    transports[3].write = None  # which cannot be called

    ready[0].write_all(ready, b"x")
    with caplog.at_level(logging.ERROR):
        run_until_idle(loop)

    assert [transport.cut for transport in transports[:5]] == [
        False, False, False, True, False
    ]  # fmt: skip
    assert sum(transport.writes == [b"x"] for transport in transports) == 19
    assert "could not be written to" in caplog.text


SOCKETS = 40
ANY = st.integers(0, SOCKETS - 1)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), ANY, ANY),
            st.tuples(st.just("write_all"), ANY, ANY),
            st.tuples(st.sampled_from(("pause", "resume")), ANY, ANY),
            st.tuples(st.just("tick"), ANY, ANY),
        ),
        max_size=60,
    )
)
def test_every_socket_gets_all_its_frames_once_and_in_order(steps):
    loop = Loop()
    ready, transports = shared_queue_of(SOCKETS, WriteScheduler(loop))
    expected = [b""] * SOCKETS

    for number, (what, one, other) in enumerate(steps):
        frame = b"<%d>" % number
        first, last = sorted((one, other))
        if what == "write":
            ready[one].write(frame)
            expected[one] += frame
        elif what == "write_all":
            for each in ready[0].write_all(ready[first : last + 1], frame):
                each.write(frame)
            for each in range(first, last + 1):
                expected[each] += frame
        elif what == "tick":
            loop.tick()
        else:
            for each in ready[first : last + 1]:
                getattr(each, what)()
    for each in ready:
        each.resume()
    run_until_idle(loop)

    assert [b"".join(transport.writes) for transport in transports] == expected
    assert {each.buffered for each in ready} == {7}


# Reading


async def test_reading_pauses_while_the_application_does_not_receive():
    transport = Transport()
    queue = ReadQueue(transport, 4)

    for number in range(4):
        queue.put({"type": "websocket.receive", "text": str(number)}, 1)
    assert not transport.reading

    for _ in range(2):
        await queue.get()
    assert transport.reading


async def test_reading_pauses_after_a_few_large_messages():
    transport = Transport()
    queue = ReadQueue(transport, 32)

    for _ in range(2):
        event = {"type": "websocket.receive", "bytes": bytes(600_000)}
        queue.put(event, 600_000)
    assert not transport.reading

    await queue.get()
    assert transport.reading


async def test_a_cancelled_get_loses_no_event():
    queue = ReadQueue(Transport(), 4)
    reader = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)

    queue.put({"type": "websocket.receive", "text": "kept"}, 4)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader

    assert (await queue.get())["text"] == "kept"


async def test_nothing_comes_after_the_disconnect():
    queue = ReadQueue(Transport(), 4)
    queue.disconnect(4000)

    queue.put({"type": "websocket.receive", "text": "late"}, 4)
    queue.disconnect(1006)

    assert (await queue.get())["code"] == 4000
    assert (await queue.get())["code"] == 4000


# Keep-alive


class Pinged:
    """A connection that pings: the frames that it sends, and whether it has ended."""

    def __init__(self, timeout=5):
        self.loop = Loop()
        self.read_queue = mock.Mock(paused=False)
        self._frames = mock.Mock()
        self.connection = ServerConnection(
            mock.Mock(),
            self._frames,
            self.read_queue,
            self.loop,
            max_size=1000,
            close_timeout=10,
            refusal_timeout=2,
        )
        # Its timers are those of the loop, which has the same method.
        self.connection.keep_alive(20, timeout, self.loop)

    @property
    def pings(self):
        return self._frames.write.mock_calls.count(mock.call(frames.ping_frame()))

    @property
    def lost(self):
        return self.read_queue.disconnect.called


def test_a_client_that_answers_is_pinged_once_an_interval():
    client = Pinged()

    assert client.loop.fire() == 20
    client.connection.feed(b"")
    assert client.loop.fire() == 5
    assert client.loop.fire() == 15

    assert client.pings == 2
    assert not client.lost


def test_a_client_that_is_silent_after_a_ping_is_lost():
    client = Pinged()

    client.loop.fire()
    assert client.loop.fire() == 5
    assert client.loop.fire() == 1

    assert client.lost
    assert client.loop.fire() == 10


def test_a_pong_that_is_read_only_after_a_late_timer_counts():
    client = Pinged()

    client.loop.fire()
    client.loop.fire()
    client.connection.feed(b"")
    client.loop.fire()

    assert not client.lost
    assert client.loop.fire() == 15
    assert client.pings == 2


def test_a_client_that_is_not_read_from_is_not_lost():
    client = Pinged()
    client.read_queue.paused = True

    client.loop.fire()
    client.loop.fire()
    assert not client.lost

    client.connection.feed(b"")
    client.loop.fire()
    assert not client.lost


def test_without_a_timeout_a_silent_client_is_still_pinged():
    client = Pinged(timeout=None)

    assert [client.loop.fire(), client.loop.fire()] == [20, 20]
    assert client.pings == 2


def test_a_lost_connection_has_no_timer():
    client = Pinged()
    client.connection.lost()

    assert client.loop.timers[0].cancelled


# gunicorn


def test_gunicorns_worker_serves_websockets_with_the_class():
    assert UvicornWorker.CONFIG_KWARGS["ws"] == "tiderace.server:WebSocketProtocol"


def test_gunicorns_worker_names_the_missing_package():
    # Another process runs it, where the package is hidden from the very first import.
    script = (
        "import sys\n"
        "sys.modules['uvicorn_worker'] = None\n"
        "import tiderace.server.gunicorn\n"
    )

    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert run.returncode == 1
    assert "pip install gunicorn uvicorn-worker" in run.stderr
