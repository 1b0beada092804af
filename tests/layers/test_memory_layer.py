"""The in-memory layer: the public contract, and what is its own."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from support.clock import FakeClock
from support.waiting import PATIENCE, settle
from tiderace import metrics
from tiderace.exceptions import ChannelFull
from tiderace.layers import InMemoryChannelLayer
from tiderace.testing.layer_contract import (
    LayerContract,
    LocalDeliveryContract,
    StreamsContract,
)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make_layer(clock):
    return lambda **options: InMemoryChannelLayer(clock=clock, **options)


@pytest.fixture
def layer(make_layer):
    return make_layer()


class TestContract(StreamsContract, LocalDeliveryContract, LayerContract):
    @pytest.fixture(autouse=True)
    def _with_clock(self, clock):
        self.clock = clock

    async def advance(self, seconds):
        self.clock.advance(seconds)


class Broken(InMemoryChannelLayer):
    """A layer with one error, which the contract must find."""


class Deaf(Broken):
    async def group_send(self, group, message, **options):
        self.require_valid_group_name(group)


class Endless(Broken):
    def __init__(self, expiry=60, **options):
        super().__init__(expiry=10**9, **options)


class Roomy(Broken):
    def __init__(self, capacity=100, **options):
        super().__init__(capacity=capacity + 1, **options)


class Sharing(Broken):
    async def send(self, channel, message):
        self.require_valid_channel_name(channel)
        self._local.put(channel, message)


class Stacking(Broken):
    async def receive(self, channel):
        message = await super().receive(channel)
        box = self._local.mailboxes.get(channel)
        if box is not None and not box.empty():
            return await super().receive(channel)
        return message


class Forgetful(Broken):
    async def group_discard(self, group, channel):
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)


class Repeating(Broken):
    async def new_channel(self, prefix="specific."):
        return f"{prefix}same!same"


class Greedy(Broken):
    async def receive(self, channel):
        message = await super().receive(channel)
        await asyncio.sleep(0)
        return message


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Deaf, "test_every_member_gets_a_group_message"),
        (Deaf, "test_a_group_without_members_refuses_an_unsupported_value"),
        (Endless, "test_a_message_is_not_read_after_its_expiry"),
        (Endless, "test_expired_messages_free_the_capacity"),
        (Roomy, "test_the_message_beyond_the_capacity_is_refused"),
        (Sharing, "test_later_changes_by_the_sender_do_not_reach_the_receiver"),
        (Sharing, "test_the_error_for_an_unsupported_value_contains_its_path"),
        (Stacking, "test_messages_arrive_in_the_order_in_which_they_were_sent"),
        (Forgetful, "test_a_discarded_member_gets_no_later_message"),
        (Repeating, "test_new_channels_have_different_names"),
        (Greedy, "test_a_cancelled_reader_loses_no_message"),
    ],
)
async def test_the_contract_notices_a_layer_that_breaks_it(clock, broken, test):
    contract = TestContract()
    contract.clock = clock
    contract.timeout = 0.05

    def make_layer(**options):
        return broken(clock=clock, **options)

    method = getattr(contract, test)
    fixtures = {"layer": make_layer(), "make_layer": make_layer}
    wanted = method.__code__.co_varnames[1 : method.__code__.co_argcount]

    with pytest.raises((AssertionError, TimeoutError, ChannelFull)):
        await method(**{name: fixtures[name] for name in wanted})


async def test_a_contract_without_a_way_for_time_to_pass_says_so():
    with pytest.raises(NotImplementedError, match=r"define advance\(seconds\)"):
        await LayerContract().advance(1)


# Attributes


def test_the_extensions_are_listed(layer):
    assert layer.extensions == ["groups", "flush", "streams"]


async def test_channels_with_unread_messages_are_listed(layer):
    await layer.send("queue", {"type": "greet"})

    assert list(layer.channels) == ["queue"]
    assert layer.channels["queue"].qsize() == 1


async def test_a_channel_without_unread_messages_is_not_listed(layer):
    await layer.send("queue", {"type": "greet"})
    await layer.receive("queue")

    assert layer.channels == {}


async def test_a_channel_with_a_waiting_reader_is_listed(layer):
    reader = asyncio.create_task(layer.receive("queue"))
    await settle()

    assert list(layer.channels) == ["queue"]
    reader.cancel()


async def test_groups_and_their_members_are_listed(layer):
    await layer.group_add("room", "queue")

    assert "queue" in layer.groups["room"]


async def test_a_group_ends_with_its_last_member(layer):
    await layer.group_add("room", "queue")
    await layer.group_discard("room", "queue")

    assert layer.groups == {}


async def test_the_members_of_a_group_are_listed_and_counted(layer):
    for channel in ("b", "a"):
        await layer.group_add("room", channel)

    assert await layer.group_channels("room") == ["b", "a"]
    assert await layer.group_count("room") == 2
    assert await layer.group_count("nowhere") == 0


async def test_one_message_goes_to_several_groups_once_per_channel(layer):
    for group, channel in (("room", "both"), ("hall", "both"), ("hall", "one")):
        await layer.group_add(group, channel)

    await layer.group_send(["room", "hall", "room"], {"type": "greet"})

    assert layer.channels["both"].qsize() == 1
    assert layer.channels["one"].qsize() == 1


async def test_excluded_channels_get_nothing(layer):
    for channel in ("sender", "other"):
        await layer.group_add("room", channel)

    await layer.group_send("room", {"type": "greet"}, exclude=["sender"])

    assert list(layer.channels) == ["other"]


# Options


def test_an_unknown_option_is_refused_with_the_nearest_one():
    with pytest.raises(TypeError, match="no option 'capacty'; did you mean 'capacity'"):
        InMemoryChannelLayer(capacty=5)


def test_the_options_are_attributes():
    layer = InMemoryChannelLayer(expiry=5, group_expiry=7, capacity=3)

    assert (layer.expiry, layer.group_expiry, layer.capacity) == (5, 7, 3)


def test_the_defaults_are_those_of_channels():
    layer = InMemoryChannelLayer()

    assert (layer.expiry, layer.group_expiry, layer.capacity) == (60, 86400, 100)


async def test_a_capacity_counts_from_the_full_name(make_layer):
    layer = make_layer(capacity=1, channel_capacity={"specific.*!b": 2})
    await layer.send("specific.x!b", {"type": "greet"})
    await layer.send("specific.x!b", {"type": "greet"})
    await layer.send("specific.x!a", {"type": "greet"})

    with pytest.raises(ChannelFull):
        await layer.send("specific.x!a", {"type": "greet"})


# Error texts


async def test_the_full_channel_is_named_by_the_error(make_layer):
    layer = make_layer(capacity=0)

    with pytest.raises(ChannelFull, match="queue"):
        await layer.send("queue", {"type": "greet"})


async def test_a_message_that_is_no_dict_fails_an_assertion(layer):
    with pytest.raises(AssertionError, match="message is not a dict but a str"):
        await layer.send("queue", "greet")
    with pytest.raises(AssertionError, match="message is not a dict but a list"):
        await layer.group_send("room", [])


async def test_a_reserved_key_fails_an_assertion(layer):
    with pytest.raises(AssertionError, match="__asgi_channel__"):
        await layer.send("queue", {"type": "greet", "__asgi_channel__": "x"})


# Drops


async def test_a_slow_consumers_drops_are_logged_once_a_minute(
    make_layer, clock, caplog
):
    layer = make_layer(capacity=1, expiry=10_000)
    mailbox = layer.attach("slow")
    await layer.group_add("room", "slow")
    await layer.group_send("room", {"type": "fits"})

    for _ in range(5):
        await layer.group_send("room", {"type": "dropped"})
    clock.advance(60)
    await layer.group_send("room", {"type": "dropped"})

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "channel slow is full" in lines[0]
    assert "dropped: 1)" in lines[0]
    assert "dropped: 5)" in lines[1]
    assert "group room" in lines[1]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    await layer.detach(mailbox)


async def test_every_drop_is_counted(make_layer):
    layer = make_layer(capacity=1)
    await layer.group_add("room", "queue")
    before = metrics.MESSAGES_DROPPED_FULL.value

    for _ in range(4):
        await layer.group_send("room", {"type": "greet"})

    assert metrics.MESSAGES_DROPPED_FULL.value == before + 3


async def test_messages_are_counted_as_sent_once_and_delivered_per_member(layer):
    for channel in ("a", "b", "c"):
        await layer.group_add("room", channel)
    sent = metrics.MESSAGES_SENT.value
    delivered = metrics.MESSAGES_DELIVERED.value

    await layer.group_send("room", {"type": "greet"})
    await layer.send("a", {"type": "greet"})

    assert metrics.MESSAGES_SENT.value == sent + 2
    assert metrics.MESSAGES_DELIVERED.value == delivered + 4


# Expiry


async def test_a_channel_without_a_reader_loses_its_memberships(make_layer, clock):
    layer = make_layer(expiry=10)
    await layer.group_add("room", "forgotten")
    await layer.group_send("room", {"type": "unread"})

    clock.advance(10)
    await layer.send("elsewhere", {"type": "greet"})

    assert layer.groups == {}
    assert list(layer.channels) == ["elsewhere"]


async def test_expired_memberships_are_removed_by_any_call(make_layer, clock):
    layer = make_layer(group_expiry=100)
    await layer.group_add("room", "old")
    clock.advance(60)
    await layer.group_add("room", "young")
    clock.advance(60)

    assert await layer.group_channels("room") == ["young"]


async def test_nothing_is_kept_of_a_channel_once_its_last_message_would_have_expired(
    make_layer, clock
):
    layer = make_layer(expiry=10)
    for number in range(100):
        await layer.send(f"reply.{number}", {"type": "greet"})
        await layer.receive(f"reply.{number}")

    clock.advance(10)
    await layer.group_send("room", {"type": "greet"})

    assert layer._local.mailboxes == {}
    assert len(layer._local.expiry_queue) == 0


async def test_a_busy_queue_is_in_the_expiry_queue_once(layer):
    for _ in range(1000):
        await layer.send("queue", {"type": "work"})
        await layer.receive("queue")

    assert len(layer._local.expiry_queue) <= 1


async def test_a_consumers_channel_leaves_nothing_behind(layer):
    channel = await layer.new_channel()
    mailbox = layer.attach(channel)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "unread"})

    await layer.detach(mailbox)

    assert layer._local.mailboxes == {}
    assert layer.groups == {}
    assert layer.channels == {}


async def test_a_cancelled_reader_leaves_nothing_behind(layer):
    reader = asyncio.create_task(layer.receive("queue"))
    await settle()

    reader.cancel()
    await settle()

    assert layer._local.mailboxes == {}


async def test_a_flushed_layer_keeps_the_channels_of_its_consumers(layer):
    channel = await layer.new_channel()
    mailbox = layer.attach(channel)
    await layer.group_add("room", channel)

    await layer.flush()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "greet"})

    assert await mailbox.get() == {"type": "greet"}
    await layer.detach(mailbox)


async def test_a_waiting_reader_survives_a_flush(layer):
    await layer.send("queue", {"type": "old"})
    await layer.receive("queue")
    reader = asyncio.create_task(layer.receive("queue"))
    await settle()

    await layer.flush()
    await layer.send("queue", {"type": "greet"})

    assert await asyncio.wait_for(reader, PATIENCE) == {"type": "greet"}


async def test_after_a_flush_unread_messages_still_expire(make_layer, clock):
    layer = make_layer(expiry=10)
    reader = asyncio.create_task(layer.receive("queue"))
    await settle()
    await layer.send("queue", {"type": "noted"})
    await reader
    await layer.group_add("room", "queue")
    await layer.flush()

    await layer.group_add("room", "queue")
    await layer.group_send("room", {"type": "unread"})
    clock.advance(10)

    assert await layer.group_channels("room") == []


async def test_a_woken_reader_whose_message_was_taken_is_woken_again(layer):
    """A later reader may take the message before the woken reader has run."""
    waiting = asyncio.create_task(layer.receive("queue"))
    await settle()
    await layer.send("queue", {"type": "first"})
    assert await layer.receive("queue") == {"type": "first"}
    await settle()

    await layer.send("queue", {"type": "second"})

    assert await asyncio.wait_for(waiting, PATIENCE) == {"type": "second"}


# Cost


async def test_a_message_to_one_member_costs_nothing_for_other_channels(
    layer, monkeypatch
):
    """The work does not grow with the number of other channels."""
    touched = set()
    boxes = []
    for number in range(10_000):
        channel = f"specific.crowd!{number}"
        boxes.append(layer.attach(channel))
        await layer.group_add("crowd", channel)
    await layer.group_add("room", "specific.me!1")

    box_type = type(boxes[0])
    for method in (
        "push",
        "discard_expired",
        "drop_and_reschedule",
        "empty",
        "__len__",
    ):
        original = getattr(box_type, method)

        def seen(box, *args, original=original):
            touched.add(box.name)
            return original(box, *args)

        monkeypatch.setattr(box_type, method, seen)
    await layer.group_send("room", {"type": "greet"})

    assert touched == {"specific.me!1"}


async def test_a_group_message_is_encoded_once_whatever_the_members(layer, monkeypatch):
    from tiderace.layers import encoding

    encoded = []
    original = encoding.encode
    monkeypatch.setattr(
        encoding, "encode", lambda message: encoded.append(1) or original(message)
    )
    for number in range(100):
        await layer.group_add("room", f"queue.{number}")

    await layer.group_send("room", {"type": "greet"})

    assert len(encoded) == 1


async def test_a_reader_may_change_a_group_message(layer):
    channels = [await layer.new_channel() for _ in range(2)]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "greet", "to": "you"})

    for channel in channels:
        message = await layer.receive(channel)
        assert message.pop("type") == "greet"
        assert message == {"to": "you"}


async def test_a_group_message_makes_no_task(layer):
    for number in range(100):
        await layer.group_add("room", f"queue.{number}")
    before = asyncio.all_tasks()

    await layer.group_send("room", {"type": "greet"})

    assert asyncio.all_tasks() == before


# Threads


def test_threads_use_one_layer_in_their_own_loops_and_every_message_arrives(layer):
    """Competing readers in two loops, senders in two more, until the last message."""
    per_sender, senders = 300, 2
    taken: list[int] = []
    errors: list[BaseException] = []
    layer.capacity = per_sender * senders + 2

    async def read():
        while (message := await layer.receive("queue"))["type"] != "stop":
            taken.append(message["number"])

    async def send(sender):
        for number in range(per_sender):
            await layer.send(
                "queue", {"type": "work", "number": sender * per_sender + number}
            )
            await asyncio.sleep(0)

    def run(coroutine):
        try:
            asyncio.run(coroutine)
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=run, args=(read(),)) for _ in range(2)]
    writers = [
        threading.Thread(target=run, args=(send(sender),)) for sender in range(senders)
    ]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join(PATIENCE)
    for _ in readers:
        asyncio.run(layer.send("queue", {"type": "stop"}))
    for thread in readers:
        thread.join(PATIENCE)

    assert errors == []
    assert sorted(taken) == list(range(per_sender * senders))


def test_threads_join_leave_and_send_to_a_group_at_once(layer):
    layer.capacity = 500
    errors: list[BaseException] = []
    start = threading.Barrier(4)
    steady = layer.attach("steady")
    asyncio.run(layer.group_add("room", steady.name))

    async def come_and_go():
        for _ in range(300):
            mailbox = layer.attach(await layer.new_channel())
            await layer.group_add("room", mailbox.name)
            await layer.group_add(f"own.{threading.get_ident()}", mailbox.name)
            await layer.detach(mailbox)

    async def send():
        for number in range(500):
            await layer.group_send("room", {"type": "work", "number": number})

    def run(coroutine):
        try:
            start.wait(PATIENCE)
            asyncio.run(coroutine)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(come_and_go(),)) for _ in range(3)]
    threads.append(threading.Thread(target=run, args=(send(),)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert errors == []
    assert {group: list(members) for group, members in layer.groups.items()} == {
        "room": ["steady"]
    }
    assert len(steady) == 500
