"""The HTTP API for other programs: keys, requests and replies, as in Centrifugo."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from types import SimpleNamespace
from typing import Any

import cent
import httpx
import numpy
import pytest

from support.clients.stream_client import request
from support.clients.wire_client import WireClient
from support.servers.asgi_process import AsgiProcess
from support.servers.brokers import Server
from tiderace import cluster, conf
from tiderace.exceptions import LayerUnavailable
from tiderace.layers import InMemoryChannelLayer
from tiderace.topics import (
    AllowAny,
    History,
    Presence,
    Refuse,
    Topic,
    TopicsEndpoint,
    ahistory,
)
from tiderace.topics.declaration.topic import declared

KEY = "a-key-that-nobody-guesses"
ENTRY = (b"x-api-key", KEY.encode())
JSON = (b"content-type", b"application/json")


@pytest.fixture(autouse=True)
def keys(settings):
    """A layer for this test, and a key."""
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }
    settings.TIDERACE = {"TOPICS": {"API_KEYS": [KEY]}}


class Endpoint(TopicsEndpoint):
    async def on_api_call(self, method, params):
        match method:
            case "double":
                return params * 2
            case "refuse":
                raise Refuse("not today", code=477)
            case "break":
                raise RuntimeError("a bug of the application")
            case "measure":
                return {"mean": math.nan, "count": numpy.int64(3), "cut": "\ud83d"}
            case "find":
                return object()
        return await super().on_api_call(method, params)


@pytest.fixture
def app():
    """An endpoint with a topic with all features and a plain one."""
    before = list(declared)

    class Room(Topic):
        pattern = "room:<slug:name>"
        history = History(size=10, ttl=60)
        presence = Presence.PER_CONNECTION
        permission_classes = [AllowAny]

    class Plain(Topic):
        pattern = "plain"
        permission_classes = [AllowAny]

    yield Endpoint.as_asgi()
    for topic in list(declared):
        if topic not in before:
            declared.remove(topic)


def user(pk=1):
    return SimpleNamespace(
        pk=pk, is_authenticated=True, is_active=True, is_anonymous=False
    )


async def call(app, method: str, params: Any = None, *, headers=(ENTRY,)):
    """Return the answer's JSON."""
    body = b"" if params is None else json.dumps(params).encode()
    answer = await request(
        app, "POST", f"/connection/api/{method}", body=body, headers=headers
    )
    assert answer.status == 200, (answer.status, answer.body)
    assert answer.headers[b"content-type"] == b"application/json"
    return answer.json


async def done(app, method: str, /, **params: Any):
    answer = await call(app, method, params)
    assert "result" in answer, answer
    return answer["result"]


async def refused(app, method: str, /, **params: Any) -> int:
    answer = await call(app, method, params)
    assert "error" in answer, answer
    assert answer["error"]["message"]
    return answer["error"]["code"]


# Keys


async def test_without_a_key_in_the_settings_there_is_no_api(app, settings):
    settings.TIDERACE = {}

    answer = await request(app, "POST", "/connection/api/info", headers=(ENTRY,))

    assert answer.status == 404


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"x-api-key", b"another-key-of-that-kind"),),
        ((b"x-api-key", b""),),
        ((b"x-api-key", "schlüssel".encode()),),
        ((b"authorization", b"apikey "),),
        ((b"authorization", b"Bearer " + KEY.encode()),),
    ],
)
async def test_a_request_without_the_key_is_rejected(app, headers):
    answer = await request(app, "POST", "/connection/api/info", headers=headers)

    assert answer.status == 401


@pytest.mark.parametrize(
    "headers", [(ENTRY,), ((b"authorization", b"apikey " + KEY.encode()),)]
)
async def test_a_request_with_the_key_is_served(app, headers):
    assert "result" in await call(app, "info", headers=headers)


async def test_every_configured_key_is_accepted(app, settings):
    settings.TIDERACE = {"TOPICS": {"API_KEYS": ["the-next-key-of-them", KEY]}}

    assert "result" in await call(app, "info")


@pytest.mark.parametrize("key", ["", "short"])
def test_a_short_key_is_refused_in_the_settings(key):
    with pytest.raises(conf.UnknownSetting, match="API_KEYS"):
        conf.validate({"TOPICS": {"API_KEYS": [key]}})


