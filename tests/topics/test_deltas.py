"""Topics with ``delta = True``: each publication as the difference from the one before."""

from __future__ import annotations

import json
import random

import pytest
from django.core.exceptions import ImproperlyConfigured

from support.clients.wire_client import WireClient
from support.topics.fossil import apply
from support.waiting import PATIENCE
from tiderace.protocol import fossil
from tiderace.protocol.messages import SubscribeRequest
from tiderace.testing import AsyncTopicsClient
from tiderace.topics import AllowAny, History, Latest, Topic, TopicsEndpoint, apublish
from tiderace.topics.fanout import deltas
from tiderace.topics.growing.options import Growing

PAD = "größer ☃ 🌊 " * 30


@pytest.fixture(autouse=True)
def forgotten():
    """No differences that were made before."""
    deltas._difference.cache_clear()


@pytest.fixture
def inner(own_topics):
    class Match(Topic):
        pattern = "match:<slug:name>"
        history = History(size=100, ttl=60)
        permission_classes = [AllowAny]
        delta = True

    class Live(Topic):
        pattern = "live"
        permission_classes = [AllowAny]
        delta = True

    class Plain(Topic):
        pattern = "plain"
        history = History()
        permission_classes = [AllowAny]

    class Frames(Topic):
        pattern = "frames"
        permission_classes = [AllowAny]
        message = bytes
        delta = True

    return TopicsEndpoint.as_asgi()


@pytest.fixture
def app(engine, inner):
    """The endpoint of these topics, over each engine."""
    return inner


@pytest.fixture
def memory(settings, inner):
    """The endpoint, in memory."""
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }
    return inner


class Reader:
    """Undoes the differences of a topic, as an SDK does."""

    def __init__(self):
        self.base = None
        self.full = self.deltas = 0

    def read(self, pub):
        """Return the data of a publication."""
        text = pub["data"].encode()
        if pub.get("delta"):
            self.deltas += 1
            text = apply(self.base, text)
        else:
            self.full += 1
        self.base = text
        return json.loads(text)


async def read(client, reader, count):
    return [reader.read((await client.push("pub"))["pub"]) for _ in range(count)]


def state(number):
    return {"number": number, "pad": PAD}


async def test_publications_after_the_first_are_differences(app):
    async with WireClient(app) as client:
        result = await client.subscribe("match:a", delta="fossil")
        for number in range(4):
            await apublish("match:a", state(number))
        reader = Reader()

        assert result["delta"] is True
        assert await read(client, reader, 4) == [state(n) for n in range(4)]
        assert (reader.full, reader.deltas) == (1, 3)


async def test_recovered_publications_are_differences_after_the_first(app):
    async with WireClient(app) as client:
        given = await client.subscribe("match:a", delta="fossil")
    for number in range(3):
        await apublish("match:a", state(number))

    async with WireClient(app) as client:
        result = await client.subscribe(
            "match:a",
            delta="fossil",
            recover=True,
            epoch=given["epoch"],
            offset=given.get("offset", 0),
        )
        await apublish("match:a", state(3))
        reader = Reader()

        found = [reader.read(each) for each in result["publications"]]
        found += await read(client, reader, 1)

    assert found == [state(n) for n in range(4)]
    assert (reader.full, reader.deltas) == (1, 3)


async def test_a_client_that_does_not_ask_gets_publications_as_they_are(memory):
    async with WireClient(memory) as client:
        result = await client.subscribe("match:a")
        await apublish("match:a", state(1))
        await apublish("match:a", state(2))

        assert "delta" not in result
        assert await client.publications(2) == [state(1), state(2)]


@pytest.mark.parametrize(
    ("topic", "kind"), [("plain", "fossil"), ("match:a", "another")]
)
async def test_a_delta_that_is_not_served_is_not_granted(memory, topic, kind):
    async with WireClient(memory) as client:
        result = await client.subscribe(topic, delta=kind)
        await apublish(topic, state(1))
        await apublish(topic, state(2))

        assert "delta" not in result
        assert await client.publications(2) == [state(1), state(2)]


async def test_a_topic_without_history_has_differences(memory):
    async with WireClient(memory) as client:
        await client.subscribe("live", delta="fossil")
        for number in range(3):
            await apublish("live", state(number))
        reader = Reader()

        assert await read(client, reader, 3) == [state(n) for n in range(3)]
        assert (reader.full, reader.deltas) == (1, 2)


async def test_a_publication_that_is_shorter_than_its_difference_is_sent_whole(memory):
    async with WireClient(memory) as client:
        await client.subscribe("match:a", delta="fossil")
        for data in (state(1), "x", state(2)):
            await apublish("match:a", data)
        reader = Reader()

        assert await read(client, reader, 3) == [state(1), "x", state(2)]
        assert reader.full == 3


