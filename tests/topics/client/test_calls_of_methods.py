"""A client calls the methods of topics and of the endpoint."""

from __future__ import annotations

import pytest

from support.clients.wire_client import WireClient
from support.topics.rooms import user
from tiderace.topics import (
    TopicsEndpoint,
    rpc,
)

pytestmark = pytest.mark.usefixtures("fresh_layer")


async def test_a_method_of_a_topic_is_called_with_arguments_by_name(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        call = {"channel": "room:a", "method": "add", "data": {"a": 2}}

        assert await client.done("rpc", method="$call", data=call) == {
            "data": {"sum": 3, "room": "a"}
        }


@pytest.mark.parametrize(
    ("method", "data", "code"),
    [
        ("add", {"a": "two"}, 422),
        ("add", {}, 422),
        ("add", {"a": 1, "c": 3}, 422),
        ("add", {"a": 1, "user": 3}, 422),
        ("add", [1, 2], 422),
        ("secret", {}, 104),
        ("topic", {}, 104),
        ("__init__", {}, 104),
        ("nothing", {}, 104),
        ("fail", {}, 499),
        ("break_", {}, 100),
    ],
)
async def test_a_wrong_call_is_an_error_with_a_code(app, method, data, code):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        call = {"channel": "room:a", "method": method, "data": data}

        assert await client.refused("rpc", method="$call", data=call) == code


async def test_only_subscribers_may_call(app):
    async with WireClient(app) as client:
        call = {"channel": "room:a", "method": "add", "data": {"a": 1}}

        assert await client.refused("rpc", method="$call", data=call) == 103


async def test_a_connection_has_methods_of_its_own():
    class Endpoint(TopicsEndpoint):
        @rpc
        def whoami(self, user):
            return str(user.pk)

        async def on_connect(self, user, data):
            return {"you sent": data}

    async with WireClient(
        Endpoint.as_asgi(), user=user(9), connect={"data": [1]}
    ) as client:
        assert client.connected["connect"]["data"] == {"you sent": [1]}
        assert await client.done("rpc", method="whoami") == {"data": "9"}
        assert await client.refused("rpc", method="on_connect") == 104
        assert await client.refused("rpc", method="other") == 104
