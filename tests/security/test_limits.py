"""Tests of limits per address, user and socket."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser, User
from hypothesis import given
from hypothesis import strategies as st

from support.clients.asgi_client import Client
from support.clock import FakeClock
from support.waiting import settle, until
from tiderace import conf, metrics
from tiderace.security.addresses import client_ip, limit_key, parse
from tiderace.security.limits import ConnectionLimiter, MessageRateLimiter

DENIAL = {"websocket.http.response": {}}
PROXY = "10.0.0.1"
NETWORKS = ["10.0.0.0/8", "fd00::/8"]


def scope_of(peer=PROXY, *forwarded):
    return {
        "type": "websocket",
        "client": None if peer is None else (peer, 5000),
        "headers": [(b"x-forwarded-for", line.encode("latin1")) for line in forwarded],
    }


def seen(proxies, peer, *forwarded):
    address = client_ip(scope_of(peer, *forwarded), proxies)
    return None if address is None else str(address)


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:443", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", "None"),
        ("unknown", "None"),
        ("192.0.2.256", "None"),
        ("_hidden", "None"),
        ("[", "None"),
        ("1.2.3.4, 5.6.7.8", "None"),
        ("\0", "None"),
    ],
)
def test_an_address_is_parsed_in_every_form_of_the_header(text, address):
    assert str(parse(text)) == address


def test_without_trusted_proxies_the_header_is_ignored():
    assert seen(0, "192.0.2.1", "198.51.100.7") == "192.0.2.1"
    assert seen([], "192.0.2.1", "198.51.100.7") == "192.0.2.1"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
        (["10.9.9.9, 192.0.2.1"], "192.0.2.1"),
        (["198.51.100.7", "192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (["192.0.2.1, fd00::5, 10.0.0.2"], "192.0.2.1"),
        (["garbage, 10.0.0.2"], "10.0.0.2"),
        (["192.0.2.1, garbage"], PROXY),
        ([""], PROXY),
        ([], PROXY),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    ],
)
def test_with_networks_the_last_address_outside_of_them_counts(forwarded, client):
    assert seen(NETWORKS, PROXY, *forwarded) == client


def test_a_client_that_bypasses_the_proxies_has_its_own_address():
    assert seen(NETWORKS, "192.0.2.9", "198.51.100.7") == "192.0.2.9"


@pytest.mark.parametrize(
    ("number", "forwarded", "client"),
    [
        (1, ["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
        (2, ["198.51.100.7, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (2, ["192.0.2.1"], PROXY),
        (1, ["garbage"], PROXY),
        (1, [], PROXY),
    ],
)
def test_with_a_number_that_many_proxies_are_trusted(number, forwarded, client):
    assert seen(number, PROXY, *forwarded) == client


def test_behind_a_unix_socket_the_header_is_trusted_if_there_are_proxies():
    assert seen(NETWORKS, None, "198.51.100.7, 192.0.2.1") == "192.0.2.1"
    assert seen(1, None, "192.0.2.1") == "192.0.2.1"
    assert seen(0, None, "192.0.2.1") is None


@given(st.text(st.characters(max_codepoint=255, exclude_characters=","), max_size=40))
def test_the_header_of_a_client_never_changes_its_address(lie):
    assert seen(1, PROXY, f"{lie}, 192.0.2.1") == "192.0.2.1"
    assert seen(NETWORKS, PROXY, f"{lie}, 192.0.2.1") == "192.0.2.1"


def test_an_ipv6_client_is_identified_by_its_network():
    one, other, else_ = (
        limit_key(parse(text))
        for text in ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"]
    )

    assert one == other == "2001:db8:0:1::/64"
    assert one != else_
    assert limit_key(parse("192.0.2.1")) == "192.0.2.1"


def test_the_setting_defines_the_proxies(settings):
    settings.TIDERACE = {"TRUSTED_PROXIES": NETWORKS}

    assert str(client_ip(scope_of(PROXY, "192.0.2.1"))) == "192.0.2.1"


@pytest.mark.parametrize("proxies", [-1, ["10.0.0.0/99"], ["proxy.example.com"], True])
def test_invalid_proxies_are_refused_at_startup(proxies):
    with pytest.raises(conf.UnknownSetting):
        conf.validate({"TRUSTED_PROXIES": proxies})


# Connections


class Site:
    """Accepts, and says what it is told."""

    def __init__(self):
        self.served = 0

    async def __call__(self, scope, receive, send):
        self.served += 1
        while (event := await receive())["type"] != "websocket.disconnect":
            if event["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
            else:
                await send({"type": "websocket.send", "text": event["text"]})


async def test_connections_per_address_are_limited():
    app = ConnectionLimiter(Site(), per_ip=2)
    open_ones = [await Client(app).open() for _ in range(2)]
    before = metrics.CONNECTIONS_LIMITED.value

    third = Client(app, extensions=DENIAL)
    third.say("websocket.connect")
    await third.end()
    stranger = await Client(app, client=("10.0.0.2", 1)).open()

    assert third.sent[0]["status"] == 429
    assert (b"retry-after", b"10") in third.sent[0]["headers"]
    assert metrics.CONNECTIONS_LIMITED.value == before + 1
    for client in [*open_ones, stranger]:
        await client.leave()


async def test_an_ended_connection_is_no_longer_counted():
    app = ConnectionLimiter(Site(), per_ip=1)
    first = await Client(app).open()
    assert app.open("ip:10.0.0.1") == 1

    await first.leave()

    second = await Client(app).open()
    await second.leave()
    assert app.open("ip:10.0.0.1") == 0
    assert not app._open


async def test_a_failed_or_cancelled_connection_is_no_longer_counted():
    async def fail(scope, receive, send):
        raise RuntimeError("broken")

    async def hang(scope, receive, send):
        await receive()

    failing = ConnectionLimiter(fail, per_ip=1)
    hanging = ConnectionLimiter(hang, per_ip=1)
    await Client(failing).error()
    client = Client(hanging)
    await settle()
    await client.cancel()

    assert not failing._open
    assert not hanging._open


async def test_without_denial_responses_the_socket_is_accepted_and_closed_with_a_reason():
    app = ConnectionLimiter(Site(), per_ip=1)
    first = await Client(app).open()

    second = Client(app)
    second.say("websocket.connect")
    await second.end()

    assert second.kinds == ["websocket.accept", "websocket.close"]
    assert second.sent[1]["code"] == 4429
    await first.leave()


async def test_a_disconnected_client_is_not_refused():
    app = ConnectionLimiter(Site(), per_ip=1)
    first = await Client(app).open()

    second = Client(app)
    await second.leave()

    assert second.sent == []
    await first.leave()


async def test_connections_per_user_are_limited_except_for_anonymous_users():
    app = ConnectionLimiter(Site(), per_user=1)
    ada, grace = User(pk=1), User(pk=2)
    open_ones = [
        await Client(app, user=user).open()
        for user in (ada, grace, AnonymousUser(), AnonymousUser(), None)
    ]

    again = Client(app, user=ada, extensions=DENIAL)
    again.say("websocket.connect")
    await again.end()

    assert again.sent[0]["status"] == 429
    for client in open_ones:
        await client.leave()


async def test_a_limit_per_user_needs_a_user():
    error = await Client(ConnectionLimiter(Site(), per_user=1)).error()

    assert "put it inside AuthMiddlewareStack" in str(error)


async def test_a_connection_refused_by_one_limit_is_not_counted_by_the_other():
    app = ConnectionLimiter(Site(), per_ip=5, per_user=1)
    first = await Client(app, user=User(pk=1)).open()
    second = Client(app, user=User(pk=1), extensions=DENIAL)
    second.say("websocket.connect")
    await second.end()

    assert app.open("ip:10.0.0.1") == 1
    await first.leave()


async def test_a_spoofed_header_does_not_raise_the_limit():
    app = ConnectionLimiter(Site(), per_ip=1, proxies=NETWORKS)
    headers = [(b"x-forwarded-for", b"198.51.100.1, 192.0.2.1")]
    lies = [(b"x-forwarded-for", b"198.51.100.2, 192.0.2.1")]
    first = await Client(app, headers=headers).open()

    second = Client(app, headers=lies, extensions=DENIAL)
    second.say("websocket.connect")
    await second.end()

    assert second.sent[0]["status"] == 429
    await first.leave()


@pytest.mark.parametrize(
    ("peer", "forwarded", "warns"),
    [
        (PROXY, ["192.0.2.1"], True),
        (None, [], True),
        (PROXY, [], False),
        ("1.1.1.1", ["192.0.2.7"], False),  # a client's own header
        ("10.0.0.9", ["10.0.0.9"], False),  # the server has read the header
    ],
)
async def test_an_unnamed_proxy_is_logged_once(caplog, peer, forwarded, warns):
    async def inner(scope, receive, send):
        pass

    limiter = ConnectionLimiter(inner, per_ip=5)
    for _ in range(2):
        await limiter(scope_of(peer, *forwarded), None, None)

    assert caplog.text.count("cannot tell clients apart") == (1 if warns else 0)


async def test_a_named_proxy_is_not_logged(caplog):
    async def inner(scope, receive, send):
        pass

    limiter = ConnectionLimiter(inner, per_ip=5, proxies=1)
    await limiter(scope_of(PROXY, "192.0.2.1"), None, None)

    assert caplog.text == ""


async def test_a_connection_without_an_address_is_not_limited():
    app = ConnectionLimiter(Site(), per_ip=1)
    clients = [await Client(app, client=None).open() for _ in range(3)]

    for client in clients:
        await client.leave()
    assert app.inner.served == 3


async def test_only_the_given_types_of_connection_are_limited():
    async def hold(scope, receive, send):
        await receive()

    app = ConnectionLimiter(hold, per_ip=1, kinds=("websocket",))
    streams = ConnectionLimiter(hold, per_ip=1, kinds=("http",))
    free = [Client(app, type="http") for _ in range(2)]
    held = Client(streams, type="http")
    await settle()
    refused = Client(streams, type="http")
    await refused.end()

    assert refused.sent[0]["status"] == 429
    for client in [*free, held]:
        await client.cancel()


async def test_websockets_and_http_streams_share_one_limit():
    async def hold(scope, receive, send):
        await receive()

    app = ConnectionLimiter(hold, per_ip=2)
    held = [Client(app), Client(app, type="http")]
    await settle()
    refused = Client(app, type="http")
    await refused.end()

    assert refused.sent[0]["status"] == 429
    for client in held:
        await client.cancel()


async def test_refusals_are_logged_once_a_minute_with_a_count(caplog, monkeypatch):
    from tiderace.security import limits

    now = [1000.0]
    monkeypatch.setattr(
        limits, "time", type("Time", (), {"monotonic": staticmethod(lambda: now[0])})
    )
    app = ConnectionLimiter(Site(), per_ip=1)
    first = await Client(app).open()

    async def refuse():
        client = Client(app, extensions=DENIAL, query_string=b"token=hush")
        client.say("websocket.connect")
        await client.end()

    for _ in range(5):
        await refuse()
    now[0] += 61
    await refuse()

    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert said[0].endswith("the address 10.0.0.1 has 1 open already")
    assert said[1].endswith("(and 4 others before)")
    assert "hush" not in caplog.text
    await first.leave()


@pytest.mark.parametrize("limit", [{"per_ip": 0}, {"per_user": -1}])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ValueError, match="lets nobody in"):
        ConnectionLimiter(Site(), **limit)


# Messages


@pytest.fixture
def clock():
    return FakeClock()


def limited(clock, rate="2/s", **options):
    return MessageRateLimiter(Site(), rate, clock=clock, sleep=clock.sleep, **options)


async def say(client, *texts):
    for text in texts:
        client.text(text)
    await settle()


async def test_messages_within_the_rate_are_delivered(clock):
    client = await Client(limited(clock)).open()
    await say(client, "1", "2")
    clock.now += 1
    await say(client, "3", "4")

    assert client.texts == ["1", "2", "3", "4"]
    await client.leave()


async def test_a_flood_closes_the_socket(clock, caplog):
    before = metrics.MESSAGES_LIMITED.value
    client = await Client(limited(clock)).open()
    await say(client, "1", "2", "3", "4", "5")

    closed = client.sent[-1]
    assert client.texts == ["1", "2"]
    assert (closed["code"], closed["reason"]) == (4429, "too many messages")
    assert client.kinds.count("websocket.close") == 1
    assert metrics.MESSAGES_LIMITED.value == before + 1
    assert "sends more than 2 in 1 s" in caplog.text
    await client.leave(4429)


async def test_a_flood_can_be_delayed(clock):
    client = await Client(limited(clock, policy="wait")).open()
    await say(client, *"12345")
    await until(lambda: len(client.texts) == 5)

    assert client.texts == list("12345")
    assert clock.slept == [0.5, 0.5, 0.5]
    await client.leave()


async def test_a_flood_can_be_dropped(clock):
    before = metrics.MESSAGES_LIMITED.value
    client = await Client(limited(clock, policy="drop")).open()
    await say(client, *"12345")
    clock.now += 1
    await say(client, "6")

    assert client.texts == ["1", "2", "6"]
    assert metrics.MESSAGES_LIMITED.value == before + 3
    await client.leave()


async def test_each_socket_has_its_own_rate(clock):
    app = limited(clock)
    clients = [await Client(app).open() for _ in range(2)]
    for client in clients:
        await say(client, "1", "2")

    assert [client.texts for client in clients] == [["1", "2"]] * 2
    for client in clients:
        await client.leave()


@pytest.mark.parametrize("big", [{"text": "x" * 11}, {"bytes": b"x" * 11}], ids=str)
async def test_a_message_that_is_too_big_closes_the_socket(clock, big):
    client = await Client(limited(clock, max_size=10)).open()
    await say(client, "x" * 10)
    client.say("websocket.receive", **big)
    await settle()

    assert client.texts == ["x" * 10]
    assert client.sent[-1]["code"] == 1009
    await client.leave(1009)


@pytest.mark.parametrize(
    ("wish", "told"), [({}, 40), ({"max_size": 7}, 7), ({"max_size": 99}, 40)]
)
async def test_the_server_gets_the_maximum_size_for_each_socket(clock, wish, told):
    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept", **wish})

    sent = []

    async def connect():
        return {"type": "websocket.connect"}

    async def send(event):
        sent.append(event)

    for extensions in ({"tiderace.max_size": {}}, {}, None):
        scope = scope_of(PROXY) | {"type": "websocket", "extensions": extensions}
        limiter = MessageRateLimiter(application, "9/s", max_size=10, clock=clock)
        await limiter(scope, connect, send)

    plain = {"type": "websocket.accept", **wish}
    assert sent == [plain | {"max_size": told}, plain, plain]


async def test_without_a_limit_the_server_gets_no_maximum_size(clock):
    async def application(scope, receive, send):
        await send({"type": "websocket.accept"})

    sent = []

    async def send(event):
        sent.append(event)

    scope = {"type": "websocket", "extensions": {"tiderace.max_size": {}}}
    await MessageRateLimiter(application, "9/s", clock=clock)(scope, None, send)

    assert sent == [{"type": "websocket.accept"}]


async def test_nothing_is_sent_after_the_close(clock):
    async def talkative(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        await send({"type": "websocket.send", "text": "late"})

    client = await Client(MessageRateLimiter(talkative, "1/s", clock=clock)).open()
    await say(client, "1", "2")
    await client.leave(4429)

    assert client.kinds == ["websocket.accept", "websocket.close"]


async def test_other_types_of_connection_are_passed_through(clock):
    seen_kinds = []

    async def inner(scope, receive, send):
        seen_kinds.append(scope["type"])

    await MessageRateLimiter(inner, "1/s")({"type": "http"}, None, None)

    assert seen_kinds == ["http"]


def test_invalid_rates_and_policies_are_refused():
    with pytest.raises(ValueError, match="is no rate"):
        MessageRateLimiter(Site(), "often")
    with pytest.raises(ValueError, match="is no policy"):
        MessageRateLimiter(Site(), "1/s", policy="shrug")
