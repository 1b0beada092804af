"""The pure part of the protocol: codecs, codes, one client's session; by the vectors of ``spec/``."""

from __future__ import annotations

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.clock import FakeClock
from support.paths import SPEC
from tiderace.history import Position, Publication, merge
from tiderace.protocol import codes
from tiderace.protocol.codec import JSON, MalformedFrame
from tiderace.protocol.codes import Close
from tiderace.protocol.messages import (
    ClientInfo,
    Command,
    ConnectRequest,
    Empty,
    HistoryResult,
    InfoPush,
    PresenceResult,
    PresenceStatsResult,
    Push,
    Reply,
    SubscribeRequest,
    TopicRequest,
)
from tiderace.protocol.session import (
    ConnectionEnded,
    PositionLost,
    Refused,
    Session,
    Subscription,
    to_pub,
)
from tiderace.ratelimit import Buckets, Rate, TokenBucket

VECTORS = SPEC / "vectors"


def vectors(name):
    return json.loads((VECTORS / name).read_text("utf-8"))


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case["name"])


# Codecs


@named([case for case in vectors("frames.json") if case["by"] == "client"])
def test_a_command_is_decoded_completely(case):
    [command] = JSON.decode(case["text"].encode())

    assert json.loads(msgspec.json.encode(command)) == json.loads(case["text"])


@pytest.mark.parametrize(
    ("reply", "fields"),
    [
        (
            Reply(history=HistoryResult()),
            '"history":{"publications":[],"epoch":"","offset":0}',
        ),
        (Reply(presence=PresenceResult()), '"presence":{"presence":{}}'),
        (
            Reply(presence_stats=PresenceStatsResult()),
            '"presence_stats":{"num_clients":0,"num_users":0}',
        ),
        (
            Reply(push=Push(join=InfoPush(ClientInfo(client="c")))),
            '"push":{"join":{"info":{"user":"","client":"c"}}}',
        ),
    ],
)
def test_zero_and_empty_fields_that_clients_read_are_sent(reply, fields):
    assert JSON.encode(reply).decode() == f"{{{fields}}}"


@named([case for case in vectors("frames.json") if case["by"] == "server"])
def test_a_reply_is_encoded_as_in_the_vector(case):
    reply = msgspec.json.decode(case["text"], type=Reply)

    assert JSON.encode(reply).decode() == case["text"]


def test_one_message_may_hold_many_commands():
    commands = JSON.decode(b'{"id":1,"ping":{}}\n\n{"id":2,"ping":{}}\n')

    assert [command.id for command in commands] == [1, 2]


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_commands_or_a_malformed_frame(message):
    try:
        commands = JSON.decode(message)
    except MalformedFrame:
        return
    assert commands


# Python 3.14 limits the depth by the size of the stack, which is enough for 30,000.
DEEP = "[" * 300_000 + "]" * 300_000


@pytest.mark.parametrize(
    "text",
    [
        *(
            f'{{"id":7,"subscribe":{{"channel":"a","offset":{offset}}}}}'
            for offset in ("-1", 2**53, "1" + "0" * 30, "1.5", "null")
        ),
        f'{{"id":7,"publish":{{"channel":"a","data":{DEEP}}}}}',
        f'{{"publish":{{"channel":"}}]","data":{DEEP}}},"id":7}}',
        '{"id":7,"publish":{"channel":5}}',
        '{"id":7,"publish":"\\ud83d"}',
        '{"id":7,"rpc":{"data":undefined}}',
    ],
)
def test_a_malformed_request_keeps_its_id_and_costs_this_command_alone(text):
    malformed, good = JSON.decode(text.encode() + b'\n{"id":8,"ping":{}}')

    assert (malformed.id, good.id) == (7, 8)
    assert connected().check(good)[0] == "ping"
    with pytest.raises(Refused) as refused:
        connected().check(malformed)
    assert refused.value.failure.code == codes.BAD_REQUEST.code


