"""One topic as server-sent events, for pages with EventSource or htmx and no client."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User

from support.clients.stream_client import ORIGIN, begin, request
from support.waiting import settle, within
from tiderace.layers import get_channel_layer
from tiderace.runtime.drain import process_drain
from tiderace.topics import (
    AllowAny,
    History,
    IsAuthenticated,
    Latest,
    Topic,
    TopicsEndpoint,
    adisconnect,
    apublish,
    aunsubscribe,
    topic_group,
)
from tiderace.topics.declaration.topic import declared
from tiderace.topics.tokens import read_signed_name, signed_topic

pytestmark = pytest.mark.usefixtures("fresh_layer")


@pytest.fixture
def app():
    """An endpoint with topics for all visitors, for users who are logged in, and for none."""
    before = list(declared)

    class Prices(Topic):
        pattern = "prices"
        history = History(size=3, ttl=60)
        permission_classes = [AllowAny]

    class Newest(Topic):
        pattern = "newest"
        history = History(size=3, ttl=60)
        rewind = 1
        permission_classes = [AllowAny]

    class Gauge(Topic):
        pattern = "gauge"
        history = History(size=3, ttl=60)
        deliver = Latest(rate="100/s")
        permission_classes = [AllowAny]

    class Teams(Topic):
        pattern = "teams"
        history = History()
        permission_classes = [AllowAny]

        async def may_receive(self, user, tags):
            return tags.get("team", str(user.pk)) == str(user.pk)

    class News(Topic):
        pattern = "news"
        permission_classes = [AllowAny]

    class Members(Topic):
        pattern = "members"
        permission_classes = [IsAuthenticated]

    class Closed(Topic):
        pattern = "closed:<int:pk>"
        history = History()

    class Strict(Topic):
        pattern = "strict"
        permission_classes = [AllowAny]
        require_token = True

    class Inbox(Topic):
        pattern = "inbox"
        history = History()
        permission_classes = [AllowAny]

        async def can_read_history(self, user):
            return False

    yield TopicsEndpoint.as_asgi()
    for topic in list(declared):
        if topic not in before:
            declared.remove(topic)


def user(pk=1):
    return SimpleNamespace(
        pk=pk, is_authenticated=True, is_active=True, is_anonymous=False
    )


class Feed:
    """A page's event stream: ``async with Feed(app, topic) as feed``."""

    def __init__(self, app, topic, *, last=None, headers=(), scope=None, **query):
        more = () if last is None else ((b"last-event-id", last.encode()),)
        self.client = begin(
            app,
            "GET",
            "/connection/events",
            query=urlencode({"topic": topic, **query}),
            headers=(*headers, *more),
            **(scope or {}),
        )
        self._sent = 0
        self._blocks = []
        self._text = ""

    async def __aenter__(self):
        # Every stream begins with the time after which the browser reconnects.
        assert (await self.block())["retry"]
        return self

    async def __aexit__(self, *error):
        if not self.client.task.done():
            self.client.say("http.disconnect")
            await self.client.end()

    @property
    def headers(self):
        return dict(self.client.sent[0]["headers"])

    async def block(self):
        """Return the next block that is no comment, field by field."""
        while not self._blocks:
            self._sent += 1
            event = await within(self.client.until("http.response.body", self._sent))
            self._text += event["body"].decode()
            *blocks, self._text = self._text.split("\n\n")
            self._blocks += [each for each in blocks if each != ":"]
        block = {}
        for line in self._blocks.pop(0).split("\n"):
            name, _, value = line.partition(": ")
            block[name] = f"{block[name]}\n{value}" if name in block else value
        return block

    async def event(self):
        """Return the next block with data."""
        while "data" not in (block := await self.block()):
            pass
        return block

    async def ended(self):
        await self.client.end()
        assert self.client.sent[-1].get("more_body", False) is False


async def test_a_publication_is_an_event(app):
    async with Feed(app, "prices") as feed:
        await feed.block()
        await apublish("prices", {"eur": 1.5, "name": "größer"})

        event = await feed.event()

    assert event["data"] == '{"eur":1.5,"name":"größer"}'
    assert event["id"].endswith(":1")
    assert "event" not in event


async def test_html_is_sent_as_it_is_line_by_line(app):
    async with Feed(app, "prices") as feed:
        await feed.block()
        await apublish("prices", "<p>\r\none\rtwo\n\n</p>")

        assert (await feed.event())["data"] == "<p>\none\ntwo\n\n</p>"


