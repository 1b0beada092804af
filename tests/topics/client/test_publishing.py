"""A client publishes: permissions, idempotency keys, hooks and rates."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from django.utils.functional import lazystr

from support.clients.wire_client import WireClient
from support.topics.rooms import user
from tiderace.topics import (
    AllowAny,
    History,
    Refuse,
    Topic,
    TopicsEndpoint,
    ahistory,
    apublish,
    rpc,
)
from tiderace.topics.names import publication_key

pytestmark = pytest.mark.usefixtures("fresh_layer")


async def test_a_subscribers_publication_reaches_all_subscribers(app):
    async with WireClient(app, user=user(7)) as one, WireClient(app) as two:
        await one.subscribe("room:a")
        await two.subscribe("room:a")
        assert await one.done("publish", channel="room:a", data={"a": 1.0}) == {}

        push = await two.push()
        assert push["pub"]["data"] == {"a": 1.0}
        assert push["pub"]["info"] == {"user": "7", "client": one.id}
        assert await one.push() == push


async def test_only_subscribers_may_publish(app):
    async with WireClient(app) as client:
        assert await client.refused("publish", channel="room:a", data=1) == 103


@pytest.fixture
def hall(app):
    """A topic whose visitors may speak from the door."""

    class Hall(Topic):
        pattern = "hall:<slug:name>"
        history = History(size=5, ttl=60)
        subscribers_only = False

        async def can_subscribe(self, user):
            return self.kwargs["name"] != "locked"

        async def can_publish(self, user):
            return True

        @rpc
        async def ask(self, user):
            return "yes"

    return app


async def test_a_topic_may_allow_clients_without_a_subscription(hall):
    async with WireClient(hall) as client:
        await client.done("publish", channel="hall:a", data=1)
        page = await client.done("history", channel="hall:a", limit=-1)
        call = {"channel": "hall:a", "method": "ask"}
        answer = await client.done("rpc", method="$call", data=call)

        assert [each["data"] for each in page["publications"]] == [1]
        assert answer["data"] == "yes"
        assert await client.quiet()


@pytest.mark.parametrize("method", ["publish", "history"])
async def test_a_client_that_may_not_subscribe_may_not_publish_either(hall, method):
    async with WireClient(hall) as client:
        code = await client.refused(method, channel="hall:locked", data=1)

        assert code == 103


async def test_a_topic_takes_no_publications_by_default(app):
    async with WireClient(app) as client:
        await client.subscribe("feed:1")
        assert await client.refused("publish", channel="feed:1", data=1) == 103


async def test_a_publish_without_data_is_a_bad_request(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        assert await client.refused("publish", channel="room:a") == 107


async def test_a_key_that_comes_twice_is_published_once(app):
    async with WireClient(app, user=user()) as client:
        await client.subscribe("room:a")
        for _ in range(2):
            await client.done(
                "rpc",
                method="$publish",
                data={"channel": "room:a", "data": "hi", "key": "k1"},
            )

        assert await client.publications(1) == ["hi"]
        assert await client.quiet()


async def test_a_key_that_comes_twice_runs_the_applications_hook_once(own_topics):
    ran = []

    class Stored(Topic):
        pattern = "stored"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            ran.append(message)
            return message

    data = {"channel": "stored", "data": "hi", "key": "k1"}
    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("stored")
        for _ in range(2):
            await client.done("rpc", method="$publish", data=data)

    assert ran == ["hi"]


async def test_a_repeated_key_waits_for_the_first_publish(own_topics):
    begun, may_end = asyncio.Event(), asyncio.Event()
    ran = []

    class Slow(Topic):
        pattern = "slow"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            ran.append(message)
            begun.set()
            await may_end.wait()
            return message

    data = {"channel": "slow", "data": "hi", "key": "k1"}
    endpoint = TopicsEndpoint.as_asgi()
    async with (
        WireClient(endpoint, user=user(1)) as one,
        WireClient(endpoint, user=user(1)) as two,
    ):
        for client in (one, two):
            await client.subscribe("slow")
        first = asyncio.create_task(one.done("rpc", method="$publish", data=data))
        await begun.wait()
        second = asyncio.create_task(two.done("rpc", method="$publish", data=data))
        # The second is carried out as far as it goes, which takes it no time.
        for _ in range(50):
            await asyncio.sleep(0)
        may_end.set()
        await asyncio.gather(first, second)

        assert await two.publications(1) == ["hi"]
        assert await two.quiet()
    assert ran == ["hi"]


@pytest.mark.parametrize("message", ["half \ud83d", lazystr("half \ufffd")])
def test_a_refusal_has_a_message_that_every_codec_can_encode(message):
    assert Refuse(message).failure.message == "half \ufffd"


async def test_a_repeated_key_is_published_when_the_first_publish_failed(own_topics):
    errors = [Refuse("not now", code=400)]

    class Picky(Topic):
        pattern = "picky"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            if errors:
                raise errors.pop()
            return message

    data = {"channel": "picky", "data": "hi", "key": "k1"}
    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("picky")
        assert await client.refused("rpc", method="$publish", data=data) == 400
        await client.done("rpc", method="$publish", data=data)

        assert await client.publications(1) == ["hi"]


async def test_another_user_may_have_the_same_key(app):
    async with (
        WireClient(app, user=user(1)) as one,
        WireClient(app, user=user(2)) as two,
    ):
        for client in (one, two):
            await client.subscribe("room:a")
        for client in (one, two):
            await client.done(
                "rpc",
                method="$publish",
                data={"channel": "room:a", "data": client.id, "key": "k1"},
            )

        assert await one.publications(2) == [one.id, two.id]


class Message(msgspec.Struct):
    text: str
    size: int = 1


async def test_a_message_of_another_type_is_refused_with_the_reason(own_topics):
    class Typed(Topic):
        pattern = "typed"
        permission_classes = [AllowAny]
        message = Message

        async def on_publish(self, user, message):
            return message

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("typed")
        reply = await client.ask("publish", channel="typed", data={"text": 3})

        assert reply["error"]["code"] == 422
        assert "$.text" in reply["error"]["message"]


async def test_the_result_of_on_publish_is_published(own_topics):
    class Typed(Topic):
        pattern = "typed"
        permission_classes = [AllowAny]
        message = Message

        def on_publish(self, user, message):
            message.text = message.text.upper()
            return message

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("typed")
        await client.done("publish", channel="typed", data={"text": "hi"})

        assert await client.publications(1) == [{"text": "HI", "size": 1}]


async def test_nothing_is_published_when_on_publish_returns_none(own_topics):
    class Silent(Topic):
        pattern = "silent"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            return None

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("silent")
        await client.done("publish", channel="silent", data=1)

        assert await client.quiet()


async def test_a_hook_that_fails_is_an_error_and_no_traceback(own_topics, caplog):
    class Broken(Topic):
        pattern = "broken"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            raise RuntimeError("a bug with a secret")

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("broken")
        reply = await client.ask("publish", channel="broken", data=1)

        assert reply["error"] == {
            "code": 100,
            "message": "internal server error",
            "temporary": True,
        }
    assert "a bug with a secret" in caplog.text


async def test_publishing_too_often_is_a_temporary_error(own_topics):
    class Slow(Topic):
        pattern = "slow"
        permission_classes = [AllowAny]
        publish_rate = "2/h"

        async def can_publish(self, user):
            return True

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("slow")
        for _ in range(2):
            await client.done("publish", channel="slow", data=1)
        reply = await client.ask("publish", channel="slow", data=1)

        assert reply["error"]["code"] == 111
        assert reply["error"]["temporary"] is True


async def test_a_user_has_one_allowance_over_all_connections(own_topics):
    class Shared(Topic):
        pattern = "shared:<int:pk>"
        permission_classes = [AllowAny]
        user_rate = "3/h"

        async def can_publish(self, user):
            return True

    app = TopicsEndpoint.as_asgi()
    async with (
        WireClient(app, user=user(1)) as one,
        WireClient(app, user=user(1)) as two,
        WireClient(app, user=user(2)) as other,
    ):
        for number, client in enumerate((one, two, other)):
            await client.subscribe(f"shared:{number}")
        await one.done("publish", channel="shared:0", data=1)
        await two.done("publish", channel="shared:1", data=1)
        await one.done("publish", channel="shared:0", data=1)
        assert await two.refused("publish", channel="shared:1", data=1) == 111
        await other.done("publish", channel="shared:2", data=1)


async def test_a_publication_with_a_key_that_is_repeated_takes_another_token(
    own_topics,
):
    class Limited(Topic):
        pattern = "limited"
        permission_classes = [AllowAny]
        user_rate = "2/h"

        async def can_publish(self, user):
            return True

    data = {"channel": "limited", "data": "hi", "key": "k1"}
    async with WireClient(TopicsEndpoint.as_asgi(), user=user(1)) as client:
        await client.subscribe("limited")
        for _ in range(2):
            await client.done("rpc", method="$publish", data=data)

        assert await client.refused("rpc", method="$publish", data=data) == 111
        assert await client.publications(1) == ["hi"]
        assert await client.quiet()


async def test_a_message_of_another_type_takes_a_token(own_topics):
    class Typed(Topic):
        pattern = "typed"
        permission_classes = [AllowAny]
        message = Message
        user_rate = "1/h"

        async def can_publish(self, user):
            return True

    async with WireClient(TopicsEndpoint.as_asgi(), user=user(1)) as client:
        await client.subscribe("typed")
        for code in (422, 111):
            assert await client.refused("publish", channel="typed", data=3) == code


async def test_a_repeated_key_is_answered_before_its_data_are_checked(own_topics):
    class Typed(Topic):
        pattern = "typed"
        permission_classes = [AllowAny]
        message = Message

        async def can_publish(self, user):
            return True

    async with WireClient(TopicsEndpoint.as_asgi(), user=user(1)) as client:
        await client.subscribe("typed")
        for data in ({"text": "hi"}, 3):
            request = {"channel": "typed", "data": data, "key": "k1"}
            await client.done("rpc", method="$publish", data=request)

        assert await client.publications(1) == [{"text": "hi", "size": 1}]
        assert await client.quiet()


async def test_no_hook_runs_beyond_the_rate_of_a_user(own_topics):
    ran = []

    class Limited(Topic):
        pattern = "limited"
        permission_classes = [AllowAny]
        user_rate = "1/h"

        async def on_publish(self, user, message):
            ran.append(message)
            return message

    async with WireClient(TopicsEndpoint.as_asgi(), user=user(1)) as client:
        await client.subscribe("limited")
        await client.done("publish", channel="limited", data=1)

        assert await client.refused("publish", channel="limited", data=2) == 111
    assert ran == [1]


async def test_anonymous_visitors_of_one_address_share_an_allowance(own_topics):
    class Shared(Topic):
        pattern = "shared"
        permission_classes = [AllowAny]
        user_rate = "2/h"

        async def can_publish(self, user):
            return True

    app = TopicsEndpoint.as_asgi()
    for code in (None, None, 111):
        async with WireClient(app) as client:
            await client.subscribe("shared")
            reply = await client.ask("publish", channel="shared", data=1)

            assert reply.get("error", {}).get("code") == code


async def test_a_clients_key_cannot_use_up_a_key_of_the_application(app):
    async with WireClient(app, user=user(7)) as client:
        await client.subscribe("room:a")
        for key in ("news", "7:news", "application:news"):
            data = {"channel": "room:a", "data": "client", "key": key}
            await client.done("rpc", method="$publish", data=data)
        for key in ("news", "7:news", "1:7:news"):
            await apublish("room:a", "application", key=key)

    assert (await ahistory("room:a")).messages[-3:] == ["application"] * 3


async def test_a_key_of_any_length_costs_the_same():
    key = publication_key("k" * 60_000, user_id="7")

    assert len(key) == len(publication_key("k")) == 64
