"""The relay: from rows to streams."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.utils import timezone

from support.clock import FakeClock
from support.outbox import messages_of
from support.waiting import until
from tiderace import metrics
from tiderace.exceptions import LayerUnavailable, MessageTooLarge
from tiderace.outbox.models import WaitingPublication
from tiderace.outbox.process import process_relays
from tiderace.outbox.publisher import _pause_after
from tiderace.outbox.relay import Relay
from tiderace.topics import AllowAny, Refuse, Topic, publish
from tiderace.topics.declaration.topic import declared
from tiderace.topics.names import topic_group
from tiderace.topics.streams import layer_of


def threaded(function):
    """Let async tests call a function that queries the database.

    It runs in another thread, whose connections the fixture cannot close.
    """

    def run(*arguments, **options):
        try:
            return function(*arguments, **options)
        finally:
            for each in connections.all(initialized_only=True):
                if each.alias != "default":
                    each.close()

    return sync_to_async(run)


@threaded
def commit(database, *numbers, topic="board:a"):
    with transaction.atomic(database):
        for number in numbers:
            publish(topic, number, using=database)


@threaded
def messages(name):
    return messages_of(name)


async def read_position():
    """Return the end of the topic's stream."""
    topic = declared.resolve("board:a")
    position, _ = await layer_of(topic).stream_read(
        topic_group("board:a"), keep=topic.keep()
    )
    return position


@threaded
def rows(database, **filters):
    return list(WaitingPublication.objects.using(database).filter(**filters))


@contextlib.asynccontextmanager
async def relaying(database, *, poll=0.02, **options):
    """A relay at work."""
    relay = Relay(database, poll=poll, **options)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_relayed(database, **filters):
    filters = {"failed": None, **filters}

    async def done():
        return not await rows(database, **filters)

    await until(done)


async def test_rows_are_published_in_order_and_deleted(database):
    before = metrics.OUTBOX_RELAYED.value
    await commit(database, *range(700))

    async with relaying(database):
        await until_relayed(database)

    assert await messages("a") == list(range(700))
    assert metrics.OUTBOX_RELAYED.value == before + 700


@pytest.fixture
def layer_clock(monkeypatch):
    """The clock of the layer."""
    clock = FakeClock()
    monkeypatch.setattr(layer_of(declared.resolve("board:a")), "_clock", clock)
    return clock


async def test_rows_that_were_published_but_not_deleted_are_published_once_for_a_week(
    database, layer_clock
):
    await commit(database, 1, 2)
    (first, *_) = await rows(database)
    before = [each.created for each in await rows(database)]

    async with relaying(database):
        await until_relayed(database)

    @threaded
    def restore():
        WaitingPublication.objects.using(database).bulk_create(
            [
                WaitingPublication(
                    pk=first.pk + at, topic="board:a", data=str(at + 1), created=moment
                )
                for at, moment in enumerate(before)
            ]
        )

    await restore()
    layer_clock.advance(7 * 86_400 - 1)
    await commit(database, 3)
    async with relaying(database):
        await until_relayed(database)

    assert await messages("a") == [3]


async def test_the_key_of_a_deleted_row_ends_after_five_minutes(
    sqlite, layer_clock, monkeypatch
):
    monkeypatch.setattr("tiderace.outbox.publisher._EXPIRING", 0.0)
    layer = layer_of(declared.resolve("board:a"))
    expire_keys, expired = layer.stream_expire_keys, []

    async def stream_expire_keys(group, keys):
        await expire_keys(group, keys)
        expired.extend((group, key) for key in keys)

    monkeypatch.setattr(layer, "stream_expire_keys", stream_expire_keys)
    await commit(sqlite, 1, 2)

    async with relaying(sqlite):
        await until(lambda: len(expired) == 2)

    layer_clock.advance(299)
    assert await layer.stream_find_published(*expired[0]) is not None
    layer_clock.advance(2)
    assert await layer.stream_find_published(*expired[0]) is None