async def test_no_publication_can_forge_an_event(app):
    async with Feed(app, "prices") as feed:
        await feed.block()
        await apublish(
            "prices", "a\r\r\nevent: reset\n\ndata: b", tags={"event": "x\ny"}
        )

        event = await feed.event()

    assert event["event"] == "xy"
    assert event["data"] == "a\n\nevent: reset\n\ndata: b"


async def test_a_tag_names_the_event(app):
    async with Feed(app, "prices") as feed:
        await feed.block()
        await apublish("prices", "<b>1</b>", tags={"event": "price"})

        assert (await feed.event())["event"] == "price"


async def test_no_tag_can_forge_a_reset(app):
    async with Feed(app, "prices") as feed:
        await feed.block()
        await apublish("prices", 1, tags={"event": "reset"})

        assert "event" not in await feed.event()


async def test_the_response_is_an_event_stream_that_no_proxy_buffers(app):
    async with Feed(app, "prices") as feed:
        assert feed.headers[b"content-type"] == b"text/event-stream"
        assert b"no-store" in feed.headers[b"cache-control"]
        assert feed.headers[b"x-accel-buffering"] == b"no"


async def test_the_position_is_sent_before_any_publication(app):
    await apublish("prices", 1)
    async with Feed(app, "prices") as feed:
        block = await feed.block()

    assert block.keys() == {"id"}
    assert block["id"].endswith(":1")


async def test_a_returning_browser_gets_what_it_missed(app):
    async with Feed(app, "prices") as feed:
        last = (await feed.block())["id"]
    await apublish("prices", 1)
    await apublish("prices", 2)

    async with Feed(app, "prices", last=last) as feed:
        events = [await feed.event() for _ in range(2)]
        await apublish("prices", 3)
        events.append(await feed.event())

    assert [each["data"] for each in events] == ["1", "2", "3"]
    assert [each["id"][-2:] for each in events] == [":1", ":2", ":3"]


async def test_a_topic_that_rewinds_begins_with_its_last_publications(app):
    for n in range(1, 4):
        await apublish("newest", n)

    async with Feed(app, "newest") as feed:
        events = [await feed.event()]
        await apublish("newest", 4)
        events.append(await feed.event())

    assert [each["data"] for each in events] == ["3", "4"]
    assert [each["id"][-2:] for each in events] == [":3", ":4"]


async def test_a_browser_that_cannot_recover_gets_the_last_ones_after_the_reset(app):
    async with Feed(app, "newest") as feed:
        last = (await feed.block())["id"]
    for n in range(1, 6):
        await apublish("newest", n)

    async with Feed(app, "newest", last=last) as feed:
        reset, event = await feed.event(), await feed.event()

    assert reset["event"] == "reset"
    assert event["data"] == "5"


async def test_a_feed_of_the_newest_values_skips_those_that_were_replaced(app):
    async with Feed(app, "gauge") as feed, Feed(app, "gauge") as other:
        await feed.block()
        await other.block()
        for n in range(1, 30):
            await apublish("gauge", n)
        seen = []
        while seen[-1:] != ["29"]:
            seen.append((await feed.event())["data"])
        while (last := await other.event())["data"] != "29":
            pass

    assert len(seen) < 29
    assert seen == sorted(seen, key=int)
    assert last["id"].endswith(":29")


async def test_a_feed_has_only_what_its_user_may_receive(app):
    await apublish("teams", "before", tags={"team": "2"})
    scope = {"user": user(1)}
    async with Feed(app, "teams", last="x:0", scope=scope) as feed:
        assert (await feed.event())["event"] == "reset"
        await apublish("teams", "other", tags={"team": "2"})
        await apublish("teams", "own", tags={"team": "1"})
        await apublish("teams", "all")
        events = [await feed.event(), await feed.event()]
    await apublish("teams", "other missed", tags={"team": "2"})
    await apublish("teams", "missed", tags={"team": "1"})

    async with Feed(app, "teams", last=events[1]["id"], scope=scope) as feed:
        missed = await feed.event()

    assert [each["data"] for each in events] == ["own", "all"]
    assert missed["data"] == "missed"


async def test_a_page_may_start_from_its_own_position(app):
    position = await apublish("prices", 1)
    await apublish("prices", 2)

    since = f"{position.epoch}:{position.offset}"
    async with Feed(app, "prices", since=since) as feed:
        assert (await feed.event())["data"] == "2"


