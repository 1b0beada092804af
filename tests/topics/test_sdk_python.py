"""Another client of the protocol, PyPI's centrifuge-python, in both of its formats.

Stock clients are promised to work unchanged: what an application of theirs sees is
tested here, against the conformance server and the demo, and nothing of how they do it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from centrifuge import (
    CentrifugeError,
    Client,
    ClientEventHandler,
    StreamPosition,
    SubscriptionEventHandler,
)

from conformance.process import ConformanceProcess, token
from support.servers.demo_process import DemoProcess
from support.waiting import PATIENCE

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(120),
    # jwt warns of keys as short as the one that the suites agree on.
    pytest.mark.filterwarnings("ignore:The HMAC key is"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[ConformanceProcess]:
    with ConformanceProcess() as process:
        yield process


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with DemoProcess(tmp_path_factory.mktemp("demo")) as process:
        yield process


@pytest.fixture
def headers(demo: DemoProcess) -> Iterator[dict[str, str]]:
    """The headers of a browser in which alice is logged in to the demo."""
    visitor = demo.visitor().log_in("alice")
    yield {"Origin": demo.url, "Cookie": visitor.cookies}
    visitor.close()


@pytest.fixture(params=["json", "protobuf"])
def wire(request: pytest.FixtureRequest) -> Wire:
    return Wire(protobuf=request.param == "protobuf")


@pytest.fixture(autouse=True)
async def closed_sockets():
    """The client closes its socket in the background, and the loop is to see the end."""
    yield
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others, timeout=PATIENCE)


@pytest.fixture
def channel() -> str:
    """A channel that no other test has."""
    return f"c{uuid.uuid4().hex}"


class Wire:
    """Data as an application passes it to the SDK: plain, or its bytes for Protobuf."""

    def __init__(self, *, protobuf: bool) -> None:
        self.protobuf = protobuf

    def out(self, data: Any) -> Any:
        return json.dumps(data).encode() if self.protobuf else data

    def back(self, data: Any) -> Any:
        return json.loads(data) if self.protobuf else data


class Record:
    """The events of an SDK in order; a test may add actions to each kind."""

    def __init__(self) -> None:
        self._seen: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.then: dict[str, Any] = {}

    async def note(self, kind: str, ctx: Any) -> None:
        self._seen.put_nowait((kind, ctx))
        if kind in self.then:
            await self.then[kind]()

    async def next(self, kind: str) -> Any:
        """Return the context of the next event of this kind."""
        async with asyncio.timeout(PATIENCE):
            while True:
                seen, ctx = await self._seen.get()
                if seen == kind:
                    return ctx

    def kinds(self) -> set[str]:
        """Return the kinds of the events that ``next`` has not returned."""
        kinds = set()
        while not self._seen.empty():
            kinds.add(self._seen.get_nowait()[0])
        return kinds


def _noting(base: type) -> type:
    """A handler of all of a base's events, which go to a record."""

    def handler(name: str) -> Any:
        async def handle(self: Any, ctx: Any) -> None:
            await self.record.note(name.removeprefix("on_"), ctx)

        return handle

    def init(self: Any) -> None:
        self.record = Record()

    names = [name for name in dir(base) if name.startswith("on_")]
    return type("Noting", (base,), {"__init__": init} | {n: handler(n) for n in names})


ClientNotes = _noting(ClientEventHandler)
SubscriptionNotes = _noting(SubscriptionEventHandler)


class Visitor:
    """``async with Visitor(server, wire) as visitor``: connected by then."""

    def __init__(self, server: Any, wire: Wire, **options: Any) -> None:
        self.wire = wire
        events = ClientNotes()
        self.record: Record = events.record
        url = getattr(server, "ws", None) or server.url.replace("http", "ws")
        self.client = Client(
            f"{url}/connection/websocket",
            events=events,
            use_protobuf=wire.protobuf,
            proxy=None,
            timeout=PATIENCE,
            **options,
        )

    async def __aenter__(self) -> Visitor:
        await self.client.connect()
        self.connected = await self.record.next("connected")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.disconnect()

    async def subscribe(self, channel: str, **options: Any) -> Any:
        """A subscription that has begun; what happens to it is in its ``record``."""
        events = SubscriptionNotes()
        subscription = self.client.new_subscription(channel, events=events, **options)
        subscription.record = events.record
        await subscription.subscribe()
        subscription.began = await events.record.next("subscribed")
        return subscription

    async def received(self, subscription: Any, count: int) -> list[Any]:
        """The data of the next publications."""
        return [
            self.wire.back((await subscription.record.next("publication")).pub.data)
            for _ in range(count)
        ]