async def test_a_key_of_the_application_is_kept_for_five_minutes(sqlite, layer_clock):
    @threaded
    def keyed():
        with transaction.atomic(sqlite):
            publish("board:a", 1, key="daily", using=sqlite)

    for _ in range(2):
        await keyed()
        async with relaying(sqlite):
            await until_relayed(sqlite)
        layer_clock.advance(301)
    await keyed()

    before = metrics.OUTBOX_RELAYED.value
    async with relaying(sqlite):
        await until_relayed(sqlite)

    assert metrics.OUTBOX_RELAYED.value == before + 1
    assert (await read_position()).offset == 3


async def test_a_key_of_the_application_publishes_two_rows_once(database):
    @threaded
    def twice():
        for _ in range(2):
            with transaction.atomic(database):
                publish("board:a", 1, key="order-7", using=database)

    await twice()
    async with relaying(database):
        await until_relayed(database)

    assert await messages("a") == [1]


async def test_a_row_with_a_lower_id_that_commits_later_is_published(postgresql):
    written, commit_now = threading.Event(), threading.Event()

    def late():
        try:
            with transaction.atomic(postgresql):
                publish("board:a", "early id", using=postgresql)
                written.set()
                commit_now.wait(10)
        finally:
            connections[postgresql].close()

    thread = threading.Thread(target=late)
    thread.start()
    await asyncio.to_thread(written.wait, 10)
    async with relaying(postgresql):
        await commit(postgresql, "late id")
        await until_relayed(postgresql)
        assert await messages("a") == ["late id"]

        commit_now.set()
        await asyncio.to_thread(thread.join)
        await until_relayed(postgresql)

    assert await messages("a") == ["late id", "early id"]


async def test_a_row_of_another_program_is_published_by_its_topic_and_data(database):
    @threaded
    def insert():
        with connections[database].cursor() as cursor:
            cursor.execute(
                "INSERT INTO tiderace_outbox (topic, data) VALUES (%s, %s)",
                ["board:a", '{"text":\n  "hi"}'],
            )

    await insert()
    async with relaying(database):
        await until_relayed(database)

    assert await messages("a") == [{"text": "hi"}]


async def test_a_topic_whose_broker_is_away_waits_and_no_other_does(broker, sqlite):
    broker.errors["board:a"] = LayerUnavailable("no answer")
    await commit(sqlite, 1, 2)
    async with relaying(sqlite):
        await commit(sqlite, 3, topic="board:b")
        await until_relayed(sqlite, topic="board:b")
        assert len(await rows(sqlite, topic="board:a", failed=None)) == 2
        assert set(broker.tried) == {"board:a", "board:b"}

        broker.errors.clear()
        await until_relayed(sqlite)

    assert await messages("a") == [1, 2]


async def test_a_row_that_cannot_be_published_is_set_aside(broker, database, caplog):
    broker.errors["board:a"] = TypeError("cannot be encoded")
    await commit(database, 1)
    await commit(database, 2, topic="board:b")

    async with relaying(database):
        await until_relayed(database)

    (row,) = await rows(database)
    assert row.topic == "board:a"
    assert row.error == "TypeError: cannot be encoded"
    assert await messages("b") == [2]
    assert "is set aside, since it cannot be published: TypeError" in caplog.text


@threaded
def insert(database, *rows):
    """Write rows as another program does."""
    waiting = [WaitingPublication(**{"topic": "board:a", **row}) for row in rows]
    WaitingPublication.objects.using(database).bulk_create(waiting)


@pytest.mark.parametrize(
    "row",
    [{"data": "no JSON"}, {"data": "[" * 5000}, {"data": "0", "tags": '{"a": 1}'}],
    ids=["data", "depth", "tags"],
)
async def test_a_row_that_cannot_be_decoded_is_set_aside_and_later_ones_published(
    sqlite, row
):
    await insert(sqlite, {"data": "1"}, row, {"data": "2"})

    async with relaying(sqlite):
        await until_relayed(sqlite)

    assert await messages("a") == [1, 2]
    (left,) = await rows(sqlite)
    assert left.data == row["data"]


async def test_a_row_that_is_too_large_for_the_layer_is_set_aside(broker, sqlite):
    broker.errors["board:a"] = MessageTooLarge("2 MB")
    await commit(sqlite, 1)

    async with relaying(sqlite):
        await until_relayed(sqlite)

    (row,) = await rows(sqlite)
    assert row.error == "MessageTooLarge: 2 MB"