async def test_the_last_event_id_overrides_the_position_of_the_page(app):
    first = await apublish("prices", 1)
    second = await apublish("prices", 2)
    await apublish("prices", 3)

    async with Feed(
        app,
        "prices",
        since=f"{first.epoch}:{first.offset}",
        last=f"{second.epoch}:{second.offset}",
    ) as feed:
        assert (await feed.event())["data"] == "3"


@pytest.mark.parametrize(
    "last", ["other:1", "nonsense", "e:-1", "e:99999999999999999999", "e:²", ":", "?:0"]
)
async def test_an_unrecoverable_position_gets_a_reset(app, last):
    await apublish("prices", 1)

    async with Feed(app, "prices", last=last) as feed:
        event = await feed.event()
        position = (await feed.block())["id"]

    assert event["event"] == "reset"
    assert position.endswith(":1")


async def test_a_browser_that_missed_more_than_is_kept_gets_a_reset(app):
    first = await apublish("prices", 1)
    for n in range(5):
        await apublish("prices", n)

    async with Feed(app, "prices", last=f"{first.epoch}:1") as feed:
        assert (await feed.event())["event"] == "reset"


async def test_a_topic_without_history_has_no_positions(app):
    async with Feed(app, "news") as feed:
        await apublish("news", 1)

        assert await feed.event() == {"data": "1"}


async def test_a_gap_ends_the_stream_so_that_the_browser_reconnects(app):
    async with Feed(app, "prices") as feed:
        await feed.block()

        get_channel_layer()._local.listeners.put(topic_group("prices"), None).start()

        await feed.ended()


# Who may


async def test_a_signed_name_allows_any_user(app):
    async with Feed(app, signed_topic("closed:1")) as feed:
        await feed.block()
        await apublish("closed:1", "hi")

        assert (await feed.event())["data"] == "hi"


@pytest.mark.parametrize(
    ("topic", "who", "status"),
    [
        ("closed:1", user(), 403),
        ("members", None, 403),
        ("strict", user(), 403),
        ("unknown", user(), 404),
        ("", None, 404),
        ("closed:1--a.0123456789012345678901234567890123456789", None, 404),
    ],
)
async def test_a_client_without_permission_or_signature_is_refused(
    app, topic, who, status
):
    answer = await request(
        app,
        "GET",
        "/connection/events",
        query=urlencode({"topic": topic}),
        **({} if who is None else {"user": who}),
    )

    assert answer.status == status


async def test_an_address_with_too_many_parameters_is_refused(app):
    answer = await request(app, "GET", "/connection/events", query="a=1&" * 1001)

    assert answer.status == 400


async def test_a_name_signed_for_one_user_is_refused_for_another(app):
    signed = signed_topic("closed:1", user=user(1))

    async with Feed(app, signed, scope={"user": user(1)}):
        pass
    answer = await request(
        app, "GET", "/connection/events", query=f"topic={signed}", user=user(2)
    )
    assert answer.status == 404


async def test_a_signed_name_expires(app, monkeypatch):
    signed = signed_topic("closed:1", ttl=60)
    monkeypatch.setattr("time.time", lambda: 4e9)

    answer = await request(app, "GET", "/connection/events", query=f"topic={signed}")

    assert answer.status == 403
    assert b"expired" in answer.body


async def test_a_stream_ends_with_its_signed_name(app, monkeypatch):
    signed = signed_topic("closed:1", ttl=60)
    end = read_signed_name(signed, user=None).expires_at

    async with Feed(app, signed) as feed:
        await apublish("closed:1", "before")
        assert (await feed.event())["data"] == "before"
    monkeypatch.setattr("time.time", lambda: end - 0.5)
    async with Feed(app, signed) as feed:
        await feed.ended()


async def test_the_response_begins_when_the_stream_has_subscribed(app, monkeypatch):
    layer = get_channel_layer()
    reachable = asyncio.Event()

    async def slow_subscribe(self, *args):
        await reachable.wait()
        return await subscribe(self, *args)

    subscribe = type(layer).stream_subscribe
    monkeypatch.setattr(type(layer), "stream_subscribe", slow_subscribe)
    feed = Feed(app, "news")
    await settle()
    assert feed.client.sent == []
    reachable.set()
    async with feed:
        await apublish("news", 1)

        assert (await feed.event())["data"] == "1"


async def test_permissions_check_the_user_of_the_session(app):
    async with Feed(app, "members", scope={"user": user()}) as feed:
        await apublish("members", 1)

        assert (await feed.event())["data"] == "1"


async def test_another_sites_page_is_refused(app):
    answer = await request(
        app,
        "GET",
        "/connection/events",
        query="topic=prices",
        headers=((b"origin", b"https://evil.example"),),
    )

    assert answer.status == 403


