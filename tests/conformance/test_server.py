"""The conformance server, started by its one command, as strangers meet it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from conformance.process import ConformanceProcess, token

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

# Making a client takes longer than asking with it.
http = httpx.Client(timeout=15)
CONNECT = '{"id": 1, "connect": {}}'
# jwt warns of keys as short as the one that the suites agree on.
pytestmark.append(pytest.mark.filterwarnings("ignore:The HMAC key is"))


@pytest.fixture(scope="module")
def server() -> Iterator[ConformanceProcess]:
    with ConformanceProcess() as process:
        yield process
    http.close()


@contextlib.contextmanager
def open_socket(server: ConformanceProcess, **connecting: object) -> Iterator[Socket]:
    """A client that has connected."""
    with connect(f"{server.ws}/connection/websocket") as connection:
        socket = Socket(connection)
        socket.connected = socket.ask("connect", **connecting)
        yield socket


class Socket:
    """A WebSocket that asks one thing at a time."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.connected: dict = {}

    def ask(self, method: str, **request: object) -> dict:
        """The result, or the error, of a command."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, method: request}))
        while True:
            for line in self._connection.recv(timeout=15).split("\n"):
                frame = json.loads(line)
                if frame.get("id") == self._number:
                    return frame.get(method) or frame.get("error") or {}


def test_anonymous_clients_connect_without_an_origin(server):
    with open_socket(server) as socket:
        assert socket.connected["client"]


@pytest.mark.parametrize("path", ["/emulation", "/connection/emulation"])
@pytest.mark.parametrize("kind", ["http_stream", "sse"])
@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "http://localhost:3000"}, {"origin": "null"}],
    ids=["none", "other", "null"],
)
def test_streams_are_open_to_every_origin(server, path, kind, headers):
    url = f"{server.http}/connection/{kind}"
    asked = {**headers, "content-type": "application/json"}
    with http.stream("POST", url, content=CONNECT, headers=asked) as response:
        lines = (line.removeprefix("data: ") for line in response.iter_lines())
        frame = json.loads(next(line for line in lines if line))
        said = {name: frame["connect"][name] for name in ("session", "node")}
        command = json.dumps({"id": 2, "subscribe": {"channel": "x"}})
        answer = http.post(
            f"{server.http}{path}", json={**said, "data": command}, headers=headers
        )
        reply = json.loads(next(line for line in lines if line))

    assert answer.status_code == 204
    assert reply["id"] == 2
    assert reply["subscribe"]["epoch"]
    if headers:
        assert answer.headers["access-control-allow-origin"] == headers["origin"]


def test_a_page_of_another_origin_may_send_a_preflight(server):
    answer = http.options(
        f"{server.http}/connection/http_stream",
        headers={
            "origin": "http://localhost:3000",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        },
    )

    assert answer.status_code == 204
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "content-type" in answer.headers["access-control-allow-headers"]


@pytest.mark.parametrize("kind", ["application/json", "text/plain;charset=UTF-8"])
def test_the_api_is_open_without_a_key(server, kind):
    body = json.dumps({"channel": "api", "data": {"n": 1}})
    answer = http.post(
        f"{server.http}/api/publish", content=body, headers={"content-type": kind}
    )

    assert answer.json()["result"]["epoch"]


def test_the_api_may_be_called_in_its_older_form(server):
    body = {"method": "publish", "params": {"channel": "older", "data": 1}}
    answer = http.post(f"{server.http}/api", json=body)

    assert answer.json()["result"]["offset"] == 1


def test_a_channel_without_a_namespace_has_everything(server):
    with open_socket(server) as socket:
        granted = socket.ask("subscribe", channel="all")
        members = socket.ask("presence", channel="all")["presence"]
        page = socket.ask("history", channel="all", limit=-1)

    assert granted["recoverable"] is True
    assert list(members) == [socket.connected["client"]]
    assert page["epoch"] == granted["epoch"]


def test_a_default_channel_keeps_100_publications(server):
    with open_socket(server) as socket:
        socket.ask("subscribe", channel="hundred")
        for n in range(102):
            socket.ask("publish", channel="hundred", data=n)
        page = socket.ask("history", channel="hundred", limit=-1)

    assert [each["data"] for each in page["publications"]] == list(range(2, 102))


def test_a_small_history_keeps_two_and_refuses_older_positions(server):
    with open_socket(server) as socket:
        seen = socket.ask("subscribe", channel="smallhistory:a")
        for n in range(3):
            socket.ask("publish", channel="smallhistory:a", data=n)
        socket.ask("unsubscribe", channel="smallhistory:a")
        position = {"recover": True, "offset": 0, "epoch": seen["epoch"]}
        error = socket.ask("subscribe", channel="smallhistory:a", flag=2, **position)
        told = socket.ask("subscribe", channel="smallhistory:a", **position)

    assert error["code"] == 112
    assert "recovered" not in told


def test_an_unknown_namespace_is_an_unknown_channel(server):
    with open_socket(server) as socket:
        assert socket.ask("subscribe", channel="unknown:a")["code"] == 102


def test_presence_is_not_available_where_it_is_off(server):
    with open_socket(server) as socket:
        socket.ask("subscribe", channel="smallhistory:b")

        assert socket.ask("presence", channel="smallhistory:b")["code"] == 108
        assert socket.ask("presence_stats", channel="smallhistory:b")["code"] == 108


def test_history_is_not_available_where_it_is_off(server):
    with open_socket(server) as socket:
        socket.ask("subscribe", channel="nohistory:a")

        assert socket.ask("history", channel="nohistory:a")["code"] == 108


def test_a_client_may_publish_without_a_subscription(server):
    with open_socket(server) as socket:
        socket.ask("publish", channel="from-outside", data={"n": 1})
        page = socket.ask("history", channel="from-outside", limit=1)

    assert [each["data"] for each in page["publications"]] == [{"n": 1}]


def test_a_user_has_a_personal_channel_from_the_start(server):
    with open_socket(server, token=token("42")) as socket:
        assert list(socket.connected["subs"]) == ["#42"]


def test_other_users_cannot_subscribe_to_a_personal_channel(server):
    with open_socket(server, token=token("43")) as socket:
        assert socket.ask("subscribe", channel="#42")["code"] == 103


def test_a_token_of_another_secret_is_refused(server):
    head, _, _ = token("42").rpartition(".")
    with (
        pytest.raises(ConnectionClosed) as closed,
        open_socket(server, token=f"{head}.AAAA"),
    ):
        pass

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 3500
