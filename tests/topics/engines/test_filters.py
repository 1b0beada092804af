"""Topics whose subscribers get a part of the publications, by tags."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from support.clients.wire_client import WireClient
from tiderace.topics import AllowAny, History, Latest, Topic, apublish

RED = {"key": "colour", "cmp": "eq", "val": "red"}


@pytest.fixture(autouse=True)
def topics(app):
    class Wall(Topic):
        pattern = "wall"
        history = History(size=20, ttl=60)
        permission_classes = [AllowAny]

    class Passing(Topic):
        pattern = "passing"
        permission_classes = [AllowAny]

    class Files(Topic):
        """Publications that only members of their team may see."""

        pattern = "files"
        history = History(size=20, ttl=60)
        rewind = 3
        permission_classes = [AllowAny]

        async def may_receive(self, user, tags):
            asked.append((user.pk, dict(tags)))
            return tags.get("team") in (None, user.team)

    asked = []
    return asked


def member(pk, team):
    return SimpleNamespace(
        pk=pk, team=team, is_authenticated=True, is_active=True, is_anonymous=False
    )


async def paint(*colours, topic="wall"):
    for number, colour in enumerate(colours):
        await apublish(topic, f"{colour}{number}", tags={"colour": colour})


async def file(*teams):
    for number, team in enumerate(teams):
        await apublish(
            "files", f"{team}{number}", tags={"team": team} if team else None
        )


def data(result):
    return [each["data"] for each in result.get("publications", ())]


@pytest.mark.parametrize("topic", ["wall", "passing"])
async def test_a_client_gets_what_its_filter_lets_through(app, topic):
    async with WireClient(app) as some, WireClient(app) as every:
        await some.subscribe(topic, tf=RED)
        await every.subscribe(topic)
        await paint("red", "blue", "red", topic=topic)
        await apublish(topic, "no colour")
        await paint("red", topic=topic)

        assert await some.publications(3) == ["red0", "red2", "red0"]
        assert len(await every.publications(5)) == 5
        assert await some.quiet()


async def test_a_recovery_is_filtered_and_complete(app):
    async with WireClient(app) as client:
        first = await client.subscribe("wall", tf=RED)
        await client.done("unsubscribe", channel="wall")
        await paint("red", "blue", "blue", "red", "blue")

        again = await client.subscribe(
            "wall", tf=RED, recover=True, epoch=first["epoch"], offset=0
        )
        await paint("blue", "red")

        assert again["recovered"] is True
        assert data(again) == ["red0", "red3"]
        assert await client.publications(1) == ["red1"]


async def test_a_recovery_without_a_match_moves_the_position_to_the_end(app):
    async with WireClient(app) as client:
        first = await client.subscribe("wall", tf=RED)
        await client.done("unsubscribe", channel="wall")
        await paint("blue", "blue")

        again = await client.subscribe(
            "wall", tf=RED, recover=True, epoch=first["epoch"], offset=0
        )

    assert again["recovered"] is True
    assert again["offset"] == 2


async def test_the_history_is_filtered_as_the_subscription_is(app):
    async with WireClient(app) as client:
        await client.subscribe("wall", tf=RED)
        await paint("red", "blue", "red")

        result = await client.done("history", channel="wall", limit=-1)

    assert data(result) == ["red0", "red2"]
    assert result["offset"] == 3


@pytest.mark.parametrize(
    "node", [{"key": "k"}, {"op": "xor"}, {"key": "k", "cmp": "gt", "val": "many"}]
)
async def test_a_malformed_filter_is_a_bad_request(app, node):
    async with WireClient(app) as client:
        assert await client.refused("subscribe", channel="wall", tf=node) == 107


async def test_a_topic_of_the_newest_values_takes_no_filter(app):
    class Gauge(Topic):
        pattern = "gauge"
        deliver = Latest()
        permission_classes = [AllowAny]

    async with WireClient(app) as client:
        assert await client.refused("subscribe", channel="gauge", tf=RED) == 108


async def test_users_get_what_the_topic_lets_them_receive(app, topics):
    async with (
        WireClient(app, user=member(1, "blue")) as blue,
        WireClient(app, user=member(2, "red")) as red,
    ):
        await blue.subscribe("files")
        await red.subscribe("files")
        await file("red", "blue", "", "red", "blue")

        assert await blue.publications(3) == ["blue1", "2", "blue4"]
        assert await red.publications(3) == ["red0", "2", "red3"]
        assert await blue.quiet()
        assert await red.quiet()
    once = [
        (pk, tags) for pk in (1, 2) for tags in ({"team": "red"}, {"team": "blue"}, {})
    ]
    assert sorted(topics, key=str) == sorted(once, key=str)


async def test_a_history_and_its_end_have_only_what_the_user_may_receive(app):
    async with WireClient(app, user=member(1, "blue")) as client:
        await file("red", "blue", "red", "blue", "red")

        first = await client.subscribe("files")
        history = await client.done("history", channel="files", limit=-1)
        await client.done("unsubscribe", channel="files")
        again = await client.subscribe(
            "files", recover=True, epoch=first["epoch"], offset=2
        )

    assert data(first) == ["blue3"]
    assert data(history) == ["blue1", "blue3"]
    assert data(again) == ["blue3"]


async def test_a_client_without_a_subscription_reads_what_its_user_may_receive(app):
    class Open(Topic):
        pattern = "open"
        history = History(size=20, ttl=60)
        subscribers_only = False
        permission_classes = [AllowAny]

        def may_receive(self, user, tags):
            return "secret" not in tags

    await apublish("open", 1)
    await apublish("open", 2, tags={"secret": ""})

    async with WireClient(app) as client:
        result = await client.done("history", channel="open", limit=-1)

    assert data(result) == [1]


async def test_a_publication_has_to_pass_may_receive_and_the_filter_of_the_client(app):
    async with WireClient(app, user=member(1, "blue")) as client:
        await client.subscribe("files", tf={"key": "team", "cmp": "ex"})
        await file("red", "", "blue")

        assert await client.publications(1) == ["blue2"]


async def test_a_hook_that_fails_makes_the_client_subscribe_again(app):
    class Broken(Topic):
        pattern = "broken"
        history = History()
        permission_classes = [AllowAny]

        async def may_receive(self, user, tags):
            raise RuntimeError("a bug of the application")

    async with WireClient(app) as client:
        await client.subscribe("broken")
        await apublish("broken", 1)

        push = await client.push("unsubscribe")

    assert push["unsubscribe"]["code"] == 2500


async def test_tags_that_are_no_strings_are_refused_where_they_are_published(app):
    async with WireClient(app) as all_, WireClient(app) as some:
        await all_.subscribe("wall", tf={"key": "level", "cmp": "ex"})
        await some.subscribe("wall", tf={"key": "level", "cmp": "gt", "val": "3"})

        with pytest.raises(TypeError, match="'level' of 'wall' is 5, not a string"):
            await apublish("wall", "number", tags={"level": 5})
        await apublish("wall", "text", tags={"level": "5"})

        # One that no filter can read would be lost for all who have a filter.
        assert (await all_.push())["pub"]["data"] == "text"
        assert (await some.push())["pub"]["data"] == "text"
