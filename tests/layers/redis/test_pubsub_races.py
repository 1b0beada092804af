"""The pub/sub layer on a broker made of dicts, one interleaving per test.

The broker waits, fails and loses its data where a test says so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading

import pytest

from support.clock import FakeClock
from support.waiting import settle, until
from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.history import Position
from tiderace.layers.broker import (
    Delivery,
    Published,
    QueueReady,
    Reconnected,
    Retention,
    StreamMessage,
)
from tiderace.layers.local import DropLog
from tiderace.layers.pubsub.layer import PubSubLayer


class FakeBroker:
    """A broker over dicts, with gates that hold a call back and errors that it raises."""

    def __init__(self):
        self.publish_timeout = 5.0
        self.delivers_earlier = False
        self.streams = self.queues = self.memberships = self
        self.epochs = {}
        self.stored = {}
        self.queued = {}
        self.wanted = set()
        self.announced = {}
        self.reported = {}
        self.calls = []
        self.gates = {}
        self.errors = {}
        self.arriving = asyncio.Queue()
        self.mute = False
        self.ages = {}
        self.page = 1000
        self.readers = 0
        self.busy = 0
        self.busiest = 0

    @property
    def is_connected(self):
        return self.readers > 0 and not self.mute

    async def _verb(self, name, *about):
        self.calls.append((name, *about))
        if gate := self.gates.get(name):
            await gate.wait()
        if errors := self.errors.get(name):
            raise errors.pop(0)

    def _end(self, subject):
        if subject not in self.stored:
            return None
        return Position(self.epochs[subject], len(self.stored[subject]))

    def append(self, subject, data):
        """Append as another process would; return what subscribers receive."""
        self.epochs.setdefault(subject, "e1")
        stream = self.stored.setdefault(subject, [])
        stream.append(data)
        position = Position(self.epochs[subject], len(stream))
        return StreamMessage(subject, position, len(stream) - 1, data)

    def forget(self, epoch):
        self.stored.clear()
        self.epochs.clear()
        self.announced.clear()
        self._next_epoch = epoch

    async def publish(self, subject, data, *, keep, members_age, **options):
        await self._verb("publish", subject)
        live = self.append(subject, data)
        if subject in self.wanted and not self.mute:
            self.arriving.put_nowait([live])
        return Published(live.position, [])

    async def position(self, subject):
        position = self._end(subject)
        await self._verb("position", subject)
        return position

    async def read_after(self, subject, offset):
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        try:
            await self._verb("read_after", subject, offset)
            await asyncio.sleep(0)
        finally:
            self.busy -= 1
        age = self.ages.get(subject, 0.0)
        entries = [
            StreamMessage(
                subject,
                Position(self.epochs[subject], number),
                number - 1,
                data,
                age,
            )
            for number, data in enumerate(self.stored.get(subject, []), 1)
            if number > offset
        ]
        return self._end(subject), entries[: self.page]

    async def push(self, queue, data, *, size, seconds):
        await self._verb("push", queue)
        self.queued.setdefault(queue, []).append(data)
        if queue in self.wanted:
            self.arriving.put_nowait([QueueReady(queue)])
        return True

    async def take(self, queue, *, lease):
        await self._verb("take", queue)
        waiting = self.queued.get(queue)
        return Delivery(queue, b"token", waiting.pop(0)) if waiting else None

    async def report(self, process, data, *, lease):
        await self._verb("report", process)
        self.reported[process] = data
        if process in self.wanted and not self.mute:
            self.arriving.put_nowait([QueueReady(process)])

    async def reports(self):
        await self._verb("reports")
        return list(self.reported.values())

    async def ack(self, delivery):
        await self._verb("ack", delivery.queue)

    async def nack(self, delivery, *, acked=False):
        await self._verb("nack", delivery.queue, acked)
        self.queued.setdefault(delivery.queue, []).insert(0, delivery.data)

    async def join(self, subject, member, *, seconds):
        await self._verb("join", subject, member)

    async def leave(self, subject, member):
        await self._verb("leave", subject, member)

    async def announce(self, process, joined, left, *, lease):
        await self._verb("announce", list(joined), list(left))
        for subject, member in left:
            self.announced.get(subject, set()).discard(member)
        for subject, member in joined:
            self.announced.setdefault(subject, set()).add(member)

    async def refresh(self, process, subjects, *, lease):
        await self._verb("refresh")
        return [subject for subject in subjects if subject not in self.announced]

    async def remove_process(self, process, subjects):
        await self._verb("remove_process")
        self.announced.clear()

    async def members(self, subject):
        return sorted(self.announced.get(subject, ()))

    async def count(self, subject):
        return len(self.announced.get(subject, ()))

    async def subscribe(self, subjects, queues=()):
        await self._verb("subscribe", *subjects, *queues)
        self.wanted.update(subjects, queues)

    async def unsubscribe(self, subjects, queues=()):
        await self._verb("unsubscribe", *subjects, *queues)
        self.wanted.difference_update(subjects, queues)

    async def messages(self):
        self.readers += 1
        try:
            yield [Reconnected()]
            while True:
                batch = await self.arriving.get()
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            self.readers -= 1

    async def flush(self):
        self.stored.clear()

    async def close(self):
        pass


class JsonSerializer:
    def serialize(self, message):
        return json.dumps(message).encode()

    def deserialize(self, message):
        return json.loads(message)


@pytest.fixture
async def broker():
    return FakeBroker()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def layer(broker, clock):
    layer = PubSubLayer(
        [broker],
        index_of=lambda name: 0,
        serializer=JsonSerializer(),
        keep=Retention(10_000, 60),
        group_expiry=86400,
        capacity=10_000,
        channel_capacity=None,
        lease=30.0,
        drop_log=DropLog(),
        clock=clock,
    )
    yield layer
    broker.gates.clear()
    broker.errors.clear()
    await layer.close()


def message(number):
    return json.dumps({"type": "said", "n": number}).encode()


def message_to(box, number):
    """Return a message to a channel, and the inbox of its process."""
    data = {"type": "said", "n": number, "__asgi_channel__": box.name}
    process = box.name.partition("!")[0].rpartition(".")[2]
    return f"process!{process}", json.dumps(data).encode()


async def member(layer, *groups):
    """Return the mailbox of a consumer that is in ``groups``."""
    box = layer.attach(await layer.new_channel())
    for group in groups:
        await layer.group_add(group, box.name)
    return box


async def received(box, number):
    async with asyncio.timeout(10):
        messages = [await box.get() for _ in range(number)]
    return [message.get("n", message["type"]) for message in messages]


# Joining


async def test_a_join_succeeds_when_another_waiting_join_is_cancelled(layer, broker):
    broker.gates["position"] = asyncio.Event()
    first, second, third = [layer.attach(await layer.new_channel()) for _ in range(3)]
    joins = [
        asyncio.create_task(layer.group_add("room", box.name))
        for box in (first, second, third)
    ]
    await until(lambda: ("position", "room") in broker.calls)

    joins[1].cancel()
    await asyncio.wait([joins[1]])
    broker.gates["position"].set()
    await asyncio.gather(joins[0], joins[2])

    await layer.group_send("room", {"type": "said", "n": 1})
    assert await received(first, 1) == await received(third, 1) == [1]
    assert set(layer.groups["room"]) == {first.name, third.name}


async def test_a_join_succeeds_when_the_first_join_is_cancelled(layer, broker):
    broker.gates["position"] = asyncio.Event()
    first, second = [layer.attach(await layer.new_channel()) for _ in range(2)]
    joins = [
        asyncio.create_task(layer.group_add("room", box.name))
        for box in (first, second)
    ]
    await until(lambda: ("position", "room") in broker.calls)

    joins[0].cancel()
    await asyncio.wait([joins[0]])
    broker.gates["position"].set()
    await joins[1]

    await layer.group_send("room", {"type": "said", "n": 1})
    assert await received(second, 1) == [1]
    assert set(layer.groups["room"]) == {second.name}


async def test_all_waiting_joins_fail_when_the_broker_is_away(layer, broker):
    broker.errors["subscribe"] = [LayerUnavailable("away")]
    broker.gates["subscribe"] = asyncio.Event()
    names = [await layer.new_channel() for _ in range(2)]
    joins = [asyncio.create_task(layer.group_add("room", name)) for name in names]
    await until(lambda: len(layer.groups.get("room", ())) == 2)

    broker.gates["subscribe"].set()
    results = await asyncio.gather(*joins, return_exceptions=True)

    assert [type(each) for each in results] == [LayerUnavailable] * 2
    assert layer.groups == {}


async def test_messages_missed_before_the_position_was_fetched_are_fetched(
    layer, broker
):
    box = layer.attach(await layer.new_channel())
    await until(lambda: broker.is_connected)
    broker.append("room", message(0))
    broker.gates["position"] = asyncio.Event()
    joining = asyncio.create_task(layer.group_add("room", box.name))
    await until(lambda: ("position", "room") in broker.calls)

    # Published while the connection was away; nothing else will be.
    broker.append("room", message(1))
    broker.arriving.put_nowait([Reconnected()])
    await until(broker.arriving.empty)
    await asyncio.sleep(0)
    broker.gates["position"].set()
    await joining

    assert await received(box, 1) == [1]


async def test_a_message_sent_before_the_subscription_that_arrives_after_it_is_left_out(
    layer, broker
):
    broker.delivers_earlier = True
    box = layer.attach(await layer.new_channel())
    await until(lambda: broker.is_connected)
    earlier = broker.append("room", message(1))
    broker.gates["position"] = asyncio.Event()
    joining = asyncio.create_task(layer.group_add("room", box.name))
    await until(lambda: ("position", "room") in broker.calls)

    broker.arriving.put_nowait([earlier])
    broker.arriving.put_nowait([broker.append("room", message(2))])
    await until(broker.arriving.empty)
    await asyncio.sleep(0)
    broker.gates["position"].set()
    await joining

    assert await received(box, 1) == [2]


@pytest.mark.parametrize("others", [0, 1])
async def test_a_message_of_another_process_sent_before_a_rejoin_is_not_delivered(
    layer, broker, others
):
    for _ in range(others):
        await member(layer, "room")
    box = await member(layer, "room")
    await layer.group_send("room", {"type": "said", "n": 1})
    assert await received(box, 1) == [1]
    await layer.group_discard("room", box.name)
    sent_between = broker.append("room", message(2))

    await layer.group_add("room", box.name)
    broker.arriving.put_nowait([sent_between])
    broker.arriving.put_nowait([broker.append("room", message(3))])

    assert await received(box, 1) == [3]


async def test_joining_again_without_leaving_loses_no_message(layer, broker):
    box = await member(layer, "room")
    broker.mute = True
    await layer.group_send("room", {"type": "said", "n": 1})

    await layer.group_add("room", box.name)
    broker.mute = False
    broker.arriving.put_nowait([Reconnected()])

    assert await received(box, 1) == [1]


async def test_a_member_that_left_before_its_join_was_complete_is_not_held_back_later(
    layer, broker
):
    box = await member(layer, "room")
    await layer.group_discard("room", box.name)
    broker.gates["position"] = asyncio.Event()
    joining = asyncio.create_task(layer.group_add("room", box.name))
    await until(lambda: ("position", "room") in broker.calls[-1:])
    joining.cancel()
    await asyncio.wait([joining])
    broker.gates.clear()

    await layer.group_add("room", box.name)
    await layer.group_send("room", {"type": "said", "n": 1})

    assert await received(box, 1) == [1]


async def test_a_group_joined_during_its_unsubscription_is_subscribed_again(
    layer, broker
):
    box = await member(layer, "room")
    broker.gates["unsubscribe"] = asyncio.Event()
    await layer.group_discard("room", box.name)
    await until(lambda: ("unsubscribe", "room") in broker.calls)

    joining = asyncio.create_task(layer.group_add("room", box.name))
    await joining
    broker.gates["unsubscribe"].set()
    await until(lambda: "room" in broker.wanted)
    await layer.group_send("room", {"type": "said", "n": 1})

    assert await received(box, 1) == [1]


async def test_a_quick_leave_and_join_and_leave_is_announced_as_a_leave(layer, broker):
    box = await member(layer, "room")
    assert await layer.group_channels("room") == [box.name]

    await layer.group_discard("room", box.name)
    await layer.group_add("room", box.name)
    await layer.group_discard("room", box.name)

    assert await layer.group_channels("room") == []


async def test_a_leave_does_not_overtake_its_join_on_the_way_to_the_broker(
    layer, broker
):
    box = await member(layer, "room")
    broker.gates["announce"] = asyncio.Event()
    counting = asyncio.create_task(layer.group_count("room"))
    await until(lambda: any(call[0] == "announce" for call in broker.calls))

    await layer.group_discard("room", box.name)
    again = asyncio.create_task(layer.group_count("room"))
    await asyncio.sleep(0)
    broker.gates["announce"].set()
    await counting

    assert await again == 0


async def test_memberships_that_the_broker_lost_are_announced_again(
    layer, broker, clock
):
    box = await member(layer, "room")
    assert await layer.group_count("room") == 1

    broker.announced.clear()
    broker.arriving.put_nowait([Reconnected()])

    await until(lambda: broker.announced.get("room") == {box.name})


async def test_closing_in_another_loop_withdraws_no_membership(layer, broker):
    box = await member(layer, "room")
    assert await layer.group_count("room") == 1

    await asyncio.to_thread(asyncio.run, layer.close())
    await layer.group_send("room", {"type": "said", "n": 1})

    assert await received(box, 1) == [1]
    assert await layer.group_count("room") == 1


# Interruptions


async def test_ten_thousand_groups_catch_up_with_bounded_concurrency(layer, broker):
    box = layer.attach(await layer.new_channel())
    groups = [f"room-{number}" for number in range(10_000)]
    await asyncio.gather(*(layer.group_add(group, box.name) for group in groups))
    for number, group in enumerate(groups):
        broker.append(group, message(number))
    broker.busiest = 0

    broker.arriving.put_nowait([Reconnected()])

    assert sorted(await received(box, 10_000)) == list(range(10_000))
    assert 100 <= broker.busiest <= 200


async def test_groups_that_are_up_to_date_do_not_wait_for_those_that_are_not(
    layer, broker
):
    box = await member(layer, "one", "two")
    await until(lambda: broker.is_connected)
    fetch = asyncio.Event()

    async def read_after(subject, offset, *, ask=broker.read_after):
        if subject == "one":
            await fetch.wait()
        return await ask(subject, offset)

    broker.read_after = read_after
    missed = broker.append("one", message(1))
    broker.arriving.put_nowait([Reconnected()])
    broker.arriving.put_nowait([broker.append("two", message(2))])

    assert await received(box, 1) == [2]
    fetch.set()
    assert await received(box, 1) == [1]
    assert missed.position.offset == 1


async def test_missed_messages_are_fetched_when_the_broker_answers_again(
    layer, broker, caplog
):
    box = await member(layer, "room")
    await until(lambda: broker.is_connected)
    broker.errors["read_after"] = [LayerUnavailable("away")] * 4
    broker.append("room", message(1))

    broker.arriving.put_nowait([Reconnected()])

    assert await received(box, 1) == [1]
    await until(lambda: "of room cannot be fetched yet" in caplog.text)
    assert caplog.text.count("of room cannot be fetched yet") == 1


async def test_a_second_interruption_while_fetching_is_caught_up(layer, broker):
    box = await member(layer, "room")
    await until(lambda: broker.is_connected)
    broker.append("room", message(1))
    answered = asyncio.Event()
    asked = asyncio.Event()

    async def read_after(subject, offset, *, ask=broker.read_after):
        answer = await ask(subject, offset)
        if subject == "room" and not asked.is_set():
            asked.set()
            await answered.wait()
        return answer

    broker.read_after = read_after
    broker.arriving.put_nowait([Reconnected()])
    await asked.wait()
    # After the first answer, and before anything arrives on the second connection.
    broker.append("room", message(2))
    broker.arriving.put_nowait([Reconnected()])
    await until(broker.arriving.empty)
    await asyncio.sleep(0)
    answered.set()

    assert await received(box, 2) == [1, 2]


async def test_messages_arrive_once_and_in_order_around_a_gap(layer, broker):
    box = await member(layer, "room")
    await until(lambda: broker.is_connected)
    lives = [broker.append("room", message(number)) for number in range(1, 101)]

    broker.arriving.put_nowait(lives[:10])
    broker.arriving.put_nowait(lives[50:60])
    broker.arriving.put_nowait([Reconnected()])
    broker.arriving.put_nowait(lives[55:])

    assert await received(box, 100) == list(range(1, 101))
    assert box.empty()


async def test_missed_messages_are_fetched_in_pages(layer, broker):
    box = await member(layer, "room")
    await until(lambda: broker.is_connected)
    broker.page = 7
    for number in range(1, 101):
        broker.append("room", message(number))

    broker.arriving.put_nowait([Reconnected()])

    assert await received(box, 100) == list(range(1, 101))


async def test_a_group_that_was_idle_for_long_has_no_gap_when_it_is_used_again(
    layer, broker, clock
):
    box = await member(layer, "room")
    await layer.group_send("room", {"type": "said", "n": 1})
    assert await received(box, 1) == [1]

    # Ten times the expiry after its last use the broker removes a stream.
    clock.now += 601
    del broker.stored["room"]
    broker.epochs["room"] = "e2"
    await layer.group_send("room", {"type": "said", "n": 2})

    assert await received(box, 1) == [2]


async def test_a_broker_that_lost_its_data_causes_a_gap(layer, broker, clock):
    box = await member(layer, "room")
    await layer.group_send("room", {"type": "said", "n": 1})
    assert await received(box, 1) == [1]

    del broker.stored["room"]
    broker.epochs["room"] = "e2"
    await layer.group_send("room", {"type": "said", "n": 2})

    assert await received(box, 2) == ["layer.gap", 2]


async def test_a_channel_read_too_late_loses_expired_messages_and_stays_in_its_groups(
    layer, clock
):
    """The time between two calls of ``receive`` may be longer than ``expiry``."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, {"type": "said", "n": 1})

    clock.now += 61
    await layer.group_send("room", {"type": "said", "n": 2})
    async with asyncio.timeout(10):
        message = await layer.receive(channel)

    assert message == {"type": "said", "n": 2}
    assert set(layer.groups["room"]) == {channel}