async def test_an_allowed_page_of_another_origin_may_read_it(app):
    async with Feed(app, "prices", headers=(ORIGIN,)) as feed:
        assert feed.headers[b"access-control-allow-origin"] == b"http://testserver"


async def test_a_host_that_resolves_to_the_site_is_refused(app, caplog):
    # DNS rebinding: a GET of the same origin has no Origin header.
    headers = ((b"host", b"evil.test"), (b"sec-fetch-site", b"same-origin"))

    answer = await request(
        app, "GET", "/connection/events", query="topic=prices", headers=headers
    )

    assert answer.status == 400
    assert "its host 'evil.test' is not one of this site" in caplog.text


async def test_other_methods_than_get_are_refused(app):
    assert (await request(app, "POST", "/connection/events")).status == 405


# How it ends


async def test_a_client_that_leaves_is_forgotten(app):
    async with Feed(app, "prices"):
        assert topic_group("prices") in get_channel_layer()._local.listeners

    assert topic_group("prices") not in get_channel_layer()._local.listeners


async def test_a_disconnect_of_the_user_ends_the_stream(app):
    async with Feed(app, "members", scope={"user": user(7)}) as feed:
        await settle()
        await adisconnect(7)

        await feed.ended()


async def test_an_unsubscribe_by_the_server_ends_the_stream(app):
    async with Feed(app, "members", scope={"user": user(7)}) as feed:
        await settle()
        await aunsubscribe(7, "prices")
        await aunsubscribe(7, "members")

        await feed.ended()


async def test_a_drain_ends_the_stream_with_a_retry_time(app):
    async with Feed(app, "prices") as feed:
        await feed.block()
        process_drain.begin(0.0, 5.0)
        try:
            block = await feed.block()
            await feed.ended()
        finally:
            process_drain.reset()

    assert 100 <= int(block["retry"]) <= 1000


async def test_a_browser_gets_a_retry_time_during_a_drain(app):
    process_drain.begin(0.0, 0.0)
    try:
        answer = await request(app, "GET", "/connection/events", query="topic=prices")
    finally:
        process_drain.reset()

    assert answer.status == 200
    assert answer.body.startswith(b"retry: ")


async def test_connections_beyond_the_rate_get_a_retry_time(app, settings):
    settings.TIDERACE = {"TOPICS": {"CONNECTS": "1/h"}}
    async with Feed(app, "prices"):
        answer = await request(app, "GET", "/connection/events", query="topic=prices")

    assert answer.status == 200
    assert answer.body.startswith(b"retry: ")


async def test_comments_keep_an_idle_stream_alive(app, settings):
    settings.TIDERACE = {"TOPICS": {"PING": 0.01}}
    async with Feed(app, "prices") as feed:
        bodies = []
        while b":\n\n" not in bodies:
            feed._sent += 1
            event = await feed.client.until("http.response.body", feed._sent)
            bodies.append(event["body"])


async def test_a_client_that_does_not_read_is_given_up(app, settings):
    settings.TIDERACE = {"OUTBOX_LIMIT": 2000}
    stalled = asyncio.Event()

    async def stalling(scope, receive, send):
        async def slow_send(event):
            if stalled.is_set() and event.get("more_body"):
                await asyncio.Event().wait()
            await send(event)

        await app(scope, receive, slow_send)

    async with Feed(stalling, "prices") as feed:
        await feed.block()
        stalled.set()
        for n in range(100):
            await apublish("prices", "x" * 100 + str(n))

        await feed.ended()


@pytest.mark.django_db(transaction=True)
async def test_the_stream_of_a_deactivated_user_ends(app):
    somebody = await User.objects.acreate(username="ada")
    async with Feed(app, "members", scope={"user": somebody}) as feed:
        await settle()
        somebody.is_active = False
        await somebody.asave()

        await feed.ended()


async def test_a_page_continues_after_the_event_of_a_history_it_may_not_read(app):
    async with Feed(app, "inbox") as feed:
        await feed.block()
        await apublish("inbox", "received")
        received = await feed.event()
    await apublish("inbox", "missed")

    async with Feed(app, "inbox", last=received["id"]) as feed:
        event = await feed.event()

    assert event["data"] == "missed"


async def test_a_page_reads_no_history_from_a_position_that_it_made_up(app):
    place = await apublish("inbox", "before")

    async with Feed(app, "inbox", since=f"{place.epoch}:0") as feed:
        event = await feed.event()

    assert event["event"] == "reset"