async def test_a_publication_reaches_the_other_client_with_its_author(
    server, wire, channel
):
    async with (
        Visitor(server, wire, token=token("42")) as one,
        Visitor(server, wire) as other,
    ):
        subscription = await other.subscribe(channel)
        publisher = await one.subscribe(channel)
        await publisher.publish(wire.out({"text": "größer"}))

        pub = (await subscription.record.next("publication")).pub

    assert wire.back(pub.data) == {"text": "größer"}
    assert pub.offset == 1
    assert pub.info.user == "42"
    assert pub.info.client == one.connected.client


async def test_a_publication_of_the_server_arrives_with_its_tags(server, wire, channel):
    async with Visitor(server, wire) as visitor:
        subscription = await visitor.subscribe(channel)
        await server.acall("publish", channel=channel, data=[1], tags={"a": "b"})

        pub = (await subscription.record.next("publication")).pub

    assert wire.back(pub.data) == [1]
    assert pub.tags == {"a": "b"}
    assert pub.info is None


async def test_history_is_read_forwards_backwards_and_from_a_position(
    server, wire, channel
):
    async with Visitor(server, wire) as visitor:
        subscription = await visitor.subscribe(channel)
        for n in range(1, 6):
            await subscription.publish(wire.out(n))
        top = await subscription.history(limit=0)
        every = await subscription.history(limit=-1)
        last = await subscription.history(limit=2, reverse=True)
        later = await subscription.history(
            limit=10, since=StreamPosition(3, every.epoch)
        )

    def data(page):
        return [wire.back(each.data) for each in page.publications]

    assert (top.offset, data(top)) == (5, [])
    assert data(every) == [1, 2, 3, 4, 5]
    assert data(last) == [5, 4]
    assert data(later) == [4, 5]


async def test_the_last_publication_comes_with_the_subscription(server, wire, channel):
    for n in (1, 2, 3):
        await server.acall("publish", channel=f"latest:{channel}", data=n)
    async with Visitor(server, wire) as visitor:
        subscription = await visitor.subscribe(f"latest:{channel}")
        last = await subscription.record.next("publication")
        await server.acall("publish", channel=f"latest:{channel}", data=4)
        next_one = await subscription.record.next("publication")

    assert [wire.back(each.pub.data) for each in (last, next_one)] == [3, 4]


async def test_presence_lists_the_subscribers(server, wire, channel):
    async with (
        Visitor(server, wire, token=token("42")) as one,
        Visitor(server, wire, token=token("42")) as again,
        Visitor(server, wire, token=token("43")) as other,
    ):
        subscription = await one.subscribe(channel)
        await again.subscribe(channel)
        await other.subscribe(channel)
        there = (await subscription.presence()).clients
        stats = await subscription.presence_stats()

    assert {client: info.user for client, info in there.items()} == {
        one.connected.client: "42",
        again.connected.client: "42",
        other.connected.client: "43",
    }
    assert (stats.num_clients, stats.num_users) == (3, 2)


async def test_a_subscriber_gets_joins_and_leaves(server, wire, channel):
    async with Visitor(server, wire) as stays:
        subscription = await stays.subscribe(channel)
        async with Visitor(server, wire, token=token("42")) as goes:
            await goes.subscribe(channel)
            client = goes.connected.client
            while (joined := await subscription.record.next("join")).info.client != (
                client
            ):
                assert joined.info.client == stays.connected.client
        left = await subscription.record.next("leave")

    assert (left.info.client, left.info.user) == (client, "42")


async def test_a_client_that_was_cut_off_gets_missed_publications(
    server, wire, channel
):
    async with Visitor(server, wire, token=token(channel)) as visitor:
        subscription = await visitor.subscribe(channel)
        await subscription.publish(wire.out(1))
        assert await visitor.received(subscription, 1) == [1]

        async def meanwhile():
            for n in (2, 3, 4):
                await server.acall("publish", channel=channel, data=n)

        # Called before it has begun to reconnect.
        visitor.record.then["connecting"] = meanwhile
        cut = {"code": 4000, "reason": "cut"}
        await server.acall("disconnect", user=channel, disconnect=cut)
        again = await subscription.record.next("subscribed")

        assert (again.was_recovering, again.recovered) == (True, True)
        assert await visitor.received(subscription, 3) == [2, 3, 4]
        await subscription.publish(wire.out(5))
        assert await visitor.received(subscription, 1) == [5]