async def test_messages_past_their_expiry_are_a_gap_of_that_size(layer, broker):
    box = await member(layer, "room")
    await until(lambda: broker.is_connected)
    for number in range(1, 31):
        broker.append("room", message(number))
    broker.ages["room"] = 61.0
    broker.page = 10

    broker.arriving.put_nowait([Reconnected()])

    async with asyncio.timeout(10):
        assert await box.get() == {"type": "layer.gap", "group": "room", "missed": 30}
    assert box.empty()


async def test_messages_to_channels_past_their_expiry_are_a_gap_for_all_consumers(
    layer, broker
):
    boxes = [await member(layer), await member(layer)]
    await until(lambda: broker.is_connected)
    inbox, data = message_to(boxes[0], 1)
    broker.append(inbox, data)
    broker.ages[inbox] = 61.0

    broker.arriving.put_nowait([Reconnected()])

    async with asyncio.timeout(10):
        for box in boxes:
            gap = {"type": "layer.gap", "group": None, "missed": 1}
            assert await box.get() == gap
            assert box.empty()


async def test_a_message_to_a_channel_that_was_fetched_late_expires_on_time(
    layer, broker, clock
):
    box = await member(layer)
    await until(lambda: broker.is_connected)
    inbox, data = message_to(box, 1)
    broker.append(inbox, data)
    broker.ages[inbox] = 50.0
    broker.arriving.put_nowait([Reconnected()])
    await until(lambda: len(box) == 1)

    clock.now += 11
    await layer.send(box.name, {"type": "said", "n": 2})

    assert await received(box, 1) == [2]


