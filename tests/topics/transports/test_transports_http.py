"""Topics over HTTP streaming and server-sent events, with commands by emulation."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from urllib.parse import quote

import msgspec
import pytest
from django.urls import path as route

from support.clients.asgi_client import Client
from support.clients.stream_client import JSON, ORIGIN, StreamClient, begin, request
from support.clients.wire_client import WireClient
from tiderace import cluster
from tiderace.cluster import Cluster
from tiderace.exceptions import LayerUnavailable
from tiderace.layers import InMemoryChannelLayer, get_channel_layer
from tiderace.protocol.messages import (
    ConnectRequest,
    RefreshRequest,
    SubRefreshRequest,
    SubscribeRequest,
)
from tiderace.routing import ProtocolTypeRouter, URLRouter
from tiderace.runtime.drain import process_drain
from tiderace.security.bearer import TicketAuthMiddleware
from tiderace.topics import (
    AllowAny,
    History,
    IsAuthenticated,
    Topic,
    TopicsEndpoint,
    adisconnect,
    apublish,
)
from tiderace.topics.declaration.topic import declared
from tiderace.topics.hub import current, new_session
from tiderace.topics.transports import emulation, http_stream

KINDS = ["http_stream", "sse"]

pytestmark = pytest.mark.usefixtures("fresh_layer")


@pytest.fixture
def app():
    """An endpoint with an open room and one for members."""
    before = list(declared)

    class Room(Topic):
        pattern = "room:<slug:name>"
        history = History(size=5, ttl=60)
        permission_classes = [AllowAny]
        publish_rate = None

        async def can_publish(self, user):
            return True

    class Members(Topic):
        pattern = "members"
        permission_classes = [IsAuthenticated]

    yield TopicsEndpoint.as_asgi()
    for topic in list(declared):
        if topic not in before:
            declared.remove(topic)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def user(pk=1):
    return SimpleNamespace(
        pk=pk, is_authenticated=True, is_active=True, is_anonymous=False
    )


def configured(settings, **values):
    settings.TIDERACE = {"TOPICS": values}


# What every transport does


async def test_the_reply_to_connect_has_session_and_node(app, kind):
    async with StreamClient(app, kind=kind) as client:
        result = client.connected["connect"]

        assert len(result["session"]) >= 24
        assert result["node"] == cluster.current().process
        assert result["pong"] is True


async def test_a_client_subscribes_and_publishes_by_posts(app, kind):
    async with StreamClient(app, kind=kind) as client:
        result = await client.subscribe("room:a")
        await client.done("publish", channel="room:a", data={"text": "hi"})

        assert result["recoverable"] is True
        assert await client.publications(1) == [{"text": "hi"}]


async def test_a_websocket_clients_publication_reaches_a_stream(app, kind):
    async with StreamClient(app, kind=kind) as client, WireClient(app) as other:
        await client.subscribe("room:a")
        await other.subscribe("room:a")

        await other.done("publish", channel="room:a", data="from a socket")

        assert await client.publications(1) == ["from a socket"]


async def test_a_returning_stream_client_gets_what_it_missed(app, kind):
    async with StreamClient(app, kind=kind) as client:
        seen = await client.subscribe("room:a")
    await apublish("room:a", 1)
    await apublish("room:a", 2)

    async with StreamClient(app, kind=kind) as client:
        result = await client.subscribe(
            "room:a", recover=True, epoch=seen["epoch"], offset=seen.get("offset", 0)
        )

    assert result["recovered"] is True
    assert [each["data"] for each in result["publications"]] == [1, 2]


async def test_a_client_that_leaves_is_forgotten(app, kind):
    async with StreamClient(app, kind=kind):
        assert len(current()) == 1

    assert len(current()) == 0


async def test_the_user_of_the_session_is_the_clients(app, kind):
    async with StreamClient(app, kind=kind, user=user()) as client:
        await client.subscribe("members")


async def test_an_end_by_the_server_is_a_push_and_the_end_of_the_response(app, kind):
    async with StreamClient(app, kind=kind, user=user(7)) as client:
        await adisconnect(7, code=3999, reason="bye")

        push = await client.push("disconnect")

        assert push == {"disconnect": {"code": 3999, "reason": "bye"}}
        await client.client.end()
        assert client.client.sent[-1]["body"] == b""


async def test_a_temporary_disconnect_makes_the_client_reconnect(app, kind):
    async with StreamClient(app, kind=kind, user=user(7)) as client:
        await adisconnect(7, code=4000, reason="later")

        assert (await client.push("disconnect"))["disconnect"]["reconnect"] is True


async def test_commands_with_a_connect_that_is_refused_are_refused(app, kind, settings):
    configured(settings, ANONYMOUS=False)
    async with StreamClient(app, kind=kind, connect=None) as client:
        await client.say(
            {"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "room:a"}}
        )
        while len(client._replies) < 2:
            await client._read()

        assert [each["error"]["code"] for each in client._replies] == [101, 103]
        assert next(iter(current())).topics == ()


async def test_malformed_first_commands_end_the_connection_for_good(app, kind):
    async with StreamClient(app, kind=kind, connect=None) as client:
        await client.write("nonsense")

        assert await client.closed() == (3501, "bad request")


async def test_malformed_later_commands_end_the_connection_for_good(app, kind):
    async with StreamClient(app, kind=kind) as client:
        await client.write("nonsense")

        assert await client.closed() == (3501, "bad request")


async def test_pings_are_sent_and_answered_by_posts(app, kind):
    async with StreamClient(app, kind=kind) as client:
        [served] = current()
        for n in (1, 2):
            served.outbox.push(served.next_ping())
            while client.pings < n:
                await client._read()
            await client.write("{}")

        await client.done("ping")


async def test_a_client_that_answers_no_ping_is_closed(app, kind, settings):
    configured(settings, PING=0.1, PONG_TIMEOUT=0.01)
    async with StreamClient(app, kind=kind) as client:
        assert await client.closed() == (3012, "no pong")


async def test_a_client_that_never_connects_is_closed(app, settings):
    configured(settings, CONNECT_TIMEOUT=0.01)
    async with StreamClient(app, connect=None) as client:
        await client.write("{}")

        assert await client.closed() == (3502, "stale")


async def test_a_drain_makes_the_client_reconnect(app, kind):
    async with StreamClient(app, kind=kind) as client:
        process_drain.begin(0.0, 5.0)
        try:
            assert await client.closed() == (3001, "shutdown")
        finally:
            process_drain.reset()


async def test_no_stream_begins_during_a_drain(app, kind):
    process_drain.begin(0.0, 0.0)
    try:
        answer = await request(app, "POST", f"/connection/{kind}", body=b"{}")
    finally:
        process_drain.reset()

    assert answer.status == 503
    assert answer.headers[b"retry-after"] == b"1"


async def test_several_commands_at_once_are_answered_in_order(app, kind):
    async with StreamClient(app, kind=kind) as client:
        await client.subscribe("room:a")
        await client.say(
            *[
                {"id": 100 + n, "publish": {"channel": "room:a", "data": n}}
                for n in range(20)
            ]
        )

        assert await client.publications(20) == list(range(20))


async def test_a_slow_client_is_closed_without_waiting(
    app, kind, settings, caplog, monkeypatch
):
    settings.TIDERACE = {"OUTBOX_LIMIT": 2000}
    monkeypatch.setattr(http_stream, "_CLOSE_TIMEOUT", 0.01)
    stalled = asyncio.Event()

    async def stalling(scope, receive, send):
        async def slow_send(event):
            if stalled.is_set():
                await asyncio.Event().wait()
            await send(event)

        await app(scope, receive, slow_send)

    async with StreamClient(stalling, kind=kind) as client:
        await client.subscribe("room:a")
        stalled.set()
        for n in range(100):
            await apublish("room:a", "x" * 100 + str(n))

        await client.client.end()

        assert "is closed with 3008" in caplog.text
        assert len(current()) == 0


# How the response looks


async def test_a_stream_is_json_lines_that_no_proxy_buffers(app):
    async with StreamClient(app) as client:
        assert client.response["status"] == 200
        assert client.response_headers[b"content-type"] == b"application/json"
        assert b"no-store" in client.response_headers[b"cache-control"]
        assert client.response_headers[b"x-accel-buffering"] == b"no"
        assert client.client.sent[1]["body"].endswith(b"}\n")


async def test_a_stream_is_ascii_for_any_data(app):
    async with StreamClient(app) as client:
        await client.subscribe("room:a")
        await apublish("room:a", "größer 🌊 \u2028")

        assert await client.publications(1) == ["größer 🌊 \u2028"]
        assert all(event["body"].isascii() for event in client.client.sent[1:])


async def test_events_begin_at_once(app):
    async with StreamClient(app, kind="sse") as client:
        headers = client.response_headers

        assert headers[b"content-type"] == b"text/event-stream"
        assert b"no-store" in headers[b"cache-control"]
        assert headers[b"x-accel-buffering"] == b"no"
        assert client.client.sent[1]["body"] == b"\r\n"


async def test_events_may_be_requested_by_post(app):
    client = begin(app, "POST", "/connection/sse", body=b'{"id": 1, "connect": {}}')
    event = await client.until("http.response.body", 2)

    assert event["body"].startswith(b'data: {"id":1,"connect":')
    client.say("http.disconnect")
    await client.end()


@pytest.mark.parametrize("brk", ["\r", "\r\n"])
async def test_a_line_break_between_tokens_does_not_break_an_event(app, kind, brk):
    async with StreamClient(app, kind=kind) as client, WireClient(app) as other:
        await client.subscribe("room:a")
        await other.subscribe("room:a")
        text = '{"id":50,"publish":{"channel":"room:a","data":{"a":\r1}}}'
        await other.socket.send_to(text)

        assert await client.publications(1) == [{"a": 1}]
        assert all(b"\r" not in event["body"] for event in client.client.sent[2:])


# What is refused


async def test_a_body_that_is_too_long_is_refused(app, settings):
    configured(settings, FRAME_SIZE=100)

    answer = await request(app, "POST", "/connection/http_stream", body=b" " * 101)

    assert answer.status == 413


async def test_an_endless_body_is_refused(app, settings):
    configured(settings, FRAME_SIZE=100)
    client = Client(
        app,
        type="http",
        method="POST",
        path="/connection/http_stream",
        headers=[ORIGIN, JSON],
    )

    for _ in range(3):
        client.say("http.request", body=b" " * 50, more_body=True)
    await client.end()

    assert client.sent[0]["status"] == 413


async def test_a_client_that_leaves_during_its_body_is_no_error(app):
    client = Client(
        app,
        type="http",
        method="POST",
        path="/connection/http_stream",
        headers=[ORIGIN, JSON],
    )

    client.say("http.request", body=b"{", more_body=True)
    client.say("http.disconnect")
    await client.end()

    assert client.sent == []


@pytest.mark.parametrize("transport", ["http_stream", "sse", "emulation"])
async def test_a_body_that_does_not_end_is_refused(app, settings, transport):
    configured(settings, CONNECT_TIMEOUT=0.01)
    client = Client(
        app,
        type="http",
        method="POST",
        path=f"/connection/{transport}",
        headers=[ORIGIN, JSON],
    )

    client.say("http.request", body=b"{", more_body=True)
    await client.end()

    assert client.sent[0]["status"] == 408


async def test_a_url_that_is_too_long_is_refused(app, settings):
    configured(settings, FRAME_SIZE=100)

    answer = await request(
        app, "GET", "/connection/sse", query="cf_connect=" + "a" * 101
    )

    assert answer.status == 414


@pytest.mark.parametrize("path", ["http_stream", "emulation", "sse"])
@pytest.mark.parametrize(
    "content_type", [b"text/plain", b"application/x-www-form-urlencoded", b""]
)
async def test_only_content_types_that_need_a_preflight_are_accepted(
    app, path, content_type
):
    answer = await request(
        app,
        "POST",
        f"/connection/{path}",
        body=b'{"id": 1, "connect": {}}',
        headers=(ORIGIN, (b"content-type", content_type)),
    )

    assert answer.status == 415


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "http_stream"), ("PUT", "sse"), ("GET", "emulation")]
)
async def test_other_methods_are_refused(app, method, path):
    answer = await request(app, method, f"/connection/{path}")

    assert answer.status == 405
    assert answer.headers[b"allow"]


@pytest.mark.parametrize(("method", "path"), [("POST", "http_stream"), ("GET", "sse")])
async def test_empty_first_commands_are_refused(app, method, path):
    assert (await request(app, method, f"/connection/{path}")).status == 400


@pytest.mark.parametrize("outside", ["router", "routes", "tickets"])
@pytest.mark.parametrize("path", ["/connection/sse", "/connection/sse/"])
async def test_the_commands_in_an_address_leave_the_scope_of_the_server(
    app, outside, path
):
    routes = URLRouter([route("connection/", app)])
    outermost = {
        "router": ProtocolTypeRouter({"http": routes}),
        "routes": routes,
        "tickets": TicketAuthMiddleware(routes),
    }[outside]
    commands = quote('{"id": 1, "connect": {"token": "hush"}}')
    client = begin(outermost, "GET", path, query=f"a=1&cf_connect={commands}")
    await client.end()

    assert b"3500" in client.sent[-2]["body"]  # the token was read
    assert client.scope["query_string"] == b"a=1"
    assert "hush" not in repr(client.scope)


@pytest.mark.parametrize(
    "kind", [ConnectRequest, RefreshRequest, SubRefreshRequest, SubscribeRequest]
)
def test_no_representation_of_a_request_shows_its_token(kind):
    request = msgspec.convert({"token": "hush", "channel": "a"}, kind)

    assert "hush" not in repr(request)


async def test_another_path_is_not_found(app):
    assert (await request(app, "GET", "/connection/nothing")).status == 404


async def test_a_url_may_hold_only_reading_commands(app):
    commands = '{"id": 1, "connect": {}}\n{"id": 2, "publish": {"channel": "room:a"}}'

    answer = await request(
        app,
        "GET",
        "/connection/sse",
        query=f"cf_connect={commands}".replace("\n", "%0A"),
    )

    assert answer.status == 400
    assert b"publish" in answer.body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b'{"session": "a", "node": "b"}',
        b'{"session": 1, "node": "b", "data": "{}"}',
        b'{"session": "a", "node": "b", "data": {}}',
        b"\xff",
        b'{"session": ' + b"[" * 9000 + b"]" * 9000 + b"}",
        b'{"more": ' + b'{"a":' * 9000 + b"}" * 9000 + b"}",
    ],
)
async def test_an_emulation_body_that_is_no_request_is_refused(app, body):
    answer = await request(app, "POST", "/connection/emulation", body=body)

    assert answer.status == 400


async def test_a_length_of_thousands_of_digits_is_too_long(app):
    length = (b"content-length", b"9" * 5000)

    answer = await request(
        app, "POST", "/connection/emulation", headers=(ORIGIN, JSON, length)
    )

    assert answer.status == 413


async def test_a_handshake_with_too_many_parameters_is_refused(app):
    client = Client(app, query_string=b"a=1&" * 1001)
    client.say("websocket.connect")
    await client.end()

    assert client.kinds == ["websocket.close"]


async def test_commands_that_are_too_long_are_refused_alone(app, settings):
    configured(settings, FRAME_SIZE=200)
    async with StreamClient(app) as client:
        assert (await client.post(" " * 201)).status == 413
        assert (await client.post(" " * 10_000)).status == 413

        await client.subscribe("room:a")


@pytest.mark.parametrize("field", ["session", "node"])
async def test_an_unknown_session_is_not_found(app, field):
    async with StreamClient(app) as client:
        result = client.connected["connect"]
        result[field] = result[field][:-1] + ("a" if result[field][-1] != "a" else "b")

        assert (await client.post("{}")).status == 404


async def test_an_unknown_session_costs_no_message_to_another_process(app, monkeypatch):
    asked = []
    monkeypatch.setattr(Cluster, "ask_one", lambda *args, **more: asked.append(args))
    async with StreamClient(app) as client:
        client.connected["connect"].update(node="other", session="a.b")

        assert (await client.post("{}")).status == 404
    assert asked == []


async def test_a_session_is_gone_with_its_stream(app):
    async with StreamClient(app) as client:
        pass

    assert (await client.post("{}")).status == 404


@pytest.mark.parametrize("other", [user(2), None])
async def test_another_users_session_is_not_found(app, other):
    async with StreamClient(app, user=user(1)) as client:
        answer = await client.post('{"id":9,"ping":{}}', user=other)

        assert answer.status == 404
        assert await client.quiet()


async def test_the_session_of_a_websocket_takes_no_posts(app):
    async with WireClient(app) as socket, StreamClient(app) as client:
        [served] = [each for each in current() if each.context.client_id == socket.id]
        client.connected["connect"]["session"] = served.secret

        assert (await client.post("{}")).status == 404


async def test_too_many_waiting_commands_are_refused(app):
    release = asyncio.Event()

    class Slow(Topic):
        pattern = "slow"
        permission_classes = [AllowAny]

        async def on_subscribe(self, user):
            await release.wait()

    async with StreamClient(app) as client:
        await client.say({"id": 50, "subscribe": {"channel": "slow"}})
        statuses = [(await client.post("{}")).status for _ in range(80)]
        release.set()

        assert statuses[0] == 204
        assert statuses[-1] == 429
        while not client._replies:
            await client._read()
        client._replies.clear()
        await client.done("ping")


async def test_a_message_may_be_as_long_as_the_setting(app, settings):
    configured(settings, FRAME_SIZE=3_000_000)
    async with StreamClient(app) as client:
        await client.subscribe("room:a")

        await client.done("publish", channel="room:a", data="x" * 2_000_000)

        [data] = await client.publications(1)
        assert len(data) == 2_000_000


# Which pages may


@pytest.mark.parametrize("path", ["http_stream", "sse", "emulation"])
async def test_a_page_of_another_site_is_refused(app, path, caplog):
    answer = await request(
        app,
        "POST",
        f"/connection/{path}",
        body=b'{"id": 1, "connect": {}}',
        headers=((b"origin", b"https://evil.example"), JSON),
    )

    assert answer.status == 403
    assert "evil.example" in caplog.text
    assert b"access-control-allow-origin" not in answer.headers


async def test_a_post_without_an_origin_is_refused_as_a_websocket_is(app):
    answer = await request(
        app, "POST", "/connection/http_stream", body=b"{}", headers=(JSON,)
    )

    assert answer.status == 403


async def test_an_endpoint_may_allow_clients_without_an_origin(app):
    class Lenient(TopicsEndpoint):
        allow_missing_origin = True

    async with StreamClient(Lenient.as_asgi(), headers=(JSON,)) as client:
        assert client.connected["connect"]


async def test_an_endpoint_may_name_its_origins(app):
    class Partner(TopicsEndpoint):
        allowed_origins = ["https://partner.example"]

    partner = ((b"origin", b"https://partner.example"), JSON)
    async with StreamClient(Partner.as_asgi(), headers=partner) as client:
        assert client.connected["connect"]
    ours = await request(Partner.as_asgi(), "POST", "/connection/http_stream")
    assert ours.status == 403


async def test_the_origins_of_an_endpoint_may_be_replaced(app):
    class Partner(TopicsEndpoint):
        allowed_origins = ["https://former.example"]

    serving = Partner.as_asgi()
    partner = ((b"origin", b"https://partner.example"), JSON)
    refused = await request(serving, "POST", "/connection/http_stream", headers=partner)
    assert refused.status == 403

    Partner.allowed_origins = ["https://partner.example"]
    async with StreamClient(serving, headers=partner) as client:
        assert client.connected["connect"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((), 200),
        (((b"sec-fetch-site", b"same-origin"),), 200),
        (((b"sec-fetch-site", b"cross-site"),), 403),
        (((b"sec-fetch-site", b"same-site"),), 403),
        (((b"origin", b"null"),), 403),
    ],
)
async def test_events_need_no_origin_where_browsers_send_none(app, headers, status):
    client = begin(
        app,
        "GET",
        "/connection/sse",
        query='cf_connect={"id": 1, "connect": {}}',
        headers=headers,
    )
    start = await client.until("http.response.start")
    client.say("http.disconnect")
    await client.end()

    assert start["status"] == status


async def test_a_preflight_answers_an_allowed_page(app):
    answer = await request(app, "OPTIONS", "/connection/emulation")

    assert answer.status == 204
    assert answer.headers[b"access-control-allow-origin"] == b"http://testserver"
    assert answer.headers[b"access-control-allow-credentials"] == b"true"
    assert b"content-type" in answer.headers[b"access-control-allow-headers"]
    assert b"POST" in answer.headers[b"access-control-allow-methods"]
    assert answer.headers[b"vary"] == b"origin"


async def test_an_allowed_page_may_read_the_stream(app):
    async with StreamClient(app) as client:
        headers = client.response_headers

    assert headers[b"access-control-allow-origin"] == b"http://testserver"


async def test_a_site_open_to_all_allows_no_credentials(app, settings):
    settings.ALLOWED_HOSTS = ["*"]

    answer = await request(app, "OPTIONS", "/connection/emulation")

    assert answer.headers[b"access-control-allow-origin"] == b"http://testserver"
    assert b"access-control-allow-credentials" not in answer.headers


# The other process


@pytest.fixture
async def other():
    """The bus as another process sees it."""
    bus = Cluster(get_channel_layer())
    bus.process = "other"
    yield bus
    await bus.close()


async def deliver(monkeypatch, bus, said, data, *, user_id=""):
    """Pass commands on from the process of ``bus``."""
    with monkeypatch.context() as patch:
        patch.setattr(emulation.cluster, "current", lambda: bus)
        return await emulation.deliver(said["node"], said["session"], user_id, data)


async def test_a_process_that_does_not_answer_is_gone(app, monkeypatch):
    monkeypatch.setattr(emulation, "_TIMEOUT", 0.01)
    async with StreamClient(app) as client:
        other = {"node": "other", "session": new_session("other")}
        client.connected["connect"].update(other)

        assert (await client.post("{}")).status == 404


async def test_commands_pass_from_process_to_process_in_order(app, other, monkeypatch):
    async with StreamClient(app) as client:
        await client.subscribe("room:a")
        said = client.connected["connect"]
        for n in range(10):
            command = f'{{"id":{n + 50},"publish":{{"channel":"room:a","data":{n}}}}}'
            status = await deliver(monkeypatch, other, said, command.encode())
            assert status == emulation.ACCEPTED

        assert await client.publications(10) == list(range(10))


async def test_another_process_checks_the_user_as_well(app, other, monkeypatch, caplog):
    async with StreamClient(app, user=user(1)) as client:
        said = client.connected["connect"]

        status = await deliver(monkeypatch, other, said, b"{}", user_id="2")

        assert status == emulation.GONE
        assert "came from user '2'" in caplog.text


async def test_commands_may_arrive_in_another_event_loop(app):
    async with StreamClient(app) as client:
        await client.subscribe("room:a")
        said = client.connected["connect"]
        command = b'{"id":50,"publish":{"channel":"room:a","data":1}}'
        arguments = said["node"], said["session"], "", command

        status = await asyncio.to_thread(
            lambda: asyncio.run(emulation.deliver(*arguments))
        )

        assert status == emulation.ACCEPTED
        assert await client.publications(1) == [1]


async def test_a_post_without_a_broker_is_answered_with_503(app, monkeypatch):
    async def away(self, *args, **kwargs):
        raise LayerUnavailable("it is away")

    async with StreamClient(app) as client:
        other = {"node": "other", "session": new_session("other")}
        client.connected["connect"].update(other)
        monkeypatch.setattr(InMemoryChannelLayer, "group_send", away)

        assert (await client.post("{}")).status == 503


async def test_a_stream_without_a_broker_is_answered_with_503(app, kind, monkeypatch):
    async def away(self, *args, **kwargs):
        raise LayerUnavailable("it is away")

    monkeypatch.setattr(InMemoryChannelLayer, "stream_subscribe", away)
    client = StreamClient(app, kind=kind, connect=None)
    await client.write('{"id": 1, "connect": {}}')
    await client.client.end()

    assert client.response["status"] == 503