@pytest.fixture
def closed_desk():
    """Topics ``desk:<name>`` whose code refuses every name but ``open``."""

    class Desk(Topic):
        pattern = "desk:<slug:name>"
        permission_classes = [AllowAny]

        def __init__(self, topic, kwargs=None):
            if topic != "desk:open":
                raise Refuse("there is no such desk", code=404)
            super().__init__(topic, kwargs)

    yield Desk
    declared.remove(Desk)


async def test_a_row_that_the_code_of_its_topic_refuses_is_set_aside(
    sqlite, closed_desk
):
    await insert(sqlite, *[{"topic": f"desk:{name}", "data": "1"} for name in "ab"])
    await insert(sqlite, {"topic": "desk:open", "data": "1"})

    async with relaying(sqlite):
        await until_relayed(sqlite)

    left = await rows(sqlite)
    assert [each.topic for each in left] == ["desk:a", "desk:b"]
    assert left[0].error == "Refuse: there is no such desk"


@pytest.fixture
def quick_retries(monkeypatch):
    monkeypatch.setattr("tiderace.outbox.publisher._RETRY", 0.01)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("deadlock"), OSError("disk"), ValueError("reply"), KeyError("slot")],
    ids=lambda error: type(error).__name__,
)
async def test_after_any_other_error_the_topic_waits_in_order(
    broker, sqlite, quick_retries, caplog, error
):
    broker.errors["board:a"] = error
    await commit(sqlite, 1, 2)
    async with relaying(sqlite):
        await until(lambda: len(broker.tried) >= 3)
        await commit(sqlite, 3)
        await commit(sqlite, 4, topic="board:b")
        await until_relayed(sqlite, topic="board:b")
        assert len(await rows(sqlite, failed=None)) == 3

        broker.errors.clear()
        await until_relayed(sqlite)

    assert await messages("a") == [1, 2, 3]
    assert await rows(sqlite) == []
    assert (
        f"are tried again, as one to 'board:a': {type(error).__name__}" in caplog.text
    )


async def test_a_layer_with_wrong_options_sets_no_row_aside(
    sqlite, quick_retries, settings, caplog, boards, monkeypatch
):
    wrong = {
        "BACKEND": "tiderace.layers.InMemoryChannelLayer",
        "CONFIG": {"nonsense": 1},
    }
    settings.CHANNEL_LAYERS = {**settings.CHANNEL_LAYERS, "other": wrong}
    monkeypatch.setattr(boards, "layer", "other")
    await insert(sqlite, {"data": "1"})

    async with relaying(sqlite):
        await until(lambda: "nonsense" in caplog.text)

    assert len(await rows(sqlite, failed=None)) == 1


async def test_a_row_that_is_deleted_while_it_waits_is_not_tried_again(
    broker, sqlite, quick_retries
):
    broker.errors["board:a"] = RuntimeError("deadlock")
    await commit(sqlite, 1, 2)
    async with relaying(sqlite):
        await until(lambda: broker.tried)
        await threaded(
            lambda: WaitingPublication.objects.using(sqlite).first().delete()
        )()
        broker.errors.clear()
        await until_relayed(sqlite)

    assert await messages("a") == [2]


def test_the_pause_before_a_retry_doubles_up_to_ten_seconds():
    assert [_pause_after(tries) for tries in range(6)] == [1, 2, 4, 8, 10, 10]
    assert _pause_after(100_000) == 10


async def test_a_row_that_is_no_longer_set_aside_is_published(broker, sqlite):
    broker.errors["board:a"] = TypeError("cannot be encoded")
    await commit(sqlite, 1)
    async with relaying(sqlite):
        await until_relayed(sqlite)
        broker.errors.clear()
        retry = WaitingPublication.objects.using(sqlite).update
        await threaded(retry)(failed=None, error=None)
        await until_relayed(sqlite)

    assert await messages("a") == [1]
    assert await rows(sqlite) == []