async def test_a_client_that_missed_too_much_is_not_recovered(server, wire, channel):
    name = f"smallhistory:{channel}"
    async with Visitor(server, wire, token=token(channel)) as visitor:
        subscription = await visitor.subscribe(name)

        async def meanwhile():
            for n in range(4):
                await server.acall("publish", channel=name, data=n)

        visitor.record.then["connecting"] = meanwhile
        cut = {"code": 4000, "reason": "cut"}
        await server.acall("disconnect", user=channel, disconnect=cut)
        again = await subscription.record.next("subscribed")

    assert (again.was_recovering, again.recovered) == (True, False)


async def test_state_is_read_again_when_its_position_is_too_old(server, wire, channel):
    name = f"smallhistory:{channel}"
    asked = []

    async def get_state(channel: str) -> StreamPosition:
        top = await server.acall("history", channel=name, limit=0)
        asked.append(top.get("offset", 0))
        if len(asked) == 1:
            # More than is kept is published between the reading and the subscribing.
            for n in range(4):
                await server.acall("publish", channel=name, data=n)
        return StreamPosition(asked[-1], top["epoch"])

    async with Visitor(server, wire) as visitor:
        subscription = await visitor.subscribe(name, get_state=get_state)

    assert asked == [0, 4]
    assert subscription.began.recovered is True


async def test_publications_after_the_position_of_a_state_arrive(server, wire, channel):
    async def get_state(channel: str) -> StreamPosition:
        top = await server.acall("history", channel=channel, limit=0)
        await server.acall("publish", channel=channel, data="after it")
        return StreamPosition(top.get("offset", 0), top["epoch"])

    async with Visitor(server, wire) as visitor:
        subscription = await visitor.subscribe(channel, get_state=get_state)

        assert await visitor.received(subscription, 1) == ["after it"]


async def test_a_token_is_renewed_before_it_ends(server, wire):
    fetched = asyncio.Queue()

    async def get_token() -> str:
        fetched.put_nowait(True)
        return token("42", exp=int(time.time()) + 2)

    async with Visitor(server, wire, get_token=get_token) as visitor:
        async with asyncio.timeout(PATIENCE):
            for _ in range(3):
                await fetched.get()
        # The same connection, which can still do something.
        result = await visitor.client.rpc("echo", wire.out({"value": 7}))

        assert wire.back(result.data) == 7
        assert not visitor.record.kinds() & {"connecting", "disconnected", "error"}


async def test_an_expired_token_is_replaced_by_a_fresh_one(server, wire):
    tokens = [token("42", exp=int(time.time()) - 60), token("42")]

    async def get_token() -> str:
        return tokens.pop(0)

    async with Visitor(server, wire, get_token=get_token):
        assert tokens == []


async def test_a_forged_token_closes_the_connection_for_good(server, wire):
    visitor = Visitor(server, wire, token=token("42")[:-4] + "AAAA")
    await visitor.client.connect()

    assert (await visitor.record.next("disconnected")).code == 3500


async def test_a_subscription_token_for_the_channel_is_accepted(server, wire, channel):
    async with Visitor(server, wire, token=token("42")) as visitor:
        name = "#43"
        mine = await visitor.subscribe(name, token=token("42", channel=name))

        assert mine.began.recoverable


async def test_a_subscription_token_for_another_channel_is_refused(server, wire):
    async with Visitor(server, wire, token=token("42")) as visitor:
        events = SubscriptionNotes()
        subscription = visitor.client.new_subscription(
            "#43", events=events, token=token("42", channel="#44")
        )
        await subscription.subscribe()

        assert (await events.record.next("unsubscribed")).code == 103


async def test_an_unsubscribed_client_gets_no_publications(server, wire, channel):
    async with Visitor(server, wire) as visitor:
        subscription = await visitor.subscribe(channel)
        await subscription.unsubscribe()
        await subscription.record.next("unsubscribed")
        await server.acall("publish", channel=channel, data=1)
        # Answered after whatever was published before.
        await visitor.client.rpc("echo", wire.out({}))

        assert "publication" not in subscription.record.kinds()