async def test_a_gap_for_a_full_channel_is_counted_as_dropped(layer, broker):
    box = await member(layer, "room")
    await until(lambda: broker.is_connected)
    for number in range(box.capacity):
        box.push({"type": "said", "n": number}, float("inf"))
    dropped = metrics.MESSAGES_DROPPED_FULL.value
    broker.append("room", message(1))
    broker.ages["room"] = 61.0

    broker.arriving.put_nowait([Reconnected()])

    await until(lambda: metrics.MESSAGES_DROPPED_FULL.value == dropped + 1)


async def test_an_empty_broker_is_logged_once_and_not_for_each_group(
    layer, broker, clock, caplog
):
    box = await member(layer, *(f"room-{number}" for number in range(100)))
    await until(lambda: broker.is_connected)
    for number in range(100):
        await layer.group_send(f"room-{number}", {"type": "said", "n": number})
    await received(box, 100)

    broker.stored.clear()
    broker.arriving.put_nowait([Reconnected()])

    assert await received(box, 100) == ["layer.gap"] * 100
    await until(lambda: "99 more groups" in caplog.text)
    assert caplog.text.count("were lost: an unknown number") == 1


async def test_a_receiver_that_fails_is_restarted_and_misses_nothing(
    layer, broker, caplog, monkeypatch
):
    monkeypatch.setattr("tiderace.layers.pubsub.pump._RETRY", 0.01)
    box = await member(layer, "room")
    await until(lambda: broker.is_connected)
    broker.arriving.put_nowait(RuntimeError("unheard-of"))
    await until(lambda: broker.readers == 0 or "unheard-of" in caplog.text)
    broker.append("room", message(1))

    assert await received(box, 1) == [1]
    await until(lambda: broker.readers == 1)


