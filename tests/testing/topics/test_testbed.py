"""Tests of the testbed: captured publications, commits inside TestCase, fresh layers."""

from __future__ import annotations

import unittest

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import TestCase, TransactionTestCase, override_settings

from tiderace.layers import channel_layers, get_channel_layer
from tiderace.layers.memory import InMemoryChannelLayer
from tiderace.runtime.lifespan import process_lifespan
from tiderace.testing import TopicsTestbed, TopicsTestMixin
from tiderace.topics import UnknownTopic, apublish, history, publish

on_the_chat_site = override_settings(
    ASGI_APPLICATION="sites.chat_site.application",
    ROOT_URLCONF="sites.chat_site",
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
)
ROOM = "chat-site:tea"


class Publications:
    """Tests that mean the same in every kind of test case."""

    def setUp(self):
        # super() is not called, as in many projects.
        self.alice = User.objects.create_user("alice", first_name="member")
        self.client.force_login(self.alice)

    def test_of_a_view_are_captured_after_its_transaction(self):
        self.client.post("/rooms/tea/say/", {"text": "hi"})

        assert self.topics.published_to(ROOM) == [{"text": "hi", "by": "alice"}]

    def test_of_a_transaction_that_rolls_back_are_not_made(self):
        with pytest.raises(ValueError, match="fail"):
            self.client.post("/rooms/tea/say/", {"text": "fail"})

        assert self.topics.publications == []

    def test_wait_for_the_outermost_block(self):
        with transaction.atomic():
            with transaction.atomic():
                publish(ROOM, 1)
            assert self.topics.publications == []

        assert self.topics.published_to(ROOM) == [1]

    def test_of_a_savepoint_that_rolls_back_are_not_made(self):
        with transaction.atomic():
            publish(ROOM, 1)
            with transaction.atomic():
                publish(ROOM, 2)
                transaction.set_rollback(True)

        assert self.topics.published_to(ROOM) == [1]

    def test_outside_of_blocks_are_made_at_once(self):
        publish(ROOM, 1)

        assert history(ROOM).messages == [1]

    def test_reach_clients(self):
        room = self.topics.connect(user=self.alice).subscribe(ROOM)

        self.client.post("/rooms/tea/say/", {"text": "hi"})

        assert room.receive() == {"text": "hi", "by": "alice"}

    def test_of_a_misspelt_topic_are_not_asked_for(self):
        with pytest.raises(UnknownTopic, match="chat-room:tea"):
            self.topics.published_to("chat-room:tea")

    def test_have_tags(self):
        publish(ROOM, 1, tags={"lang": "en"})

        [publication] = self.topics.publications
        assert (publication.topic, publication.tags) == (ROOM, {"lang": "en"})

    def test_with_one_key_are_captured_once(self):
        publish(ROOM, 1, key="same")
        publish(ROOM, 1, key="same")

        assert self.topics.published_to(ROOM) == [1]

    def test_of_clients_are_captured(self):
        self.topics.connect(user=self.alice).subscribe(ROOM).publish({"text": "hi"})

        assert self.topics.published_to(ROOM) == [{"text": "hi", "by": "alice"}]

    async def test_of_async_tests_are_captured(self):
        client = await self.topics.aconnect(user=self.alice)
        room = await client.subscribe(ROOM)

        await apublish(ROOM, 1)

        assert await room.receive() == 1
        assert self.topics.published_to(ROOM) == [1]


@on_the_chat_site
class InTestCase(TopicsTestMixin, Publications, TestCase):
    """The transaction of each test is rolled back."""

    @classmethod
    def setUpTestData(cls):
        publish(ROOM, "of no test")

    def test_in_functions_of_on_commit_are_made_when_django_runs_them(self):
        with self.captureOnCommitCallbacks(execute=True):
            transaction.on_commit(lambda: publish(ROOM, 1))

        assert self.topics.published_to(ROOM) == [1]

    def test_leave_other_functions_of_on_commit_to_django(self):
        called = []

        with self.captureOnCommitCallbacks() as callbacks, transaction.atomic():
            transaction.on_commit(lambda: called.append(1))
            publish(ROOM, 1)

        assert self.topics.published_to(ROOM) == [1]
        assert (called, len(callbacks)) == ([], 1)


@on_the_chat_site
class InTransactionTestCase(TopicsTestMixin, Publications, TransactionTestCase):
    """Each test commits."""


@on_the_chat_site
class WithTheMixinLast(TestCase, TopicsTestMixin):
    """The order of the base classes does not matter."""

    def test_there_is_a_testbed(self):
        publish(ROOM, 1)

        assert self.topics.published_to(ROOM) == [1]


def test_layers_of_every_alias_are_fresh_ones_in_memory(settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.redis.RedisChannelLayer"},
        "chat": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"},
    }

    with TopicsTestbed():
        first = get_channel_layer(), get_channel_layer("chat")
    with TopicsTestbed():
        second = get_channel_layer(), get_channel_layer("chat")

    assert all(isinstance(layer, InMemoryChannelLayer) for layer in first + second)
    assert len({id(layer) for layer in first + second}) == 4


def test_the_projects_layers_are_back_after_a_test():
    before = get_channel_layer()

    with TopicsTestbed():
        pass

    assert channel_layers["default"] is before


def test_a_project_without_layers_has_none_in_tests_either(settings):
    settings.CHANNEL_LAYERS = {}

    with TopicsTestbed(), pytest.raises(RuntimeError, match="channel layer"):
        publish(ROOM, 1)


@pytest.mark.django_db
@on_the_chat_site
def test_the_clients_of_a_test_are_disconnected_at_its_end():
    alice = User.objects.create_user("alice", first_name="member")

    with TopicsTestbed() as topics:
        room = topics.connect(user=alice).subscribe(ROOM)

    with pytest.raises(RuntimeError, match="has disconnected"):
        room.receive()


@pytest.mark.django_db
@on_the_chat_site
def test_shutdown_hooks_of_the_project_are_not_called(monkeypatch):
    called = []

    async def close_pool():
        called.append("pool")

    monkeypatch.setattr(process_lifespan, "shutdown", [close_pool])
    with TopicsTestbed() as topics:
        topics.connect()

    assert called == []


def test_a_skipped_test_leaves_no_testbed_open():
    @unittest.skip("not now")
    class Skipped(TopicsTestMixin, unittest.TestCase):
        def test_nothing(self):
            """Never run."""

    before = get_channel_layer()

    unittest.TestLoader().loadTestsFromTestCase(Skipped).run(unittest.TestResult())

    assert get_channel_layer() is before
