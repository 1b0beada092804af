"""The Protobuf codec: the same frames as the JSON codec's, and nothing that it trips over.

What is checked against is the generated module of another package, centrifuge-python's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import Any

import centrifuge
import msgspec
import pytest
from centrifuge import SubscriptionEventHandler
from centrifuge.protocol import client_pb2 as theirs
from hypothesis import given
from hypothesis import strategies as st

from support.clients.stream_client import ORIGIN, begin, request
from support.paths import SPEC
from support.servers.asgi_process import AsgiProcess
from support.waiting import within
from tiderace.presence.store import Member
from tiderace.protocol import client_messages
from tiderace.protocol.codec import JSON, MalformedFrame
from tiderace.protocol.messages import (
    ClientInfo,
    Command,
    ConnectResult,
    Empty,
    FilterNode,
    Pub,
    Push,
    RefreshResult,
    Reply,
    SubscribeResult,
)
from tiderace.protocol.protobuf import PROTOBUF
from tiderace.testing import WebsocketCommunicator
from tiderace.topics import AllowAny, Presence, Topic, TopicsEndpoint
from tiderace.topics.declaration.topic import declared
from tiderace.topics.hub import current

RAW = {"data", "conn_info", "chan_info"}


def vectors(by: str) -> Any:
    cases = json.loads((SPEC / "vectors" / "frames.json").read_text())
    return pytest.mark.parametrize(
        "text",
        [
            pytest.param(each["text"], id=each["name"])
            for each in cases
            if each["by"] == by
        ],
    )


def fill(message, frame: dict[str, Any]):
    """Write a frame as JSON says it into a message of theirs."""
    for name, value in frame.items():
        if name in RAW:
            setattr(message, name, json.dumps(value).encode())
        elif isinstance(value, dict):
            part = getattr(message, name)
            if hasattr(part, "SetInParent"):
                part.SetInParent()
                fill(part, value)
            else:
                for key, each in value.items():
                    if isinstance(each, dict):
                        fill(part[key], each)
                    else:
                        part[key] = each
        elif isinstance(value, list):
            for each in value:
                fill(getattr(message, name).add(), each)
        else:
            setattr(message, name, value)
    return message


def plain(message) -> dict[str, Any]:
    """A message of theirs as JSON would say it."""
    frame: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name in RAW:
            frame[field.name] = json.loads(value)
        elif hasattr(value, "ListFields"):
            frame[field.name] = plain(value)
        elif hasattr(value, "add"):
            frame[field.name] = [plain(each) for each in value]
        elif hasattr(value, "items"):
            frame[field.name] = {
                key: plain(each) if hasattr(each, "ListFields") else each
                for key, each in value.items()
            }
        else:
            frame[field.name] = value
    return frame


def delimited(*messages) -> bytes:
    return b"".join(
        length(len(data)) + data
        for data in (message.SerializeToString() for message in messages)
    )


def length(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def all_told(data: bytes):
    """The replies in what the codec has written, as theirs reads them."""
    replies = []
    while data:
        size, place = data[0], 1
        if size > 0x7F:
            size, place = size & 0x7F | data[1] << 7, 2
        assert len(data) >= place + size
        reply = theirs.Reply()
        reply.ParseFromString(data[place : place + size])
        replies.append(reply)
        data = data[place + size :]
    return replies


def told(data: bytes):
    """The one reply in it."""
    [reply] = all_told(data)
    return reply


@vectors("client")
def test_a_command_is_decoded_as_from_json(text):
    [command] = PROTOBUF.decode(delimited(fill(theirs.Command(), json.loads(text))))

    assert command == compact(JSON.decode(text.encode())[0])


def compact(command: Command) -> Command:
    """Return the command with its raw parts as ``json.dumps`` writes them."""
    return JSON.decode(json.dumps(json.loads(JSON.encode(command))).encode())[0]


@vectors("server")
def test_a_reply_is_encoded_as_in_json(text):
    reply = msgspec.json.decode(text, type=Reply)

    assert plain(told(PROTOBUF.encode(reply))) == json.loads(text)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(
            id=1,
            connect=ConnectResult(
                client="c",
                version="v",
                subs={
                    "a": SubscribeResult(
                        recoverable=True, publications=[Pub(data=msgspec.Raw(b"1"))]
                    ),
                    "b": SubscribeResult(),
                },
                expires=True,
                ttl=600,
                session="s",
                node="n",
            ),
        ),
        Reply(id=2, refresh=RefreshResult(client="c", expires=True, ttl=5)),
        Reply(id=3, publish=Empty()),
        Reply(push=Push(channel="ü" * 200, pub=Pub(info=ClientInfo("1", "c")))),
    ],
)
def test_replies_without_a_vector_are_encoded_as_in_json(reply):
    assert plain(told(PROTOBUF.encode(reply))) == json.loads(JSON.encode(reply))


def test_a_refresh_push_leaves_out_fields_that_protobuf_lacks():
    push = Push(refresh=RefreshResult(client="c", version="v", expires=True, ttl=5))

    frame = plain(told(PROTOBUF.encode(Reply(push=push))))

    assert frame == {"push": {"refresh": {"expires": True, "ttl": 5}}}


def test_several_commands_come_in_one_message():
    commands = PROTOBUF.decode(
        delimited(
            theirs.Command(id=1, connect=theirs.ConnectRequest()),
            theirs.Command(),
            theirs.Command(id=2, ping=theirs.PingRequest()),
        )
    )

    assert [each.id for each in commands] == [1, 0, 2]


def test_several_replies_go_in_one_message():
    replies = [PROTOBUF.encode(Reply(id=n)) for n in (1, 2)]

    assert PROTOBUF.join(replies) == b"".join(replies)


def test_an_empty_frame_is_a_pong():
    assert PROTOBUF.decode(b"\x00") == [Command()]


def test_unknown_fields_are_ignored():
    # Field 100, a string.
    unknown = b"\xa2\x06\x03abc"
    data = theirs.Command(id=1, ping=theirs.PingRequest()).SerializeToString() + unknown

    [command] = PROTOBUF.decode(length(len(data)) + data)

    assert command.id == 1
    assert command.ping is not None


def test_known_fields_that_are_not_served_are_ignored():
    subscribe = theirs.SubscribeRequest(channel="a", delta="fossil")

    [command] = PROTOBUF.decode(delimited(theirs.Command(id=1, subscribe=subscribe)))

    assert command.subscribe.channel == "a"
    assert command.subscribe.tf is None


def test_a_filter_of_a_client_is_read_with_its_nodes():
    leaf = theirs.FilterNode(key="k", cmp="in", vals=["a", "b"])
    node = theirs.FilterNode(op="not", nodes=[leaf])
    subscribe = theirs.SubscribeRequest(channel="a", tf=node)

    [command] = PROTOBUF.decode(delimited(theirs.Command(id=1, subscribe=subscribe)))

    read = FilterNode(op="not", nodes=[FilterNode(key="k", cmp="in", vals=["a", "b"])])
    assert command.subscribe.tf == read


@pytest.mark.parametrize("text", ['{"a":\n 1}', '{"a":\r1}', '{\r\n"a": 1\n}'])
def test_json_of_a_client_is_put_on_one_line(text):
    rpc = theirs.RPCRequest(method="a", data=text.encode())

    [command] = PROTOBUF.decode(delimited(theirs.Command(id=1, rpc=rpc)))

    assert bytes(command.rpc.data) == b'{"a":1}'


def test_the_data_of_a_publication_may_be_bytes_and_is_left_as_it_is():
    data = bytes(range(256)) + rb"\ud83d"
    publish = theirs.PublishRequest(channel="a", data=data)

    [command] = PROTOBUF.decode(delimited(theirs.Command(id=1, publish=publish)))

    assert bytes(command.publish.data) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x05",
        b"\x80",
        b"\xff\xff\xff\xff\xff\x01",
        b"\x02\x08",
        b"\x01\xff",
        b'{"id":1,"connect":{}}',
        # An id, and then no request.
        b"\x03\x08\x01\x07",
    ],
)
def test_undecodable_bytes_are_malformed(data):
    with pytest.raises(MalformedFrame):
        PROTOBUF.decode(data)


def test_a_malformed_request_keeps_its_id():
    # A name that is no UTF-8.
    [command] = PROTOBUF.decode(b"\x07\x08\x05\x2a\x03\x0a\x01\xff")

    assert (command.id, command.name) == (5, "subscribe")


def test_lone_surrogates_of_a_client_become_replacement_characters():
    rpc = theirs.RPCRequest(method="a", data=rb'"half \ud83d emoji"')

    [command] = PROTOBUF.decode(delimited(theirs.Command(id=1, rpc=rpc)))

    assert bytes(command.rpc.data) == rb'"half \ufffd emoji"'


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(data):
    try:
        commands = PROTOBUF.decode(data)
    except MalformedFrame:
        return
    assert all(isinstance(each, Command) for each in commands)


@given(st.data())
def test_no_change_to_good_bytes_breaks_the_decoder(data):
    good = bytearray(
        delimited(
            theirs.Command(id=1, connect=theirs.ConnectRequest(token="t")),
            fill(
                theirs.Command(),
                {
                    "id": 2,
                    "history": {"channel": "a", "since": {"epoch": "e", "offset": 1}},
                },
            ),
        )
    )
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] = data.draw(st.integers(0, 255))

    try:
        PROTOBUF.decode(bytes(good))
    except MalformedFrame:
        return


@given(st.binary(max_size=100))
def test_no_bytes_break_an_emulation_request(data):
    try:
        session, node, commands = PROTOBUF.decode_emulation(data)
    except MalformedFrame:
        return
    assert isinstance(session, str)
    assert isinstance(node, str)
    assert isinstance(commands, bytes)


def test_the_compiled_messages_are_those_of_the_specification():
    source = (SPEC / "client.proto").read_bytes()

    assert hashlib.sha256(source).hexdigest() == client_messages.SOURCE_SHA256, (
        "spec/client.proto has changed; run scripts/make_client_messages.py"
    )


# On a WebSocket and over HTTP


@pytest.fixture
def app(settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }

    class Room(Topic):
        pattern = "room:<slug:name>"
        permission_classes = [AllowAny]

        async def can_publish(self, user):
            return True

    yield TopicsEndpoint.as_asgi()
    declared.remove(Room)


async def test_a_websocket_with_the_subprotocol_speaks_protobuf(app):
    socket = WebsocketCommunicator(
        app, "/connection/websocket", subprotocols=["centrifuge-protobuf"]
    )
    accepted, subprotocol = await socket.connect()

    await socket.send_to(
        bytes_data=delimited(theirs.Command(id=1, connect=theirs.ConnectRequest()))
    )
    reply = told(await socket.receive_from())
    await socket.disconnect()

    assert accepted
    assert subprotocol == "centrifuge-protobuf"
    assert reply.connect.ping == 25


async def test_a_push_without_a_protobuf_field_is_not_sent(app):
    class People(Topic):
        pattern = "people"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

    socket = WebsocketCommunicator(
        app, "/connection/websocket", subprotocols=["centrifuge-protobuf"]
    )
    asked = theirs.SubscribeRequest(channel="people", join_leave=True)
    try:
        await socket.connect()
        for command in (
            theirs.Command(id=1, connect=theirs.ConnectRequest()),
            theirs.Command(id=2, subscribe=asked),
        ):
            await socket.send_to(bytes_data=delimited(command))
        replies = []
        while 2 not in [each.id for each in replies]:
            replies += all_told(await socket.receive_from())

        announce = current().trackers.get("default")._announcer._announce
        # Events keep their order, so one for the change would come between these two.
        await announce("people", "join", Member("first", "7"))
        await announce("people", "changed", None)
        await announce("people", "join", Member("second", "8"))
        while replies[-1].push.join.info.client != "second":
            replies += all_told(await socket.receive_from())
        told_of = [each.push.join.info.client for each in replies]

        assert told_of[told_of.index("first") :] == ["first", "second"]
    finally:
        await socket.disconnect()
        declared.remove(People)


async def test_json_on_a_protobuf_socket_ends_the_connection(app):
    socket = WebsocketCommunicator(
        app, "/connection/websocket", subprotocols=["centrifuge-protobuf"]
    )
    await socket.connect()

    await socket.send_to('{"id":1,"connect":{}}')
    closed = await socket.receive_output()
    await socket.wait()

    assert closed["code"] == 3501


@pytest.fixture
def without_protobuf(monkeypatch):
    """Make the extra look as if it were not installed."""
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    monkeypatch.delitem(sys.modules, "tiderace.protocol.protobuf")


async def test_a_client_gets_a_close_code_without_the_extra(
    app, without_protobuf, caplog
):
    socket = WebsocketCommunicator(
        app, "/connection/websocket", subprotocols=["centrifuge-protobuf"]
    )
    accepted, _ = await socket.connect()
    closed = await socket.receive_output()
    await socket.wait()

    assert accepted
    assert (closed["code"], closed["reason"]) == (3506, "inappropriate protocol")
    assert 'pip install "tiderace[protobuf]"' in caplog.text


PROTOBUF_BODY = (b"content-type", b"application/octet-stream")


@pytest.mark.parametrize("path", ["http_stream", "emulation"])
async def test_a_protobuf_body_is_refused_without_the_extra(
    app, path, without_protobuf
):
    answer = await request(
        app,
        "POST",
        f"/connection/{path}",
        body=b"\x00",
        headers=(ORIGIN, PROTOBUF_BODY),
    )

    assert answer.status == 415


async def test_a_stream_and_its_posts_may_be_protobuf(app):
    asked = {"headers": (ORIGIN, PROTOBUF_BODY)}
    first = delimited(theirs.Command(id=1, connect=theirs.ConnectRequest()))
    stream = begin(app, "POST", "/connection/http_stream", body=first, **asked)
    connected = told((await stream.until("http.response.body"))["body"]).connect

    post = theirs.EmulationRequest(
        session=connected.session,
        node=connected.node,
        data=delimited(theirs.Command(id=2, ping=theirs.PingRequest())),
    )
    answer = await request(
        app,
        "POST",
        "/connection/emulation",
        body=post.SerializeToString(),
        **asked,
    )
    reply = told((await stream.until("http.response.body", 2))["body"])
    stream.say("http.disconnect")
    await stream.end()

    assert answer.status == 204
    assert reply.id == 2
    assert reply.HasField("ping")
    head = dict(stream.sent[0]["headers"])
    assert head[b"content-type"] == b"application/octet-stream"


async def test_a_protobuf_post_that_is_no_request_is_refused(app):
    answer = await request(
        app,
        "POST",
        "/connection/emulation",
        body=b"\xff",
        headers=(ORIGIN, PROTOBUF_BODY),
    )

    assert answer.status == 400


# With a client of others on a real server


@pytest.fixture(scope="module")
def site():
    with AsgiProcess("uvicorn", "sites.transports_site:application") as server:
        yield server


class Heard(SubscriptionEventHandler):
    def __init__(self) -> None:
        self.data: asyncio.Queue[Any] = asyncio.Queue()
        self.others: list[Any] = []

    async def on_publication(self, ctx) -> None:
        self.data.put_nowait(ctx.pub.data)

    async def on_error(self, ctx) -> None:
        self.others.append(ctx)

    async def on_leave(self, ctx) -> None:
        self.others.append(ctx)

    async def on_unsubscribed(self, ctx) -> None:
        self.others.append(ctx)


@pytest.mark.servers
@pytest.mark.parametrize("binary", [True, False])
async def test_the_python_sdk_speaks_protobuf(site, binary):
    client = centrifuge.Client(
        f"{site.ws}/connection/websocket", use_protobuf=binary, timeout=10
    )
    heard = Heard()
    room = client.new_subscription(f"room:sdk-{binary}", events=heard)
    data = {"text": "größer", "n": [1, 2.5, None]}
    said: Any = json.dumps(data).encode() if binary else data
    try:
        await client.connect()
        await room.subscribe()
        await room.ready(timeout=10)
        await room.publish(said)
        published = await within(heard.data.get())
        history = await room.history(limit=10)
        presence = await room.presence()
        sum_ = await client.rpc(
            "add", b'{"a": 1, "b": 2}' if binary else {"a": 1, "b": 2}
        )
    finally:
        socket = client._conn
        await client.disconnect()
        # It goes on in the background, and the test must not end before.
        await within(socket.wait_closed())

    assert (json.loads(published) if binary else published) == data
    assert [each.offset for each in history.publications] == [1]
    assert len(presence.clients) == 1
    assert int(sum_.data) == 3


@pytest.mark.servers
async def test_the_python_sdk_ignores_an_unknown_push(site):
    client = centrifuge.Client(f"{site.ws}/connection/websocket", timeout=10)
    heard = Heard()
    room = client.new_subscription("room:unknown", events=heard, join_leave=True)
    try:
        await client.connect()
        await room.subscribe()
        await room.ready(timeout=10)
        await client.rpc("much_changes", {"topic": "room:unknown"})
        await room.publish("afterwards")
        published = await within(heard.data.get())
        state = room.state
    finally:
        socket = client._conn
        others = list(heard.others)
        await client.disconnect()
        await within(socket.wait_closed())

    assert published == "afterwards"
    assert state == centrifuge.SubscriptionState.SUBSCRIBED
    assert others == []