async def test_an_open_api_needs_no_key(app, settings):
    settings.TIDERACE = {"TOPICS": {"API_OPEN": True}}

    assert "result" in await call(app, "info", headers=(JSON,))


async def test_a_page_of_another_site_cannot_use_an_open_api(app, settings):
    settings.TIDERACE = {"TOPICS": {"API_OPEN": True}}
    origin = (b"origin", b"https://evil.example")

    sent = await request(
        app,
        "POST",
        "/connection/api/info",
        body=b"{}",
        headers=(origin, (b"content-type", b"text/plain")),
    )
    asked = await request(app, "OPTIONS", "/connection/api/info", headers=(origin,))

    assert sent.status == 415
    assert asked.status >= 400
    assert b"access-control-allow-origin" not in asked.headers


async def test_an_open_api_is_closed_to_hosts_that_resolve_to_the_site(app, settings):
    settings.TIDERACE = {"TOPICS": {"API_OPEN": True}}

    answer = await request(
        app,
        "POST",
        "/connection/api/info",
        body=b"{}",
        headers=(JSON, (b"host", b"evil.test")),
    )

    assert answer.status == 400


async def test_other_http_methods_than_post_are_rejected(app):
    answer = await request(app, "GET", "/connection/api/info", headers=(ENTRY,))

    assert answer.status == 405


@pytest.mark.parametrize("path", ["api/nothing", "api/publish/more", "api/_older"])
async def test_an_unknown_api_method_is_an_error(app, path):
    answer = await request(app, "POST", f"/connection/{path}", headers=(ENTRY,))

    assert answer.status == 404


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("publish", b"nonsense"),
        ("publish", b"\xff"),
        ("publish", b"[]"),
        ("publish", b'{"channel": "plain"}'),
        ("publish", b'{"channel": 1, "data": 1}'),
        ("publish", b'{"channel": "plain", "b64data": "%%"}'),
        ("publish", b'{"channel": "plain", "b64data": "YWJj"}'),
        ("publish", b'{"channel": "plain", "data": "\xff"}'),
        (
            "publish",
            b'{"channel": "plain", "data": ' + b"[" * 9000 + b"]" * 9000 + b"}",
        ),
        (
            "publish",
            b'{"channel": "plain", "more": ' + b"[" * 9000 + b"]" * 9000 + b"}",
        ),
        ("publish", b'{"channel": "plain", "b64data": "' + b"W1tb" * 9000 + b'"}'),
        ("broadcast", b'{"channels": "plain", "data": 1}'),
        ("disconnect", b"{}"),
        ("disconnect", b'{"user": ""}'),
        ("disconnect", b'{"user": "1", "disconnect": {"code": 1000}}'),
        ("history", b'{"channel": "plain", "limit": "all"}'),
        ("batch", b"{}"),
        ("", b'{"params": {}}'),
    ],
)
async def test_an_invalid_request_is_a_bad_request(app, method, body):
    answer = await request(
        app, "POST", f"/connection/api/{method}", body=body, headers=(ENTRY,)
    )

    assert answer.json["error"]["code"] == 107


# Publishing