class Device:
    """A client with Protobuf that asks for differences."""

    def __init__(self, app, topic):
        self._client = AsyncTopicsClient(application=app, protobuf=True)
        self._topic = topic
        self._base = b""
        self.deltas = 0

    async def __aenter__(self):
        await self._client.connect()
        self._connection = self._client._connected()
        request = SubscribeRequest(channel=self._topic, delta="fossil")
        result = await self._connection.request("subscribe", request, "subscribe")
        assert result.delta
        return self

    async def __aexit__(self, *error):
        await self._client.disconnect()

    async def read(self):
        pub = (await self._connection.take("pub", self._topic, PATIENCE)).pub
        data = bytes(pub.data)
        self._base = apply(self._base, data) if pub.delta else data
        self.deltas += pub.delta
        return self._base


async def test_clients_with_json_and_protobuf_get_the_same(memory):
    async with WireClient(memory) as page, Device(memory, "match:a") as device:
        await page.subscribe("match:a", delta="fossil")
        for number in range(3):
            await apublish("match:a", state(number))
        expected = [state(number) for number in range(3)]

        assert await read(page, Reader(), 3) == expected
        assert [json.loads(await device.read()) for _ in expected] == expected
        assert device.deltas == 2


async def test_bytes_have_differences(memory):
    async with Device(memory, "frames") as device:
        frames = [bytes([number]) + bytes(range(256)) * 4 for number in range(3)]
        for frame in frames:
            await apublish("frames", frame)

        assert [await device.read() for _ in frames] == frames
        assert device.deltas == 2


async def test_a_difference_is_made_once_for_all_subscribers(memory, monkeypatch):
    made = []
    delta = fossil.delta

    def counted(*args, **options):
        made.append(args)
        return delta(*args, **options)

    async with WireClient(memory) as one, WireClient(memory) as other:
        await one.subscribe("match:a", delta="fossil")
        await other.subscribe("match:a", delta="fossil")
        await apublish("match:a", state(1))
        monkeypatch.setattr(fossil, "delta", counted)
        await apublish("match:a", state(2))

        for client in (one, other):
            assert await read(client, Reader(), 1) == [state(1)]
    assert len(made) == 1


async def test_publications_that_several_clients_missed_are_compared_once(
    memory, monkeypatch
):
    async with WireClient(memory) as client:
        given = await client.subscribe("match:a", delta="fossil")
    for number in range(4):
        await apublish("match:a", state(number))
    since = {"epoch": given["epoch"], "offset": given.get("offset", 0)}
    made = []
    delta = fossil.delta

    def counted(*args, **options):
        made.append(args)
        return delta(*args, **options)

    monkeypatch.setattr(fossil, "delta", counted)

    for _ in range(3):
        async with WireClient(memory) as client:
            result = await client.subscribe(
                "match:a", delta="fossil", recover=True, **since
            )
            reader = Reader()
            found = [reader.read(each) for each in result["publications"]]
            assert found == [state(n) for n in range(4)]
    assert len(made) == 3


async def test_a_stream_of_match_events_takes_a_fifth_of_the_bytes(memory):
    chance = random.Random(7)
    match = {
        "clock": "00:00",
        "score": [0, 0],
        "stats": {f"statistic {number}": [0, 0] for number in range(10)},
        "players": [{"name": f"Spieler Nr. {n}", "rating": 6.0} for n in range(11)],
        "events": [],
    }
    sizes = {"whole": 0, "deltas": 0}
    async with WireClient(memory) as whole, WireClient(memory) as deltas:
        await whole.subscribe("match:a")
        await deltas.subscribe("match:a", delta="fossil")
        for second in range(60):
            match["clock"] = f"{second // 60:02}:{second % 60:02}"
            match["stats"][f"statistic {chance.randrange(10)}"][0] += 1
            match["players"][chance.randrange(11)]["rating"] += 0.5
            if not second % 5:
                match["events"].append({"kind": "corner", "second": second})
            await apublish("match:a", match)
        for name, client in (("whole", whole), ("deltas", deltas)):
            for _ in range(60):
                sizes[name] += len(json.dumps(await client.push("pub")))

    assert sizes["deltas"] <= 0.2 * sizes["whole"]


@pytest.mark.parametrize(
    ("option", "value"), [("deliver", Latest()), ("growing", Growing())]
)
def test_an_option_that_skips_publications_is_refused_where_the_class_is_defined(
    option, value
):
    attributes = {
        "history": History(),
        "delta": True,
        option: value,
        "__module__": __name__,
    }
    with pytest.raises(ImproperlyConfigured, match=f"has {option} and delta = True"):
        type("Match", (Topic,), attributes)