async def test_the_regular_work_goes_on_after_an_error_and_logs_it_once(
    layer, broker, caplog, monkeypatch
):
    monkeypatch.setattr("tiderace.layers.pubsub.pump._RETRY", 0.01)
    broker.errors["announce"] = [ValueError("wrong type")] * 3
    box = await member(layer, "room")

    await until(lambda: broker.announced.get("room") == {box.name})

    assert caplog.text.count("cannot be announced") == 1


# Closing


async def test_closing_does_not_wait_for_missed_messages(layer, broker):
    box = await member(layer, "room")
    await until(lambda: broker.is_connected)
    broker.append("room", message(1))
    broker.gates["read_after"] = asyncio.Event()
    broker.arriving.put_nowait([Reconnected()])
    await until(lambda: ("read_after", "room", 0) in broker.calls)

    async with asyncio.timeout(5):
        await layer.close()
    broker.gates["read_after"].set()
    layer._pump.ensure_running()

    assert broker.readers == 0
    assert await received(box, 1) == [1]


async def test_a_flushed_layer_still_serves_its_consumers(layer, broker):
    box = await member(layer, "room")
    await layer.flush()
    assert "room" not in broker.wanted

    await layer.group_add("room", box.name)
    await layer.group_send("room", {"type": "said", "n": 1})

    assert await received(box, 1) == [1]