async def test_a_client_that_subscribes_again_gets_publications_again(
    server, wire, channel
):
    async with Visitor(server, wire) as visitor:
        subscription = await visitor.subscribe(channel)
        await subscription.unsubscribe()
        await subscription.subscribe()
        await subscription.record.next("subscribed")
        await server.acall("publish", channel=channel, data="now")

        assert await visitor.received(subscription, 1) == ["now"]


@pytest.mark.parametrize(
    ("method", "code"), [("fail", 1000), ("nothing_like_this", 104)]
)
async def test_a_call_that_fails_has_an_error_code(server, wire, method, code):
    async with Visitor(server, wire) as visitor:
        with pytest.raises(CentrifugeError) as failed:
            await visitor.client.rpc(method, wire.out({}))

    assert failed.value.code == code


async def test_a_subscription_to_an_unknown_namespace_ends(server, wire):
    async with Visitor(server, wire) as visitor:
        events = SubscriptionNotes()
        subscription = visitor.client.new_subscription("unknown:x", events=events)
        await subscription.subscribe()

        assert (await events.record.next("unsubscribed")).code == 102


async def test_a_server_side_subscription_gets_publications_and_recovers(
    server, wire, channel
):
    async with Visitor(server, wire, token=token(channel)) as visitor:
        began = await visitor.record.next("subscribed")
        await server.acall("publish", channel=f"#{channel}", data=1)
        first = await visitor.record.next("publication")

        async def meanwhile():
            await server.acall("publish", channel=f"#{channel}", data=2)

        visitor.record.then["connecting"] = meanwhile
        cut = {"code": 4000, "reason": "cut"}
        await server.acall("disconnect", user=channel, disconnect=cut)
        again = await visitor.record.next("subscribed")
        missed = await visitor.record.next("publication")

    assert began.channel == f"#{channel}"
    assert wire.back(first.pub.data) == 1
    assert again.recovered is True
    assert wire.back(missed.pub.data) == 2


async def test_the_server_may_begin_and_end_a_subscription(server, wire, channel):
    async with Visitor(server, wire, token=token(channel)) as visitor:
        await visitor.record.next("subscribed")
        await server.acall("subscribe", user=channel, channel=channel)
        began = await visitor.record.next("subscribed")
        await server.acall("unsubscribe", user=channel, channel=channel)
        ended = await visitor.record.next("unsubscribed")

    assert (began.channel, ended.channel) == (channel, channel)


async def test_a_subscription_that_the_server_ends_is_unsubscribed(
    server, wire, channel
):
    async with Visitor(server, wire, token=token(channel)) as visitor:
        subscription = await visitor.subscribe(channel)
        await server.acall("unsubscribe", user=channel, channel=channel)

        assert (await subscription.record.next("unsubscribed")).code == 2000


async def test_a_disconnect_by_the_server_closes_the_connection_for_good(
    server, wire, channel
):
    async with Visitor(server, wire, token=token(channel)) as visitor:
        await server.acall("disconnect", user=channel)

        assert (await visitor.record.next("disconnected")).code == 3503


async def test_a_client_of_the_demo_publishes_to_the_board(demo, wire, headers):
    async with Visitor(demo, wire, headers=headers) as visitor:
        board = await visitor.subscribe("board:main")
        draft = {"client_id": uuid.uuid4().hex, "text": "from another client"}
        await board.publish(wire.out(draft))
        [change] = await visitor.received(board, 1)

    assert change["event"] == "created"
    assert change["fields"]["author"] == "alice"
    assert change["fields"]["text"] == "from another client"


async def test_a_client_of_the_demo_gets_missed_changes_of_the_board(
    demo, wire, headers
):
    async with (
        Visitor(demo, wire, headers=headers) as away,
        Visitor(demo, wire, headers=headers) as writes,
    ):
        board = await away.subscribe("board:main")
        writer = await writes.subscribe("board:main")
        await away.client.disconnect()
        draft = {"client_id": uuid.uuid4().hex, "text": "meanwhile"}
        await writer.publish(wire.out(draft))
        await away.client.connect()
        again = await board.record.next("subscribed")
        [change] = await away.received(board, 1)

    assert again.recovered is True
    assert change["fields"]["text"] == "meanwhile"