def test_a_malformed_message_without_an_id_costs_no_connection():
    [malformed] = JSON.decode(f'{{"send":{{"data":{DEEP}}}}}'.encode())

    with pytest.raises(Refused):
        connected().check(malformed)


@pytest.mark.parametrize("text", ["[" * 2000, '{"a":' * 2000, '{"id":7,"ping":' * 2000])
def test_deep_data_without_an_end_is_a_malformed_frame(text):
    with pytest.raises(MalformedFrame):
        JSON.decode(text.encode())


def test_a_malformed_connect_costs_no_connection():
    made = session()
    [malformed, subscribe] = JSON.decode(
        b'{"id":1,"connect":{"token":5}}\n{"id":2,"subscribe":{"channel":"a"}}'
    )

    for command, failure in ((malformed, 107), (subscribe, 103)):
        with pytest.raises(Refused) as refused:
            made.check(command)
        assert refused.value.failure.code == failure
    assert made.check(Command(id=3, connect=ConnectRequest()))[0] == "connect"


def test_malformed_commands_count_for_the_rate():
    made = connected(commands=Rate(1, 1000.0))
    [malformed] = JSON.decode(b'{"id":7,"ping":5}')
    with pytest.raises(Refused):
        made.check(malformed)

    with pytest.raises(Refused) as refused:
        made.check(malformed)
    assert refused.value.failure is codes.TOO_MANY_REQUESTS


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "null",
        DEEP,
        '{"id":"x","ping":{}}',
        '{"id":true,"ping":5}',
        '{"id":-1,"ping":5}',
        '{"id":1,"unknown":\\}',
        '{"id":7,"publish":{"data":"' + '\\"' * 30_000,
    ],
)
def test_text_without_a_command_is_a_malformed_frame(text):
    with pytest.raises(MalformedFrame):
        JSON.decode(text.encode())


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (r'"half \ud83d emoji"', "half \ufffd emoji"),
        (r'"\ude00\ud83d"', "\ufffd\ufffd"),
        (r'"\uD83D\uDE00 \uDBFF"', "\U0001f600 \ufffd"),
        (r'"\\ud83d \ud83d"', r"\ud83d" + " \ufffd"),
    ],
)
def test_lone_surrogates_of_a_command_become_replacement_characters(sent, read):
    text = f'{{"id":1,"publish":{{"channel":"a","data":{sent}}}}}'

    [command] = JSON.decode(text.encode())

    assert json.loads(bytes(command.publish.data)) == read


# Codes


@pytest.mark.parametrize("case", vectors("codes.json")["close"])
def test_the_close_code_decides_whether_clients_reconnect(case):
    code = case["code"]
    if code >= 3000:
        assert Close(code, "").reconnect is case["reconnect"]


# Recovery


def position(pair):
    return None if pair is None else Position(*pair)


def publication(epoch, offset, before=None):
    made = Publication(Position(epoch, offset), str(offset))
    if before is not None:
        made.before = before
    return made


@named(vectors("recovery.json"))
def test_recovery_is_decided_as_in_the_vector(case):
    top = position(case["top"])
    merged = merge(
        position(case["since"]),
        top,
        [
            publication(top.epoch, *(place if isinstance(place, list) else [place]))
            for place in case["kept"]
        ],
        [publication(*pair) for pair in case["held"]],
    )
    if case.get("again"):
        assert merged is None
        return
    assert merged is not None
    assert merged.recovered is case["recovered"]
    assert [each.position.offset for each in merged.missed] == case["missed"]
    assert [each.position.offset for each in merged.later] == case["later"]


# A subscription


def subscribed():
    subscription = Subscription("room:a")
    subscription.build_reply(SubscribeRequest(), Position("e", 5))
    subscription.commit()
    return subscription


def test_the_next_publication_advances_the_position():
    assert subscribed().advance(publication("e", 6)) is True


def test_a_repeated_publication_is_dropped():
    subscription = subscribed()

    assert subscription.advance(publication("e", 5)) is False
    assert subscription.advance(publication("e", 6)) is True
    assert subscription.advance(publication("e", 6)) is False