async def test_loops_that_begin_at_once_agree_on_one_home(layer, broker):
    start = threading.Barrier(4)
    homes = []

    async def attach(name):
        start.wait(10)
        layer.attach(name)
        homes.append(layer._pump.home)
        # Wait for all of them, so that the home loop is still running.
        await asyncio.to_thread(start.wait, 10)

    names = [await layer.new_channel() for _ in range(4)]
    await asyncio.gather(
        *(asyncio.to_thread(asyncio.run, attach(name)) for name in names)
    )

    assert len(set(map(id, homes))) == 1


async def test_groups_joined_and_left_without_a_reader_leave_nothing_behind(
    layer, broker
):
    channel = await layer.new_channel()

    for number in range(1000):
        await layer.group_add(f"room-{number}", channel)
        await layer.group_discard(f"room-{number}", channel)

    assert len(list(layer._cursors)) < 200
    assert layer._memberships.pending < 200
    assert len(broker.wanted) < 200


# Named queues


async def test_a_queue_read_again_during_its_unsubscription_is_subscribed_again(
    layer, broker
):
    first = asyncio.create_task(layer.receive("work"))
    await until(lambda: "work" in broker.wanted)
    await layer.send("work", {"type": "job", "n": 1})
    assert (await first)["n"] == 1
    broker.gates["unsubscribe"] = asyncio.Event()
    await until(lambda: ("unsubscribe", "work") in broker.calls)

    second = asyncio.create_task(layer.receive("work"))
    await until(lambda: ("subscribe", "work") in broker.calls[-3:])
    broker.gates["unsubscribe"].set()
    await until(lambda: "work" in broker.wanted)
    await layer.send("work", {"type": "job", "n": 2})

    # Well before the next poll.
    assert (await asyncio.wait_for(second, 3))["n"] == 2


