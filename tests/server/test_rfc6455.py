"""RFC 6455 byte by byte: what our protocol class answers to clients of every manner.

The cases are those of the usual conformance suites, sent over real sockets; each
section has the number of the RFC's section it stands on.
"""

from __future__ import annotations

import base64
import hashlib

import pytest

from support.clients.raw_websocket import (
    BINARY,
    CLOSE,
    KEY,
    LOOPS,
    PING,
    PONG,
    TEXT,
    Journalist,
    RawServer,
    RawWebSocket,
    client_frame,
    close_payload,
    echo,
)

MAX_SIZE = 200_000


@pytest.fixture(scope="module", params=LOOPS)
def server(request):
    with RawServer(loop=request.param, ws_max_size=MAX_SIZE) as running:
        yield running


@pytest.fixture(scope="module")
def path(server):
    return server.serve(echo)


@pytest.fixture
def client(server, path):
    with RawWebSocket(server.port, path) as connection:
        yield connection.open()


def refused(client, code):
    """Whether the server says ``code`` and then hangs up."""
    said, _ = client.read_close()
    return said == code and client.read_rest() == b""


# 4.2 The opening handshake


def test_the_accept_key_is_the_hash_of_the_clients(server, path):
    with RawWebSocket(server.port, path) as client:
        status, headers = client.read_head()

    magic = KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    expected = base64.b64encode(hashlib.sha1(magic).digest()).decode()
    assert status == 101
    assert headers["sec-websocket-accept"] == expected
    assert headers["upgrade"] == "websocket"
    assert headers["connection"] == "Upgrade"


@pytest.mark.parametrize("version", ["0", "8", "14", "13, 8", None])
def test_another_version_is_answered_with_426_and_the_one_spoken(server, path, version):
    with RawWebSocket(server.port, path, Sec_WebSocket_Version=version) as client:
        status, headers = client.read_head()

    assert status == 426
    assert headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    "key", [None, "", "short", "not base64 at all!!", base64.b64encode(b"x" * 15)]
)
def test_a_key_that_is_not_16_bytes_is_a_bad_request(server, path, key):
    key = key.decode() if isinstance(key, bytes) else key
    with RawWebSocket(server.port, path, Sec_WebSocket_Key=key) as client:
        status, _ = client.read_head()
        client.read_rest()

    assert status == 400


def test_two_keys_are_a_bad_request(server, path):
    headers = [("Sec-WebSocket-Key", KEY.decode())]
    with RawWebSocket(server.port, path, headers=headers) as client:
        status, _ = client.read_head()

    assert status == 400


def test_an_offer_of_compression_is_declined(server, path):
    headers = [("Sec-WebSocket-Extensions", "permessage-deflate")]
    with RawWebSocket(server.port, path, headers=headers) as client:
        status, answer = client.read_head()

    assert status == 101
    assert "sec-websocket-extensions" not in answer


# 5.2 Framing


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 100_000])
def test_a_message_of_every_size_of_length_comes_back(client, opcode, size):
    client.frame(opcode, b"*" * size)

    assert client.read_frame() == (0x80 | opcode, b"*" * size)


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\2\3\4"])
def test_every_mask_is_removed(client, mask):
    client.frame(BINARY, bytes(range(256)), mask=mask)

    assert client.read_frame() == (0x80 | BINARY, bytes(range(256)))


def test_a_frame_may_come_byte_by_byte(client):
    for byte in client_frame(TEXT, b"slowly"):
        client.send(bytes((byte,)))

    assert client.hear() == "slowly"


def test_many_frames_may_come_at_once(client):
    client.send(b"".join(client_frame(TEXT, b"%d" % number) for number in range(20)))

    assert [client.hear() for _ in range(20)] == [str(number) for number in range(20)]


def test_a_frame_and_a_half_may_come_at_once(client):
    data = client_frame(TEXT, b"one") + client_frame(TEXT, b"two")
    client.send(data[:-2])
    assert client.hear() == "one"

    client.send(data[-2:])
    assert client.hear() == "two"


def test_a_length_longer_than_it_needs_to_be_is_read(client):
    client.send(bytes((0x81, 0xFF)) + (2).to_bytes(8, "big") + bytes(4) + b"ok")

    assert client.hear() == "ok"