async def test_publish_reaches_subscribers_and_returns_the_position(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        result = await done(
            app, "publish", channel="room:a", data={"n": 1}, tags={"a": "b"}
        )
        push = await client.push("pub")

    assert result["offset"] == 1
    assert result["epoch"]
    assert push["pub"]["data"] == {"n": 1}
    assert push["pub"]["tags"] == {"a": "b"}


async def test_a_topic_without_history_has_no_positions(app):
    assert await done(app, "publish", channel="plain", data=None) == {}


async def test_an_idempotency_key_publishes_once(app):
    for _ in range(2):
        await done(app, "publish", channel="room:a", data=1, idempotency_key="k")

    assert (await ahistory("room:a")).messages == [1]


async def test_data_may_come_in_base64(app):
    data = base64.b64encode(b'{"a": 1}').decode()

    await done(app, "publish", channel="room:a", b64data=data)

    assert (await ahistory("room:a")).messages == [{"a": 1}]


async def test_data_over_several_lines_is_one_line_for_clients(app):
    body = b'{"channel": "room:a", "data": {\r\n"n": 12345678901234567890123\n}}'
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        await request(
            app, "POST", "/connection/api/publish", body=body, headers=(ENTRY,)
        )

        assert await client.publications(1) == [{"n": 12345678901234567890123}]


async def test_unsupported_parameters_are_refused(app):
    assert (
        await refused(app, "publish", channel="room:a", data=1, skip_history=True)
        == 108
    )
    assert await refused(app, "subscribe", user="1", channel="a", client="c") == 108
    assert await refused(app, "unsubscribe", user="1", channel="a", client="c") == 108
    assert await refused(app, "refresh", user="1", expire_at=5) == 108
    assert await refused(app, "disconnect", user="1", whitelist=["c"]) == 108


async def test_an_unknown_topic_is_102(app):
    assert await refused(app, "publish", channel="nowhere", data=1) == 102
    assert await refused(app, "history", channel="nowhere") == 102
    assert await refused(app, "subscribe", user="1", channel="nowhere") == 102


async def test_a_broadcast_returns_a_result_for_each_topic(app):
    result = await done(
        app, "broadcast", channels=["room:a", "nowhere", "room:b"], data="x"
    )

    first, second, third = result["responses"]
    assert first["result"]["offset"] == 1
    assert second["error"]["code"] == 102
    assert third["result"]["offset"] == 1


async def test_an_unreachable_broker_is_a_temporary_internal_error(app, monkeypatch):
    async def away(self, *args, **kwargs):
        raise LayerUnavailable("it is away")

    monkeypatch.setattr(InMemoryChannelLayer, "stream_publish", away)

    answer = await call(app, "publish", {"channel": "room:a", "data": 1})
    broadcast = await done(app, "broadcast", channels=["room:a"], data=1)

    assert answer["error"] == {
        "code": 100,
        "message": "internal server error",
        "temporary": True,
    }
    assert broadcast["responses"][0]["error"]["code"] == 100


@pytest.mark.parametrize("parallel", [True, False])
async def test_a_batch_is_answered_in_order(app, parallel):
    commands = [
        {"publish": {"channel": "room:a", "data": 1}},
        {"presence_stats": {"channel": "room:a"}},
        {"publish": {"channel": "nowhere", "data": 1}},
        {"nothing": {}},
        {"publish": {}, "history": {}},
    ]

    answer = await call(app, "batch", {"commands": commands, "parallel": parallel})

    first, second, third, fourth, fifth = answer["replies"]
    assert first["publish"]["offset"] == 1
    assert second == {"presence_stats": {"num_clients": 0, "num_users": 0}}
    assert third["error"]["code"] == 102
    assert fourth["error"]["code"] == 104
    assert fifth["error"]["code"] == 107


async def test_the_older_form_names_the_method_in_its_body(app):
    body = {"method": "publish", "params": {"channel": "room:a", "data": 1}}
    answer = await request(
        app,
        "POST",
        "/connection/api",
        body=json.dumps(body).encode(),
        headers=(ENTRY,),
    )

    assert answer.json["result"]["offset"] == 1


async def test_the_older_form_refuses_an_unknown_method(app):
    answer = await request(
        app, "POST", "/connection/api", body=b'{"method": "x"}', headers=(ENTRY,)
    )

    assert answer.json["error"]["code"] == 104


# Connections


async def test_disconnect_closes_the_connections_of_a_user(app):
    async with WireClient(app, user=user(7)) as client:
        await done(
            app, "disconnect", user="7", disconnect={"code": 4700, "reason": "go"}
        )

        assert await client.closed() == (4700, "go")


async def test_disconnect_can_close_one_connection(app):
    async with (
        WireClient(app, user=user(7)) as stays,
        WireClient(app, user=user(7)) as goes,
    ):
        await done(app, "disconnect", user="7", client=goes.id)

        assert (await goes.closed())[0] == 3503
        assert await stays.quiet()


async def test_refresh_makes_clients_reconnect_with_fresh_tokens(app):
    async with WireClient(app, user=user(7)) as client:
        await done(app, "refresh", user="7")

        assert (await client.closed())[0] == 3014


async def test_refresh_can_close_a_connection_as_expired(app):
    async with WireClient(app, user=user(7)) as client:
        await done(app, "refresh", user="7", expired=True)

        assert (await client.closed())[0] == 3005


async def test_subscribe_and_unsubscribe_act_on_a_users_connections(app):
    async with WireClient(app, user=user(7)) as client:
        await done(app, "subscribe", user="7", channel="room:a")
        assert (await client.push())["channel"] == "room:a"

        await done(app, "unsubscribe", user="7", channel="room:a")
        assert (await client.push("unsubscribe"))["unsubscribe"]["code"] == 2000


@pytest.mark.parametrize(
    "method", ["subscribe", "unsubscribe", "disconnect", "refresh"]
)
async def test_a_user_that_is_no_primary_key_is_a_bad_request(app, method):
    assert await refused(app, method, user="alice", channel="room:a") == 107


# Reads


async def test_presence_returns_connections(app):
    async with WireClient(app, user=user(7)) as client:
        await client.subscribe("room:a")
        presence = await done(app, "presence", channel="room:a")
        stats = await done(app, "presence_stats", channel="room:a")

    assert presence == {"presence": {client.id: {"user": "7", "client": client.id}}}
    assert stats == {"num_clients": 1, "num_users": 1}


@pytest.mark.parametrize(
    "method", ["presence", "presence_stats", "history", "history_remove"]
)
async def test_a_feature_that_a_topic_lacks_is_not_available(app, method):
    assert await refused(app, method, channel="plain") == 108


async def test_history_is_read_from_a_position_in_both_directions(app):
    for n in range(5):
        position = await done(app, "publish", channel="room:a", data=n)

    only_top = await done(app, "history", channel="room:a")
    forth = await done(
        app,
        "history",
        channel="room:a",
        limit=2,
        since={"epoch": position["epoch"], "offset": 1},
    )
    back = await done(app, "history", channel="room:a", limit=-1, reverse=True)

    assert only_top == {"publications": [], **position}
    assert [each["data"] for each in forth["publications"]] == [1, 2]
    assert [each["data"] for each in back["publications"]] == [4, 3, 2, 1, 0]
    assert [each["offset"] for each in back["publications"]] == [5, 4, 3, 2, 1]


async def test_a_position_of_another_epoch_is_unrecoverable(app):
    await done(app, "publish", channel="room:a", data=1)

    code = await refused(
        app, "history", channel="room:a", since={"epoch": "other", "offset": 1}
    )

    assert code == 112


async def test_history_can_be_removed(app):
    position = await done(app, "publish", channel="room:a", data=1)
    await done(app, "history_remove", channel="room:a")

    history = await done(app, "history", channel="room:a", limit=-1)
    following = await done(app, "publish", channel="room:a", data=2)

    assert history == {"publications": [], **position}
    assert following == {"epoch": position["epoch"], "offset": 2}


async def test_channels_counts_subscribers(app):
    async with WireClient(app) as one, WireClient(app) as other:
        await one.subscribe("room:a")
        await other.subscribe("room:a")
        await other.subscribe("plain")
        every = await done(app, "channels")
        rooms = await done(app, "channels", pattern="room:*")

    assert every["channels"] == {
        "room:a": {"num_clients": 2},
        "plain": {"num_clients": 1},
    }
    assert rooms["channels"].keys() == {"room:a"}


async def test_info_describes_the_process(app):
    async with WireClient(app, user=user(7)) as one, WireClient(app) as other:
        await one.subscribe("plain")
        await other.subscribe("plain")
        [node] = (await done(app, "info"))["nodes"]

    assert node["uid"] == cluster.current().process
    assert node["version"].startswith("tiderace ")
    assert node["num_clients"] == 2
    assert node["num_users"] == 1
    assert node["num_subs"] == 2
    assert node["num_channels"] == 1


async def test_rpc_calls_the_application(app):
    assert await done(app, "rpc", method="double", params=21) == {"data": 42}
    assert await refused(app, "rpc", method="refuse") == 477
    assert await refused(app, "rpc", method="nothing") == 104


async def test_rpc_takes_the_values_that_topics_take(app, caplog):
    measured = await done(app, "rpc", method="measure")

    assert measured == {"data": {"mean": None, "count": 3, "cut": "\ufffd"}}
    assert await refused(app, "rpc", method="find") == 100
    assert "JSON" in caplog.text or "plain data" in caplog.text


async def test_an_error_of_the_application_is_logged_and_not_sent(app, caplog):
    assert await refused(app, "rpc", method="break") == 100
    assert "a bug of the application" in caplog.text


# Two processes, and a library of Centrifugo


@pytest.fixture(scope="module")
def fleet():
    """Two processes behind one broker."""
    with Server() as broker:
        options = {"redis": broker.url, "tiderace": {"TOPICS": {"API_KEYS": [KEY]}}}
        env = {"TRANSPORTS_SITE": json.dumps(options)}
        application = "sites.transports_site:application"
        with (
            AsgiProcess("uvicorn", application, env=env) as one,
            AsgiProcess("uvicorn", application, env=env) as other,
        ):
            yield one, other


@contextlib.contextmanager
def listening(site, *channels):
    """Subscribe a client in one process."""
    commands = [
        {"id": 1, "connect": {}},
        *({"id": n, "subscribe": {"channel": c}} for n, c in enumerate(channels, 2)),
    ]
    body = "\n".join(json.dumps(each) for each in commands)
    url = f"{site.http}/connection/http_stream"
    headers = {"content-type": "application/json"}
    with httpx.stream("POST", url, content=body, headers=headers) as response:
        lines = response.iter_lines()
        while json.loads(next(lines)).get("id") != len(commands):
            pass
        yield


@pytest.mark.servers
@pytest.mark.timeout(120)
def test_survey_methods_merge_the_replies_of_two_processes(fleet):
    one, other = fleet
    with listening(one, "room:a"), listening(other, "room:a", "room:b"):
        answers = [
            httpx.post(
                f"{one.http}/connection/api/{method}",
                json={},
                headers={"x-api-key": KEY},
            ).json()["result"]
            for method in ("channels", "info")
        ]

    channels, info = answers
    assert channels["channels"] == {
        "room:a": {"num_clients": 2},
        "room:b": {"num_clients": 1},
    }
    assert [node["num_clients"] for node in info["nodes"]] == [1, 1]
    assert len({node["uid"] for node in info["nodes"]}) == 2


@pytest.mark.servers
@pytest.mark.timeout(120)
def test_pycent_works(fleet):
    one, _ = fleet
    client = cent.Client(f"{one.http}/connection/api", KEY)
    try:
        _use(client)
    finally:
        client.close()


def _use(client):
    published = client.publish(
        cent.PublishRequest(channel="room:b", data={"n": 1}, idempotency_key="k")
    )
    broadcast = client.broadcast(
        cent.BroadcastRequest(channels=["room:b", "room:c"], data=2)
    )
    history = client.history(cent.HistoryRequest(channel="room:b", limit=10))
    presence = client.presence(cent.PresenceRequest(channel="room:b"))
    batch = client.batch(
        cent.BatchRequest(
            requests=[
                cent.PublishRequest(channel="room:b", data=3),
                cent.PresenceStatsRequest(channel="room:b"),
            ]
        )
    )
    client.disconnect(cent.DisconnectRequest(user="1"))
    client.unsubscribe(cent.UnsubscribeRequest(user="1", channel="room:b"))
    client.subscribe(cent.SubscribeRequest(user="1", channel="room:b"))
    client.refresh(cent.RefreshRequest(user="1"))
    client.history_remove(cent.HistoryRemoveRequest(channel="room:b"))
    with pytest.raises(cent.CentApiResponseError) as refused_:
        client.publish(cent.PublishRequest(channel="nowhere", data=1))

    assert published.offset == 1
    assert [each.result.offset for each in broadcast.responses] == [2, 1]
    assert [each.data for each in history.publications] == [{"n": 1}, 2]
    assert presence.presence == {}
    assert batch.replies[0].offset == 3
    assert batch.replies[1].num_clients == 0
    assert refused_.value.code == 102
