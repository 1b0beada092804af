"""``publish()`` writes rows into the outbox."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.db.models.signals import post_save
from django.test import TestCase

from support.outbox import messages_of, waiting_in
from support.waiting import PATIENCE, settle, within
from tiderace.outbox.hand_over import hand_over
from tiderace.outbox.models import WaitingPublication
from tiderace.topics import AllowAny, History, Topic, apublish, history, publish
from tiderace.topics.declaration.topic import UnknownTopic, declared


def test_a_publication_in_a_transaction_is_a_row(database):
    with transaction.atomic(database):
        assert publish("board:a", {"n": 1}, using=database) is None

    assert waiting_in(database) == [("board:a", '{"n":1}')]
    assert messages_of("a") == []


def test_a_publication_outside_of_a_transaction_is_made_at_once(database):
    position = publish("board:a", 1, using=database)

    assert position is not None
    assert waiting_in(database) == []
    assert messages_of("a") == [1]


def test_a_publication_of_a_transaction_that_is_rolled_back_leaves_no_row(database):
    with transaction.atomic(database):
        publish("board:a", 1, using=database)
        transaction.set_rollback(True, using=database)

    assert waiting_in(database) == []


def test_a_publication_of_a_savepoint_shares_its_fate(database):
    with transaction.atomic(database):
        with transaction.atomic(database):
            publish("board:a", 1, using=database)
            transaction.set_rollback(True, using=database)
        with transaction.atomic(database):
            publish("board:a", 2, using=database)

    assert waiting_in(database) == [("board:a", "2")]


@pytest.mark.django_db(transaction=True)
def test_a_transaction_of_another_database_is_not_waited_for(database):
    with transaction.atomic(database):
        assert publish("board:a", 1) is not None

    assert waiting_in(database) == []


def test_mistakes_raise_where_the_publication_is_made(database):
    with transaction.atomic(database):
        with pytest.raises(UnknownTopic):
            publish("bored:a", 1, using=database)
        with pytest.raises(TypeError):
            publish("board:a", object(), using=database)

    assert waiting_in(database) == []


def test_tags_time_and_key_of_a_publication_are_those_of_the_call(sqlite):
    with transaction.atomic(sqlite):
        publish("board:a", 1, key="once", tags={"kind": "news"}, using=sqlite)
        publish("board:a", 2, key="once", using=sqlite)
    created = WaitingPublication.objects.using(sqlite).first().created

    hand_over(sqlite)

    (publication,) = history("board:a").publications
    assert publication.tags == {"kind": "news"}
    assert publication.time == created.timestamp()
    assert messages_of("a") == [1]


def test_async_code_in_the_transaction_of_a_view_writes_a_row(database):
    async def notify():
        return await apublish("board:a", 1, using=database)

    with transaction.atomic(database):
        assert async_to_sync(notify)() is None
        assert messages_of("a") == []

    assert waiting_in(database) == [("board:a", "1")]


async def test_async_code_without_a_transaction_publishes_at_once(sqlite):
    position = await apublish("board:a", 1, using=sqlite)

    assert position is not None
    assert await asyncio.to_thread(messages_of, "a") == [1]


async def test_async_code_without_a_transaction_does_not_wait_for_sync_code(sqlite):
    released = threading.Event()
    sync_code = asyncio.create_task(sync_to_async(released.wait)(PATIENCE))
    await settle()
    try:
        assert await within(apublish("board:a", 1, using=sqlite), 5) is not None
    finally:
        released.set()
        await sync_code


async def test_async_code_publishes_at_once_while_another_thread_is_in_a_transaction(
    sqlite,
):
    begun, ended = threading.Event(), threading.Event()

    def hold():
        with transaction.atomic(sqlite):
            begun.set()
            ended.wait(PATIENCE)
        connections[sqlite].close()

    holding = asyncio.create_task(asyncio.to_thread(hold))
    await asyncio.to_thread(begun.wait)
    try:
        assert await apublish("board:a", 1, using=sqlite) is not None
    finally:
        ended.set()
        await holding


async def test_async_code_writes_a_row_while_its_sync_code_is_in_a_transaction(sqlite):
    block = transaction.atomic(sqlite)
    await sync_to_async(block.__enter__)()
    try:
        assert await apublish("board:a", 1, using=sqlite) is None
    finally:
        await sync_to_async(block.__exit__)(None, None, None)

    assert await sync_to_async(waiting_in)(sqlite) == [("board:a", "1")]
    await sync_to_async(lambda: connections[sqlite].close())()


def test_a_database_without_the_tables_is_refused_with_the_command_to_run(
    outbox_app, tmp_path, django_db_blocker
):
    connections.databases["bare"] = {
        **connections.databases["default"],
        "NAME": str(tmp_path / "bare.sqlite3"),
    }
    try:
        with (
            django_db_blocker.unblock(),
            transaction.atomic("bare"),
            pytest.raises(ImproperlyConfigured, match="migrate --database=bare"),
        ):
            publish("board:a", 1, using="bare")
    finally:
        connections["bare"].close()
        del connections["bare"], connections.databases["bare"]


class NoOutbox:
    """A router that allows no outbox in the database of the test."""

    def allow_migrate(self, db, app_label, **hints):
        return None if app_label != "tiderace_outbox" else False


def test_a_database_in_which_routers_allow_no_outbox_publishes_after_the_commit(
    sqlite, settings
):
    settings.DATABASE_ROUTERS = ["outbox.test_writing.NoOutbox"]

    with transaction.atomic(sqlite):
        publish("board:a", 1, using=sqlite)
        assert messages_of("a") == []

    assert messages_of("a") == [1]


def test_no_signals_are_sent_for_a_row(sqlite):
    seen = []

    def receive(sender, **kwargs):
        seen.append(sender)

    post_save.connect(receive)
    try:
        with transaction.atomic(sqlite):
            publish("board:a", 1, using=sqlite)
    finally:
        post_save.disconnect(receive)

    assert seen == []


def test_captured_callbacks_publish_the_rows_of_a_test(sqlite):
    with (
        transaction.atomic(sqlite),
        TestCase.captureOnCommitCallbacks(using=sqlite, execute=True),
    ):
        publish("board:a", 1, using=sqlite)
        assert messages_of("a") == []

    assert messages_of("a") == [1]
    assert waiting_in(sqlite) == []


def test_bytes_are_published_as_they_are(database):
    class Frames(Topic):
        pattern = "frames"
        permission_classes = [AllowAny]
        history = History()
        message = bytes

    try:
        with transaction.atomic(database):
            publish("frames", b"\x00\xff boom", using=database)

        assert waiting_in(database) == [("frames", '"AP8gYm9vbQ=="')]
        hand_over(database)
        assert history("frames").messages == [b"\x00\xff boom"]
    finally:
        declared.remove(Frames)
