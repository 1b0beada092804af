"""``topic_opened`` and ``topic_closed``: once for a topic over all processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal

import pytest
from django.core.exceptions import ImproperlyConfigured
from websockets.asyncio.client import connect

from support.clients.stream_client import begin
from support.clients.wire_client import WireClient
from support.servers.asgi_process import AsgiProcess
from support.waiting import until
from tiderace.exceptions import LayerUnavailable
from tiderace.layers import get_channel_layer
from tiderace.presence.store import Member
from tiderace.topics import AllowAny, Topic, TopicsEndpoint
from tiderace.topics.declaration.topic import UnknownTopic, declared
from tiderace.topics.hub import close
from tiderace.topics.hub import current as current_hub
from tiderace.topics.names import occupied_group

OTHER = Member("another process", "server")


@pytest.fixture
async def calls(own_topics):
    """The calls of the hooks of the topics ``poll:...``, which close at once."""
    made = []

    class Poll(Topic):
        pattern = "poll:<slug:name>"
        permission_classes = [AllowAny]
        closing_grace = 0

        async def topic_opened(self):
            made.append(("opened", self.kwargs["name"]))

        def topic_closed(self):
            made.append(("closed", self.kwargs["name"]))

    yield made
    await close()


@pytest.fixture
def app(calls):
    return TopicsEndpoint.as_asgi()


@pytest.fixture
def memory(settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }


async def idle():
    """Wait until the tracker has no work; what is due later is not waited for."""
    await current_hub().trackers.get("default").wait_idle()


async def test_the_first_subscriber_opens_a_topic_and_the_last_one_closes_it(
    engine,
    app,
    calls,
):
    async with WireClient(app) as one, WireClient(app) as other:
        await one.subscribe("poll:a")
        await until(lambda: calls)
        await other.subscribe("poll:a")
        await one.done("unsubscribe", channel="poll:a")
        await idle()
        assert calls == [("opened", "a")]

        await other.done("unsubscribe", channel="poll:a")
        await until(lambda: len(calls) == 2)
        await other.subscribe("poll:a")
        await until(lambda: len(calls) == 3)

    await until(lambda: len(calls) == 4)
    assert calls == [("opened", "a"), ("closed", "a")] * 2


async def test_a_topic_that_another_process_serves_is_open_already(
    elsewhere,
    app,
    calls,
):
    store, group = elsewhere.presence, occupied_group("poll:a")
    [event] = await store.add(group, OTHER, per_user=True, grace=0)
    await store.confirm(event)

    async with WireClient(app) as client:
        await client.subscribe("poll:a")
        # The second topic shows that the hooks of the first would have been called.
        await client.subscribe("poll:b")
        await until(lambda: calls)
        await idle()
        assert calls == [("opened", "b")]
    await until(lambda: ("closed", "b") in calls)
    await idle()
    assert calls == [("opened", "b"), ("closed", "b")]

    for event in await store.remove(group, OTHER.client):
        assert (event.kind, bool(event.claim)) == ("leave", True)


async def test_a_subscriber_that_returns_within_the_grace_keeps_the_topic_open(
    memory, app, calls
):
    declared.resolve("poll:a").__class__.closing_grace = 60
    async with WireClient(app) as client:
        await client.subscribe("poll:a")
        await until(lambda: calls)
    async with WireClient(app) as client:
        await client.subscribe("poll:a")
        await idle()

    assert calls == [("opened", "a")]


async def test_every_topic_of_a_pattern_is_opened_for_itself(memory, app, calls):
    async with WireClient(app) as client:
        await client.subscribe("poll:a")
        await client.subscribe("poll:b")
        await until(lambda: len(calls) == 2)
    await until(lambda: len(calls) == 4)

    assert sorted(calls[:2]) == [("opened", "a"), ("opened", "b")]
    assert sorted(calls[2:]) == [("closed", "a"), ("closed", "b")]


async def test_a_refused_subscription_opens_nothing(memory, app, calls):
    declared.resolve("poll:a").__class__.permission_classes = []
    async with WireClient(app) as client:
        assert await client.refused("subscribe", channel="poll:a") == 103
    declared.resolve("poll:a").__class__.permission_classes = [AllowAny]
    async with WireClient(app) as client:
        await client.subscribe("poll:b")
        await until(lambda: calls)
        await idle()

    assert calls[0] == ("opened", "b")
    assert ("opened", "a") not in calls


async def test_a_page_with_server_sent_events_is_a_subscriber(memory, app, calls):
    page = begin(app, "GET", "/connection/events", query="topic=poll:a")
    await until(lambda: calls == [("opened", "a")])
    page.say("http.disconnect")
    await page.end()
    await until(lambda: calls == [("opened", "a"), ("closed", "a")])


async def test_while_the_broker_is_away_a_topic_is_opened_later(
    memory, app, calls, monkeypatch
):
    store = get_channel_layer().presence
    add, tries = store.add, []

    async def fail_once(*args, **options):
        tries.append(args)
        if len(tries) == 1:
            raise LayerUnavailable("the broker is away")
        return await add(*args, **options)

    monkeypatch.setattr(store, "add", fail_once)
    monkeypatch.setattr("tiderace.topics.trackers._RETRY_DELAY", 0.01)
    async with WireClient(app) as client:
        await client.subscribe("poll:a")
        await until(lambda: calls)

    assert calls[0] == ("opened", "a")


async def test_a_hook_that_raises_is_logged_and_the_topic_is_closed_later(
    memory,
    own_topics,
    caplog,
):
    calls = []

    class Broken(Topic):
        pattern = "broken"
        permission_classes = [AllowAny]
        closing_grace = 0

        async def topic_opened(self):
            raise ValueError("the upstream is away")

        async def topic_closed(self):
            calls.append("closed")

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("broken")
        await until(lambda: "the upstream is away" in caplog.text)
    await until(lambda: calls)
    await close()


async def test_clients_cannot_name_the_presence_of_an_open_topic(memory, own_topics):
    class Any(Topic):
        pattern = "<path:name>"
        permission_classes = [AllowAny]

    assert declared.resolve("anything").topic == "anything"
    with pytest.raises(UnknownTopic):
        declared.resolve(occupied_group("anything"))


def test_a_hook_with_an_argument_is_refused_where_the_class_is_defined():
    def topic_opened(self, user): ...

    with pytest.raises(ImproperlyConfigured, match=r"def topic_opened\(self\)"):
        type("Poll", (Topic,), {"topic_opened": topic_opened, "__module__": __name__})


# A process that is killed


@pytest.mark.servers
@pytest.mark.timeout(120)
@pytest.mark.parametrize("layer", ["redis", "sqlite", "postgresql"])
async def test_a_living_process_closes_the_topics_of_one_that_was_killed(
    layer, request, tmp_path, prefix
):
    log = tmp_path / "calls"
    options = {"prefix": prefix}
    if layer == "redis":
        options["hosts"] = [request.getfixturevalue("redis_url")]
    elif layer == "sqlite":
        options["path"] = str(tmp_path / "layer.sqlite3")
    else:
        server = request.getfixturevalue("shared_postgresql")
        request.getfixturevalue("postgresql_alias")
        options["dsn"] = server.database()
    env = {"OCCUPANCY_SITE": json.dumps({"layer": options, "log": str(log)})}
    application = "sites.occupancy_site:application"

    def calls():
        return log.read_text().splitlines() if log.exists() else []

    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(AsgiProcess("uvicorn", application, env=env))
            for _ in range(2)
        ]
        doomed, living = servers
        async with connect(f"{living.ws}/connection/websocket") as witness:
            await join(witness, "poll:other")
            await until(lambda: len(calls()) == 1)
            async with connect(f"{doomed.ws}/connection/websocket") as client:
                await join(client, "poll:tide")
                await until(lambda: len(calls()) == 2)
                os.kill(doomed.process.pid, signal.SIGKILL)
                with contextlib.suppress(Exception):
                    await client.recv()
            await until(lambda: calls()[-1].startswith("closed"), timeout=60)
            made = [line.split() for line in calls()]

    # A hook that ran when its process was killed, before that was stored, runs again.
    changes = [change for change, _ in itertools.groupby(each[:2] for each in made)]
    assert changes == [
        ["opened", "poll:other"],
        ["opened", "poll:tide"],
        ["closed", "poll:tide"],
    ]
    pids = [int(pid) for _, _, pid in made]
    assert pids[:2] == [living.process.pid, doomed.process.pid]
    assert set(pids[2:]) == {living.process.pid}


async def join(socket, topic):
    """Connect and subscribe."""
    commands = [{"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": topic}}]
    await socket.send("\n".join(map(json.dumps, commands)))
    while '"subscribe"' not in await socket.recv():
        pass