async def test_rows_of_an_unknown_topic_wait_five_minutes_for_a_new_release(
    sqlite, boards, quick_retries
):
    clock = FakeClock()
    await commit(sqlite, 1, 2)
    declared.remove(boards)
    async with relaying(sqlite, clock=clock) as relay:
        failures = relay._publisher._failures
        await until(lambda: failures)
        relay._lease._valid_until = float("inf")
        clock.advance(299)
        tries = failures["board:a"].tries
        await until(lambda: failures["board:a"].tries > tries + 1)
        assert len(await rows(sqlite, failed=None)) == 2

        clock.advance(2)
        # Both at once: the second has waited as long.
        await until_relayed(sqlite)

    left = await rows(sqlite)
    assert [each.error.partition(":")[0] for each in left] == ["UnknownTopic"] * 2


async def test_a_topic_that_becomes_known_is_published(sqlite, boards, quick_retries):
    await commit(sqlite, 1)
    declared.remove(boards)
    async with relaying(sqlite) as relay:
        await until(lambda: relay._publisher._failures)
        declared.add(boards)
        await until_relayed(sqlite)

    assert await messages("a") == [1]


async def test_many_rows_of_unknown_topics_keep_no_other_topic_waiting(
    sqlite, monkeypatch
):
    monkeypatch.setattr("tiderace.outbox.publisher._UNKNOWN_TOPICS", 3)
    monkeypatch.setattr("tiderace.outbox.publisher._WAITING_TOPICS", 6)
    monkeypatch.setattr("tiderace.outbox.relay._ROWS", 5)
    wrong = [{"topic": f"bored:{number}", "data": "1"} for number in range(20)]
    await insert(sqlite, *wrong)

    async with relaying(sqlite) as relay:
        await until(lambda: relay._publisher.topics)
        await insert(sqlite, {"data": "1"})
        await until_relayed(sqlite, topic="board:a")

    assert await messages("a") == [1]


async def test_a_committing_process_wakes_its_relay(sqlite):
    await process_relays.start([sqlite])
    try:
        relay = process_relays._relays[sqlite]
        relay._poll = 3600
        await until(lambda: relay._lease.held)
        await commit(sqlite, 1)
        await until_relayed(sqlite)
        await commit(sqlite, 2)
        await until_relayed(sqlite)
    finally:
        await process_relays.stop()

    assert await messages("a") == [1, 2]


async def test_one_of_two_relays_is_at_work_and_the_other_takes_over(database):
    clock = FakeClock()
    first = Relay(database, poll=0.02, clock=clock)
    running = asyncio.create_task(first.run())
    await until(lambda: first._lease.held)
    async with relaying(database, clock=clock) as second:
        await commit(database, 1)
        await until_relayed(database)
        assert not second._lease.held

        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await until(lambda: second._lease.held)
        await commit(database, 2)
        await until_relayed(database)

    assert await messages("a") == [1, 2]


async def test_a_relay_that_lost_the_lease_publishes_nothing_more(broker, sqlite):
    clock = FakeClock()
    broker.errors["board:a"] = LayerUnavailable("no answer")
    await commit(sqlite, 1, 2, 3)
    async with relaying(sqlite, clock=clock) as relay:
        await until(lambda: broker.tried)
        # A process that was stopped (SIGSTOP) renews nothing while the clock goes on.
        relay._lease.acquire = lambda: False
        clock.advance(10)
        broker.errors.clear()
        tried = len(broker.tried)
        await until(lambda: not relay._publisher.topics)

    assert len(broker.tried) == tried
    assert len(await rows(sqlite)) == 3


async def test_a_database_that_cannot_be_used_is_tried_again(sqlite, caplog):
    @threaded
    def rename(before, after):
        with connections[sqlite].cursor() as cursor:
            cursor.execute(f"ALTER TABLE {before} RENAME TO {after}")

    async with relaying(sqlite) as relay:
        await until(lambda: relay._lease.held)
        await rename("tiderace_outbox", "hidden")
        await until(lambda: "cannot be used: no such table" in caplog.text)
        await rename("hidden", "tiderace_outbox")
        await commit(sqlite, 1)
        await until_relayed(sqlite)

    assert await messages("a") == [1]