async def test_a_reader_of_a_queue_waits_for_the_broker(
    layer, broker, caplog, monkeypatch
):
    monkeypatch.setattr("tiderace.layers.pubsub.queues._RETRY", 0.01)
    broker.errors["take"] = [LayerUnavailable("away")] * 3
    await layer.send("work", {"type": "job", "n": 1})

    assert (await asyncio.wait_for(layer.receive("work"), 10))["n"] == 1

    assert caplog.text.count("nothing can be taken") == 1


async def test_a_reader_cancelled_while_acknowledging_returns_the_message_to_the_head(
    layer, broker
):
    await layer.send("work", {"type": "job", "n": 1})
    await layer.send("work", {"type": "job", "n": 2})
    broker.gates["ack"] = asyncio.Event()
    reading = asyncio.create_task(layer.receive("work"))
    await until(lambda: ("ack", "work") in broker.calls)

    reading.cancel()
    await asyncio.wait([reading])
    broker.gates["ack"].set()
    await until(lambda: ("nack", "work", True) in broker.calls)

    assert (await layer.receive("work"))["n"] == 1
    assert (await layer.receive("work"))["n"] == 2


# Readiness


async def test_a_process_that_does_not_receive_is_ready(layer):
    assert layer.ready


async def test_a_process_that_receives_is_ready_while_it_is_connected(layer, broker):
    layer.attach(await layer.new_channel())
    assert not layer.ready
    await until(lambda: layer.ready)

    broker.mute = True

    assert not layer.ready