@pytest.mark.parametrize("place", [("e", 7), ("x", 6), ("x", 1)])
def test_a_publication_that_does_not_follow_is_a_loss(place):
    with pytest.raises(PositionLost):
        subscribed().advance(publication(*place))


def test_a_publication_after_skipped_offsets_follows_the_one_before_them():
    subscription = subscribed()

    assert subscription.advance(publication("e", 900, before=5)) is True
    assert subscription.advance(publication("e", 901)) is True


def test_every_publication_is_passed_on_without_a_history():
    subscription = Subscription("feed")
    subscription.commit()

    assert subscription.advance(publication("e", 9)) is True
    assert subscription.advance(publication("x", 2)) is True


def test_publications_before_commit_are_buffered():
    subscription = Subscription("room:a")
    assert subscription.advance(publication("e", 6)) is False
    result = subscription.build_reply(SubscribeRequest(), Position("e", 5))
    assert subscription.advance(publication("e", 7)) is False

    assert result is not None
    assert result.offset == 5
    buffered = subscription.commit()
    assert [each.position.offset for each in buffered] == [6, 7]
    assert all(subscription.advance(each) for each in buffered)
    assert subscription.advance(publication("e", 8)) is True


def test_a_gap_in_the_buffer_requires_another_reading():
    subscription = Subscription("room:a")
    subscription.advance(publication("e", 8))
    request = SubscribeRequest()

    assert subscription.build_reply(request, Position("e", 5)) is None
    assert not subscription.active
    assert subscription.build_reply(request, Position("e", 8)) is not None


def test_a_client_with_the_flag_is_refused_and_not_subscribed():
    subscription = Subscription("room:a")
    asked = SubscribeRequest(recover=True, epoch="other", flag=2)
    with pytest.raises(Refused) as refused:
        subscription.build_reply(asked, Position("e", 5))

    assert refused.value.failure is codes.UNRECOVERABLE
    assert not subscription.active


@given(st.integers(0, 8), st.integers(0, 8), st.lists(st.integers(1, 8), max_size=6))
def test_each_offset_comes_once_and_in_order(seen, top, live):
    """Or it is told of a loss: never a hole, never one twice."""
    subscription = Subscription("room:a")
    kept = [publication("e", offset) for offset in range(seen + 1, top + 1)]
    asked = SubscribeRequest(recover=True, epoch="e", offset=seen)
    result = subscription.build_reply(asked, Position("e", top), kept)
    assert result is not None
    subscription.commit()
    heard = [pub.offset for pub in result.publications or ()]
    heard_from = seen if result.recovered else top
    with suppress(PositionLost):
        heard.extend(
            offset for offset in live if subscription.advance(publication("e", offset))
        )

    assert heard == list(range(heard_from + 1, heard_from + 1 + len(heard)))


# A session


def session(clock=None, **limits):
    limits = {"frame_size": 65_536, "commands": Rate(200, 1.0), **limits}
    return Session(JSON, **limits, clock=clock or FakeClock(0.0))


def connected(**limits):
    made = session(**limits)
    made.connected = True
    return made


def test_pongs_are_no_commands():
    assert session().receive(b"{}") == []


def test_pongs_without_a_ping_are_limited_as_commands():
    made = connected(commands=Rate(1, 1000.0))

    made.receive(b"\n".join([b"{}"] * 101))
    with pytest.raises(ConnectionEnded) as ended:
        made.receive(b"{}")

    assert ended.value.close is codes.CLOSE_TOO_MANY_REQUESTS


def test_the_pong_to_a_ping_takes_no_command_from_the_rate():
    made = connected(commands=Rate(1, 1000.0))

    for _ in range(200):
        made.next_ping()
        assert made.receive(b"{}") == []


def test_a_pong_is_due_from_a_ping_until_it_is_read():
    made = connected()

    assert made.next_ping() == b"{}"
    assert made.pong_due
    made.receive(b"{}")
    assert not made.pong_due


