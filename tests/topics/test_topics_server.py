"""A topics endpoint on our own server, by bytes: what a stranger may make it hold."""

from __future__ import annotations

import itertools
import json
import logging

import pytest

from support.clients.raw_websocket import (
    BINARY,
    PING,
    PONG,
    TEXT,
    RawServer,
    client_frame,
)
from support.waiting import wait_until
from tiderace.topics import AllowAny, Latest, Topic, TopicsEndpoint, publish

LIMIT = 65_536


@pytest.fixture(scope="module")
def server():
    with RawServer() as running:
        assert running.config.ws_max_size == 16 * 1024 * 1024
        yield running


@pytest.fixture
def stranger(server):
    """A client that has not said who it is."""
    with server.open(TopicsEndpoint.as_asgi()) as client:
        yield client


def head(opcode, length, *, final=True):
    """The head of a frame, its mask included, without any of its payload."""
    first = (0x80 if final else 0) | opcode
    return bytes((first, 0xFF)) + length.to_bytes(8, "big") + bytes(4)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_frame_that_is_too_long_is_refused_at_its_head(stranger, opcode):
    stranger.send(head(opcode, LIMIT + 1))

    code, reason = stranger.read_close()
    assert code == 1009
    assert str(LIMIT) in reason


def test_fragments_that_are_too_long_together_are_refused_at_the_last_head(stranger):
    stranger.frame(TEXT, b"x" * LIMIT, final=False)
    stranger.send(head(0, 1, final=False))

    assert stranger.read_close()[0] == 1009


def test_no_more_than_the_limit_is_buffered_before_connect(server, stranger):
    parser = server.protocol_of(stranger)._connection._parser
    frame = client_frame(TEXT, b"x" * LIMIT)

    # A ping is answered in order, after everything before it was read.
    stranger.frame(TEXT, b"x" * (LIMIT // 2), final=False)
    stranger.frame(PING, b"read")
    assert stranger.read_frame() == (0x80 | PONG, b"read")
    buffered = len(parser._fragments)
    stranger.send(frame)
    assert stranger.read_close()[0] == 1002

    assert buffered == LIMIT // 2
    assert len(parser._fragments or b"") + len(parser._buffer or b"") <= LIMIT


def test_a_message_as_long_as_the_limit_is_read(stranger):
    command = json.dumps({"id": 1, "connect": {"data": ""}})
    padded = command.replace('""', f'"{"x" * (LIMIT - len(command))}"')
    stranger.say(padded)

    assert json.loads(stranger.hear())["id"] == 1


def test_the_limit_is_the_setting(server, settings):
    settings.TIDERACE = {"TOPICS": {"FRAME_SIZE": 100}}
    with server.open(TopicsEndpoint.as_asgi()) as client:
        client.send(head(TEXT, 101))

        assert client.read_close()[0] == 1009


def test_a_message_that_is_too_long_is_logged(stranger, caplog):
    caplog.set_level(logging.INFO, "tiderace.topics")
    stranger.send(head(TEXT, LIMIT + 1))
    stranger.read_close()

    wait_until(lambda: "closed with 1009" in caplog.text, what="the log line")


def test_a_client_that_does_not_read_has_no_backlog_of_the_newest_values(
    server,
    settings,
    own_topics,
):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }

    class Gauge(Topic):
        pattern = "gauge"
        deliver = Latest(rate="1000/s")
        permission_classes = [AllowAny]

    numbers = itertools.count()

    def publish_next():
        number = next(numbers)
        publish("gauge", [number, "x" * 100_000])
        return number

    with server.open(TopicsEndpoint.as_asgi()) as client:
        client.say('{"id": 1, "connect": {}}')
        client.hear()
        client.say('{"id": 2, "subscribe": {"channel": "gauge"}}')
        client.hear()
        transport = server.protocol_of(client).transport

        def is_full():
            publish_next()
            return transport.get_write_buffer_size()

        held = wait_until(is_full, what="a full socket")
        before = publish_next()
        sizes = set()
        for _ in range(100):
            last = publish_next()
            sizes.add(transport.get_write_buffer_size())
        received = []
        while received[-1:] != [last]:
            received.append(json.loads(client.hear())["push"]["pub"]["data"][0])

    assert max(sizes) <= held
    assert received == sorted(set(received))
    assert sum(number > before for number in received) < 100