async def test_the_gauges_show_what_waits_and_what_is_set_aside(
    broker, sqlite, monkeypatch
):
    monkeypatch.setattr("tiderace.outbox.relay._STATISTICS", 0.0)
    broker.errors["board:a"] = LayerUnavailable("no answer")
    broker.errors["board:b"] = TypeError("cannot be encoded")
    await commit(sqlite, 1, 2)
    await commit(sqlite, 3, topic="board:b")
    await threaded(WaitingPublication.objects.using(sqlite).update)(
        created=timezone.now() - timedelta(seconds=90)
    )
    async with relaying(sqlite):
        await until(lambda: metrics.OUTBOX_SET_ASIDE.value == 1)
        assert metrics.OUTBOX_WAITING.value == 2
        assert 90 <= metrics.OUTBOX_AGE.value < 120

    assert metrics.OUTBOX_WAITING.value == 0


@pytest.fixture
def closed_shop():
    """Topics ``shop:<name>``, which refuse every name for now while ``refuses`` is true."""

    class Shop(Topic):
        pattern = "shop:<slug:name>"
        permission_classes = [AllowAny]
        refuses = True

        def __init__(self, topic, kwargs=None):
            if self.refuses:
                raise Refuse("the shop is closed", temporary=True)
            super().__init__(topic, kwargs)

    yield Shop
    declared.remove(Shop)


async def test_a_row_that_its_topic_refuses_for_now_waits_and_shows_the_reason(
    sqlite, closed_shop, quick_retries
):
    await insert(sqlite, {"topic": "shop:a", "data": "1"})
    before = metrics.OUTBOX_RELAYED.value
    async with relaying(sqlite):

        async def noted():
            (row,) = await rows(sqlite, failed=None)
            return row.error == "Refuse: the shop is closed"

        await until(noted)
        closed_shop.refuses = False
        await until_relayed(sqlite)

    assert metrics.OUTBOX_RELAYED.value == before + 1
    assert await rows(sqlite) == []


async def test_a_row_that_its_topic_refuses_for_an_hour_is_set_aside(
    sqlite, closed_shop, quick_retries
):
    clock = FakeClock()
    await insert(sqlite, {"topic": "shop:a", "data": "1"})
    async with relaying(sqlite, clock=clock) as relay:
        await until(lambda: relay._publisher._failures)
        # The lease, too, ends by that clock.
        relay._lease._valid_until = float("inf")
        clock.advance(3599)
        tries = relay._publisher._failures["shop:a"].tries
        await until(lambda: relay._publisher._failures["shop:a"].tries > tries + 1)
        assert len(await rows(sqlite, failed=None)) == 1

        clock.advance(2)
        await until_relayed(sqlite)

    (row,) = await rows(sqlite)
    assert row.error == "Refuse: the shop is closed"


async def test_a_relay_asks_the_database_no_more_often_while_a_topic_waits(
    broker, sqlite, monkeypatch
):
    monkeypatch.setattr("tiderace.outbox.publisher._RETRY", 0.2)
    broker.errors["board:a"] = RuntimeError("deadlock")
    await commit(sqlite, 1)
    asked = []
    async with relaying(sqlite, poll=3600) as relay:
        read = relay._rows.waiting
        monkeypatch.setattr(
            relay._rows,
            "waiting",
            lambda *of, **by: asked.append(of) or read(*of, **by),
        )
        await until(lambda: relay._lease.held)
        relay.wake()
        await until(lambda: len(broker.tried) == 3)

    # Once for each try, and once after it.
    assert len(asked) <= 6


async def test_while_a_layer_is_away_its_topics_try_it_one_after_the_other(
    sqlite, quick_retries, monkeypatch
):
    layer = layer_of(declared.resolve("board:a"))
    publish_to_stream = layer.stream_publish
    trying, at_once, away = set(), [], True

    async def stream_publish(group, record, **options):
        if not away:
            return await publish_to_stream(group, record, **options)
        trying.add(group)
        at_once.append(len(trying))
        await asyncio.sleep(0)
        trying.discard(group)
        raise LayerUnavailable("no answer")

    monkeypatch.setattr(layer, "stream_publish", stream_publish)
    for name in "abcdefgh":
        await commit(sqlite, name, topic=f"board:{name}")

    async with relaying(sqlite):
        # The first time all of them try, as none is known to fail.
        await until(lambda: len(at_once) >= 32)
        assert set(at_once[8:]) == {1}
        away = False
        await until_relayed(sqlite)

    assert [await messages(name) for name in "abcdefgh"] == [
        [name] for name in "abcdefgh"
    ]