def test_a_message_longer_than_the_limit_ends_the_connection():
    frame = b'{"id":1,"ping":{}}'
    made = connected(frame_size=len(frame))
    assert made.receive(frame)
    with pytest.raises(ConnectionEnded) as ended:
        made.receive(frame + b" ")

    assert ended.value.close.code == 1009


@pytest.mark.parametrize(
    ("is_connected", "command"),
    [
        (False, Command(id=1, ping=Empty())),
        (True, Command(id=1)),
        (True, Command(ping=Empty())),
    ],
)
def test_a_command_out_of_order_ends_the_connection(is_connected, command):
    made = session()
    made.connected = is_connected
    with pytest.raises(ConnectionEnded) as ended:
        made.check(command)

    assert ended.value.close is codes.CLOSE_BAD_REQUEST


def test_the_first_of_several_requests_in_a_command_counts():
    command = Command(id=1, unsubscribe=TopicRequest("a"), ping=Empty())

    assert connected().check(command)[0] == "unsubscribe"


def test_commands_beyond_the_rate_are_refused_until_time_has_passed():
    clock = FakeClock(0.0)
    made = session(clock, commands=Rate(2, 1.0))
    made.connected = True
    command = Command(id=1, ping=Empty())
    made.check(command)
    made.check(command)
    with pytest.raises(Refused):
        made.check(command)
    clock.now = 0.5

    assert made.check(command)[0] == "ping"


def test_a_client_that_goes_on_too_often_is_closed():
    made = connected(commands=Rate(1, 1000.0))
    command = Command(id=1, ping=Empty())
    made.check(command)
    for _ in range(100):
        with pytest.raises(Refused):
            made.check(command)
    with pytest.raises(ConnectionEnded) as ended:
        made.check(command)

    assert ended.value.close is codes.CLOSE_TOO_MANY_REQUESTS


def test_a_publication_is_pushed_with_its_offset():
    reply = Reply(push=Push("room:a", to_pub(publication("e", 1))))

    frame = JSON.encode(reply)

    assert frame == b'{"push":{"channel":"room:a","pub":{"data":1,"offset":1}}}'


# Rates


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10, 1)),
        ("100/m", Rate(100, 60)),
        ("5/10s", Rate(5, 10)),
        ("1000/hour", Rate(1000, 3600)),
        ("1/day", Rate(1, 86400)),
    ],
)
def test_a_rate_is_parsed(text, rate):
    assert Rate.parse(text) == rate


@pytest.mark.parametrize("text", ["", "10", "10/", "0/s", "-1/s", "10/x", "a/s", None])
def test_text_that_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match=r"rate|lets nobody"):
        Rate.parse(text)


@given(st.lists(st.floats(0, 2), max_size=40))
def test_a_bucket_never_gives_more_than_its_rate(pauses):
    clock = FakeClock(0.0)
    bucket = TokenBucket(Rate(5, 1.0), clock=clock)
    taken = 0
    for pause in pauses:
        clock.now += pause
        taken += bucket.take() == 0

    assert taken <= 5 + clock.now * 5 + 1e-6


def test_buckets_are_apart_by_name_and_forgotten_when_they_are_full():
    clock = FakeClock(0.0)
    buckets = Buckets(clock=clock)
    rate = Rate(1, 10.0)
    assert buckets.take_token("a", rate) == 0
    assert buckets.take_token("a", rate) == 10
    assert buckets.take_token("b", rate) == 0
    clock.now = 10.0
    assert buckets.take_token("c", rate) == 0

    assert len(buckets) == 1


def test_a_bucket_returns_how_long_to_wait():
    clock = FakeClock(0.0)
    bucket = TokenBucket(Rate(1, 2.0), clock=clock)
    assert bucket.take() == 0
    wait = bucket.take()
    assert wait == 2.0
    clock.now += wait

    assert bucket.take() == 0
