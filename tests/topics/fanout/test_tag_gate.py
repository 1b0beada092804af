"""The decisions about the tags of publications, for one subscriber."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.waiting import settle
from tiderace import metrics
from tiderace.history import Position, Publication
from tiderace.protocol.messages import Pub
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics.fanout import tag_gate
from tiderace.topics.fanout.tag_gate import TagGate, tag_set


class Subscriber:
    """Passes publications through a gate, as a subscription does."""

    def __init__(self, tasks):
        self.tasks = tasks
        self.asked = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.allowed = {"a", "b"}
        self.got = []
        self.lost = 0
        self.count = 0
        self.gate = TagGate(
            None,
            self.may_receive,
            spawn=tasks.spawn,
            deliver=self.deliver,
            lose=self.lose,
        )

    async def may_receive(self, tags):
        self.asked.append(tags["group"])
        allowed = tags["group"] in self.allowed
        await self.go_on.wait()
        if tags["group"] == "broken":
            raise RuntimeError("a bug of the application")
        return allowed

    def deliver(self, publication, passes):
        if passes:
            self.got.append(publication.data)

    def lose(self):
        self.lost += 1

    def publish(self, *groups):
        for group in groups:
            self.count += 1
            place = Position("e", self.count)
            publication = Publication(
                place, f"{group}{self.count}", tags={"group": group}
            )
            if self.gate.passes(tag_set(publication.tags), publication):
                self.got.append(publication.data)


@pytest.fixture
async def subscriber():
    tasks = TaskGroup(logging.getLogger("test"))
    yield Subscriber(tasks)
    await tasks.cancel()


async def test_a_set_of_tags_is_decided_once(subscriber):
    subscriber.publish("a", "c")
    await settle()
    subscriber.publish("a", "c", "a")
    await settle()

    assert subscriber.got == ["a1", "a3", "a5"]
    assert subscriber.asked == ["a", "c"]


async def test_later_publications_wait_behind_an_undecided_one(subscriber):
    subscriber.publish("a")
    await settle()
    subscriber.go_on.clear()

    subscriber.publish("b", "a", "c", "a")
    await settle()
    assert subscriber.got == ["a1"]
    subscriber.go_on.set()
    await settle()

    assert subscriber.got == ["a1", "b2", "a3", "a5"]


async def test_a_permission_that_changes_while_it_is_decided_is_decided_again(
    subscriber,
):
    subscriber.go_on.clear()
    subscriber.publish("a")
    await settle()

    subscriber.allowed.clear()
    subscriber.gate.forget()
    subscriber.go_on.set()
    await settle()

    assert subscriber.got == []
    assert subscriber.asked == ["a", "a"]


async def test_forgotten_decisions_are_asked_for_again(subscriber):
    subscriber.publish("a")
    await settle()
    subscriber.allowed.clear()
    subscriber.publish("a")

    subscriber.gate.forget()
    subscriber.publish("a")
    await settle()

    assert subscriber.got == ["a1", "a2"]


async def test_decisions_do_not_grow_without_bound(subscriber, monkeypatch):
    monkeypatch.setattr(tag_gate, "_KNOWN", 3)
    for number in range(10):
        subscriber.publish(f"g{number}")
        await settle()

    assert len(subscriber.gate.known) <= 3


async def test_more_than_a_thousand_waiting_publications_are_a_loss(
    subscriber, monkeypatch
):
    monkeypatch.setattr(tag_gate, "_HELD", 5)
    before = metrics.UNDECIDED_PUBLICATIONS_DROPPED.value
    subscriber.go_on.clear()

    subscriber.publish(*"aaaaaa")

    assert subscriber.lost == 1
    assert metrics.UNDECIDED_PUBLICATIONS_DROPPED.value == before + 5


async def test_a_hook_that_fails_is_a_loss_and_is_asked_again(subscriber, caplog):
    subscriber.publish("broken", "a")
    await settle()
    assert subscriber.lost == 1
    assert "may_receive of" in caplog.text

    subscriber.publish("a", "broken")
    await settle()

    assert subscriber.got == ["a3"]
    assert subscriber.asked == ["broken", "a", "broken"]


async def test_a_line_break_in_a_topic_name_forges_no_line_of_its_error(
    subscriber, caplog
):
    publication = Publication(
        Position("e", 1), "1", topic="a\nERROR forged", tags={"group": "broken"}
    )
    subscriber.gate.passes(tag_set(publication.tags), publication)
    await settle()

    assert "may_receive of 'a\\nERROR forged' failed" in caplog.text


async def test_nothing_is_delivered_after_the_end(subscriber):
    subscriber.go_on.clear()
    subscriber.publish("a", "a")
    await settle()

    subscriber.gate.close()
    subscriber.go_on.set()
    await settle()

    assert subscriber.got == []


async def test_a_history_is_selected_by_the_same_decisions(subscriber):
    subscriber.publish("a")
    await settle()
    pubs = [Pub(tags={"group": each}) for each in "acab"]

    selected = await subscriber.gate.select(pubs)

    assert [each.tags["group"] for each in selected] == ["a", "a", "b"]
    assert subscriber.asked == ["a", "c", "b"]


async def test_a_filter_of_the_client_comes_first_and_needs_no_waiting():
    asked = []

    async def may_receive(tags):
        asked.append(tags)
        return True

    def matches(tags):
        return tags.get("group") == "a"

    publication = Publication(Position("e", 1), "1", tags={"group": "b"})
    alone = TagGate(matches, None)
    both = TagGate(matches, may_receive)

    assert alone.passes(tag_set({"group": "a"}), publication) is True
    assert alone.passes(tag_set(None), publication) is False
    assert await both.select([Pub(tags={"group": "b"}), Pub(tags={"group": "a"})])
    assert asked == [{"group": "a"}]