@pytest.mark.parametrize("reserved", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
def test_a_reserved_bit_is_a_protocol_error(client, opcode, reserved):
    client.frame(opcode, b"", reserved=reserved)

    assert refused(client, 1002)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_a_reserved_opcode_is_a_protocol_error(client, opcode):
    client.frame(opcode, b"what?")

    assert refused(client, 1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_a_frame_without_a_mask_is_a_protocol_error(client, opcode):
    client.frame(opcode, b"", mask=None)

    assert refused(client, 1002)


def test_a_message_before_a_protocol_error_is_delivered(server):
    application = Journalist()
    with server.open(application) as client:
        client.send(client_frame(TEXT, b"before") + client_frame(TEXT, reserved=4))
        client.read_close()

    application.disconnect()
    assert application.events[1]["text"] == "before"


def test_a_message_after_a_protocol_error_is_not_read(client):
    client.send(client_frame(TEXT, reserved=4) + client_frame(TEXT, b"after"))
    client.read_close()
    client.say("later")

    assert client.read_rest() == b""


def test_the_application_gets_the_code_of_a_protocol_error(server):
    application = Journalist()
    with server.open(application) as client:
        client.frame(TEXT, b"", mask=None)
        client.read_close()

    assert application.disconnect()["code"] == 1002


# 5.4 Fragmentation


def test_a_message_in_fragments_is_one_message(client):
    client.frame(TEXT, b"one ", final=False)
    client.frame(0, b"two ", final=False)
    client.frame(0, b"three")

    assert client.hear() == "one two three"


def test_a_binary_message_in_fragments_is_one_message(client):
    client.frame(BINARY, b"\x00\xff", final=False)
    client.frame(0, b"\xfe")

    assert client.read_frame() == (0x80 | BINARY, b"\x00\xff\xfe")


def test_fragments_may_be_empty(client):
    client.frame(TEXT, b"", final=False)
    client.frame(0, b"", final=False)
    client.frame(0, b"")

    assert client.hear() == ""


def test_fragments_may_come_byte_by_byte(client):
    message = (
        client_frame(TEXT, b"one ", final=False)
        + client_frame(PING, b"?")
        + client_frame(0, b"two")
    )
    for byte in message:
        client.send(bytes((byte,)))

    assert client.read_frame() == (0x80 | PONG, b"?")
    assert client.hear() == "one two"


def test_a_ping_between_fragments_is_answered_before_the_message(client):
    client.frame(TEXT, b"one ", final=False)
    client.frame(PING, b"are you there?")
    assert client.read_frame() == (0x80 | PONG, b"are you there?")

    client.frame(0, b"two")
    assert client.hear() == "one two"


def test_a_message_follows_one_in_fragments(client):
    client.frame(TEXT, b"one", final=False)
    client.frame(0, b"!")
    client.frame(BINARY, b"two")

    assert client.hear() == "one!"
    assert client.read_frame() == (0x80 | BINARY, b"two")


@pytest.mark.parametrize("final", [True, False])
def test_a_continuation_of_nothing_is_a_protocol_error(client, final):
    client.frame(0, b"what?", final=final)

    assert refused(client, 1002)


def test_a_continuation_of_a_finished_message_is_a_protocol_error(client):
    client.frame(TEXT, b"done")
    assert client.hear() == "done"
    client.frame(0, b"more")

    assert refused(client, 1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_inside_a_message_is_a_protocol_error(client, opcode):
    client.frame(TEXT, b"one", final=False)
    client.frame(opcode, b"two")

    assert refused(client, 1002)


# 5.5 Control frames


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(125)), b"\xfe" * 125])
def test_a_ping_is_answered_with_its_payload(client, payload):
    client.frame(PING, payload)

    assert client.read_frame() == (0x80 | PONG, payload)


def test_ten_pings_get_ten_pongs_in_order(client):
    client.send(b"".join(client_frame(PING, b"%d" % number) for number in range(10)))

    pongs = [client.read_frame() for _ in range(10)]
    assert pongs == [(0x80 | PONG, b"%d" % number) for number in range(10)]


def test_an_unsolicited_pong_is_ignored(client):
    client.frame(PONG, b"unsolicited")
    client.say("on")

    assert client.hear() == "on"


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_a_control_frame_of_126_bytes_is_a_protocol_error(client, opcode):
    client.frame(opcode, b"\x03\xe8" + b"x" * 124)

    assert refused(client, 1002)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_a_control_frame_in_fragments_is_a_protocol_error(client, opcode):
    client.frame(opcode, b"", final=False)

    assert refused(client, 1002)


# 5.5.1 and 7 Closing


@pytest.mark.parametrize(
    "code",
    [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999],
)
def test_a_close_frame_is_answered_with_its_code(server, code):
    application = Journalist()
    with server.open(application) as client:
        client.frame(CLOSE, close_payload(code, b"bye"))
        said, _ = client.read_close()
        assert client.read_rest() == b""

    event = application.disconnect()
    assert said == code
    assert (event["code"], event["reason"]) == (code, "bye")