class Listener:
    """Records in which iteration of the loop each publication came."""

    def __init__(self):
        self.groups = set()
        self.came = []
        self.iteration = 0
        self.counting = asyncio.create_task(self.count())

    async def count(self):
        while True:
            self.iteration += 1
            await asyncio.sleep(0)

    def on_publication(self, group, publication):
        self.came.append(self.iteration)

    def on_gap(self, group):
        self.came.append("gap")

    async def take_burst(self, broker, size):
        """Let ``size`` publications arrive at once, and wait until all have come."""
        burst = [broker.append("room", message(number)) for number in range(size)]
        broker.arriving.put_nowait(burst)
        await until(lambda: len(self.came) == size)
        self.counting.cancel()


class SilentListener:
    """Ignores what it gets."""

    def __init__(self):
        self.groups = set()

    def on_publication(self, group, publication):
        pass

    def on_gap(self, group):
        pass


async def test_a_hundred_publications_to_listeners_come_in_one_iteration(layer, broker):
    listener = Listener()
    broker.append("room", message(0))
    await layer.stream_subscribe("room", listener)
    await settle()

    await listener.take_burst(broker, 100)

    assert len(set(listener.came)) == 1


async def test_longer_bursts_of_publications_let_others_run_in_between(layer, broker):
    listener = Listener()
    broker.append("room", message(0))
    await layer.stream_subscribe("room", listener)
    await settle()

    await listener.take_burst(broker, 300)

    assert max(map(listener.came.count, listener.came)) <= 128


async def test_a_burst_to_many_listeners_lets_others_run_after_32_publications(
    layer, broker
):
    listener = Listener()
    broker.append("room", message(0))
    await layer.stream_subscribe("room", listener)
    for _ in range(32):
        await layer.stream_subscribe("room", SilentListener())
    await settle()

    await listener.take_burst(broker, 100)

    assert max(map(listener.came.count, listener.came)) <= 32


async def test_a_burst_to_a_group_with_a_listener_and_a_consumer_fills_no_mailbox(
    layer, broker
):
    broker.append("room", message(0))
    listener, box = Listener(), await member(layer, "room")
    await layer.stream_subscribe("room", listener)
    await settle()

    burst = [broker.append("room", message(number)) for number in range(100)]
    broker.arriving.put_nowait(burst)
    most = 0
    for number in range(100):
        assert (await box.get())["n"] == number
        most = max(most, len(box))

    assert most <= 32
    listener.counting.cancel()


async def test_a_malformed_message_to_the_inbox_is_dropped_and_the_next_arrives(
    layer, broker, caplog
):
    box = await member(layer, "room")
    await until(lambda: broker.is_connected)
    inbox = f"process!{layer._local.process}"

    with caplog.at_level(logging.CRITICAL, "tiderace.layers"):
        broker.arriving.put_nowait([broker.append(inbox, b'{"type": "no address"}')])
        broker.arriving.put_nowait([broker.append(inbox, b"7")])
        await layer.group_send("room", {"type": "said", "n": 1})

        assert await received(box, 1) == [1]