def test_a_close_frame_without_a_code_is_1005_to_the_application(server):
    application = Journalist()
    with server.open(application) as client:
        client.frame(CLOSE)
        assert client.read_close() == (None, "")
        assert client.read_rest() == b""

    assert application.disconnect()["code"] == 1005


def test_a_close_frame_may_have_a_reason_of_123_bytes(client):
    client.frame(CLOSE, close_payload(1000, b"*" * 123))

    assert refused(client, 1000)


@pytest.mark.parametrize(
    "code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
def test_a_code_that_may_not_be_sent_is_a_protocol_error(client, code):
    client.frame(CLOSE, close_payload(code))

    assert refused(client, 1002)


def test_half_a_code_is_a_protocol_error(client):
    client.frame(CLOSE, b"\x03")

    assert refused(client, 1002)


def test_a_reason_that_is_not_utf_8_is_1007(client):
    client.frame(CLOSE, close_payload(1000, b"\xce\xba\xed\xa0\x80"))

    assert refused(client, 1007)


def test_frames_after_a_close_frame_are_ignored(server):
    application = Journalist()
    with server.open(application) as client:
        after = client_frame(TEXT, b"after") + client_frame(PING) + b"\xff\xff"
        client.send(client_frame(CLOSE, close_payload(1000)) + after)
        assert client.read_close() == (1000, "")
        assert client.read_rest() == b""

    application.disconnect()
    assert [event["type"] for event in application.events] == [
        "websocket.connect",
        "websocket.disconnect",
    ]


def test_a_close_frame_between_fragments_ends_the_connection(client):
    client.frame(TEXT, b"never finished", final=False)
    client.frame(CLOSE, close_payload(1000))

    assert refused(client, 1000)


def test_messages_before_a_close_frame_are_answered_before_it(client):
    client.send(client_frame(PING, b"last") + client_frame(CLOSE, close_payload(1000)))

    assert client.read_frame() == (0x80 | PONG, b"last")
    assert refused(client, 1000)


# 8.1 UTF-8

VALID = [
    "κόσμε".encode(),
    "\U00010000".encode(),
    "\U0010ffff".encode(),
    "\ufffd".encode(),
    b"\x7f",
    b"\xc2\x80",
    b"\xef\xbf\xbf",
    b"\x00",
]
INVALID = [
    b"\x80",
    b"\xbf",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xc1\xbf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xce\xba\xe1\xbd",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
]


@pytest.mark.parametrize("text", VALID)
def test_valid_utf_8_comes_back(client, text):
    client.frame(TEXT, text)

    assert client.read_frame() == (0x80 | TEXT, text)


@pytest.mark.parametrize("text", VALID)
def test_characters_may_be_cut_by_fragments(client, text):
    client.frame(TEXT, text[:1], final=False)
    for byte in text[1:]:
        client.frame(0, bytes((byte,)), final=False)
    client.frame(0)

    assert client.read_frame() == (0x80 | TEXT, text)


@pytest.mark.parametrize("text", INVALID)
def test_invalid_utf_8_is_1007(client, text):
    client.frame(TEXT, text)

    assert refused(client, 1007)


@pytest.mark.parametrize("text", INVALID)
def test_invalid_utf_8_in_fragments_is_1007(client, text):
    client.frame(TEXT, text[:1], final=False)
    client.frame(0, text[1:])

    assert refused(client, 1007)


def test_a_broken_fragment_ends_the_connection_before_the_message_does(client):
    client.frame(TEXT, "κόσμε".encode(), final=False)
    client.frame(0, b"\xed\xa0\x80", final=False)

    assert refused(client, 1007)


def test_binary_messages_may_hold_anything(client):
    client.frame(BINARY, b"\xed\xa0\x80\xff")

    assert client.read_frame() == (0x80 | BINARY, b"\xed\xa0\x80\xff")


# 10.4 Limits


def test_a_message_as_long_as_allowed_comes_back(client):
    client.frame(BINARY, b"x" * MAX_SIZE)

    assert client.read_frame() == (0x80 | BINARY, b"x" * MAX_SIZE)


def test_a_message_that_is_longer_is_1009(client):
    client.frame(BINARY, b"x" * (MAX_SIZE + 1))

    assert refused(client, 1009)


def test_the_head_of_a_frame_too_long_is_enough_for_1009(client):
    client.send(bytes((0x82, 0xFF)) + (2**62).to_bytes(8, "big") + bytes(4))

    assert refused(client, 1009)


def test_fragments_count_together(client):
    client.frame(TEXT, b"x" * MAX_SIZE, final=False)
    client.frame(0, b"y")

    assert refused(client, 1009)
