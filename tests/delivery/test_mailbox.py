"""A mailbox: bounded, in order, without loss when readers are cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.clock import FakeClock
from support.waiting import PATIENCE, settle, within
from tiderace import metrics
from tiderace.delivery.mailbox import ExpiryQueue, Mailbox, Source

FAR = float("inf")
END = -1


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def mailbox(clock):
    """A mailbox of three on the fake clock."""
    return Mailbox("box", 3, clock=clock)


async def finish(*tasks):
    """Return the results of ``tasks``."""
    return await within(asyncio.gather(*tasks))


# Messages


async def test_messages_are_read_in_the_order_in_which_they_were_pushed(mailbox):
    for number in range(3):
        mailbox.push(number, FAR)

    assert [await mailbox.get() for _ in range(3)] == [0, 1, 2]


async def test_a_reader_waits_for_the_message_that_is_pushed_later(mailbox):
    reader = asyncio.create_task(mailbox.get())
    await settle()
    assert not reader.done()

    mailbox.push("late", FAR)

    assert await finish(reader) == ["late"]


def test_a_mailbox_takes_no_more_messages_than_its_capacity(mailbox):
    assert [mailbox.push(number, FAR) for number in range(4)] == [
        True,
        True,
        True,
        False,
    ]
    assert len(mailbox) == mailbox.qsize() == 3


async def test_a_full_mailbox_has_room_again_when_one_message_was_read(mailbox):
    for number in range(3):
        mailbox.push(number, FAR)

    await mailbox.get()

    assert mailbox.push("more", FAR)


def test_a_mailbox_that_is_full_of_expired_messages_has_room(mailbox, clock):
    for number in range(3):
        mailbox.push(number, clock.now + 10)

    clock.advance(10)

    assert mailbox.push("fresh", clock.now + 10)
    assert len(mailbox) == 1


def test_a_mailbox_whose_oldest_message_is_unexpired_is_full(mailbox, clock):
    for _ in range(3):
        mailbox.push("alive", clock.now + 10)

    clock.advance(9.9)

    assert not mailbox.push("refused", FAR)


async def test_a_message_is_not_read_at_its_deadline_or_later(mailbox, clock):
    mailbox.push("old", clock.now + 10)
    mailbox.push("new", clock.now + 11)

    clock.advance(10)

    assert await mailbox.get() == "new"


async def test_an_expired_message_is_counted(mailbox, clock):
    before = metrics.MESSAGES_DROPPED_EXPIRED.value
    mailbox.push("old", clock.now + 10)
    mailbox.push("new", FAR)
    clock.advance(10)

    await mailbox.get()

    assert metrics.MESSAGES_DROPPED_EXPIRED.value == before + 1


def test_expired_messages_that_a_push_drops_are_counted(mailbox, clock):
    before = metrics.MESSAGES_DROPPED_EXPIRED.value
    for _ in range(3):
        mailbox.push("old", clock.now + 10)
    clock.advance(10)

    mailbox.push("new", FAR)

    assert metrics.MESSAGES_DROPPED_EXPIRED.value == before + 3


async def test_a_mailbox_that_was_cleared_is_empty(mailbox):
    mailbox.push("gone", FAR)

    mailbox.clear()

    assert mailbox.empty()


async def test_all_members_may_hold_the_same_object(mailbox):
    message = {"type": "chat"}

    mailbox.push(message, FAR)

    assert await mailbox.get() is message


def test_the_repr_of_a_mailbox_has_its_name_and_size(mailbox):
    mailbox.push("one", FAR)

    assert repr(mailbox) == "<Mailbox box 1/3>"


# Drops


def test_drops_are_reported_once_per_interval_with_their_number(mailbox, clock):
    assert mailbox.count_drop(60) == 1
    assert [mailbox.count_drop(60) for _ in range(3)] == [0, 0, 0]

    clock.advance(60)

    assert mailbox.count_drop(60) == 4


# Several readers


async def test_each_message_goes_to_one_of_several_readers(mailbox):
    readers = [asyncio.create_task(mailbox.get()) for _ in range(3)]
    await settle()

    for number in range(3):
        mailbox.push(number, FAR)

    assert sorted(await finish(*readers)) == [0, 1, 2]


async def test_readers_are_served_in_the_order_in_which_they_came(mailbox):
    served = []

    async def read(name):
        served.append((name, await mailbox.get()))

    readers = []
    for name in "abc":
        readers.append(asyncio.create_task(read(name)))
        await settle()
    for number in range(3):
        mailbox.push(number, FAR)
    await finish(*readers)

    assert served == [("a", 0), ("b", 1), ("c", 2)]


async def test_a_woken_reader_waits_again_if_another_takes_the_message(mailbox):
    reader = asyncio.create_task(mailbox.get())
    await settle()
    mailbox.push("first", FAR)

    # The reader has been woken but has not run yet.
    assert await mailbox.get() == "first"
    await settle()
    assert not reader.done()

    mailbox.push("second", FAR)
    assert await finish(reader) == ["second"]


# Giving up


async def test_a_cancelled_reader_takes_no_message(mailbox):
    reader = asyncio.create_task(mailbox.get())
    await settle()
    reader.cancel()
    await settle()

    mailbox.push("kept", FAR)

    assert await mailbox.get() == "kept"


async def test_a_reader_cancelled_when_it_was_woken_passes_the_message_on(mailbox):
    first = asyncio.create_task(mailbox.get())
    await settle()
    second = asyncio.create_task(mailbox.get())
    await settle()

    mailbox.push("due", FAR)
    first.cancel()

    assert await finish(second) == ["due"]
    assert first.cancelled()


async def test_a_wake_up_skips_a_reader_that_is_already_cancelled(mailbox):
    first = asyncio.create_task(mailbox.get())
    await settle()
    second = asyncio.create_task(mailbox.get())
    await settle()

    first.cancel()
    mailbox.push("due", FAR)

    assert await finish(second) == ["due"]


# Events


async def test_the_future_of_a_posted_event_is_done_when_it_is_taken(mailbox):
    taken = mailbox.post("connect")
    await settle()
    assert not taken.done()

    assert await mailbox.next() == (Source.EVENT, "connect")
    await finish(taken)


async def test_next_waits_for_an_event(mailbox):
    reader = asyncio.create_task(mailbox.next())
    await settle()

    await mailbox.post("connect")

    assert await finish(reader) == [(Source.EVENT, "connect")]


async def test_next_waits_for_a_message(mailbox):
    reader = asyncio.create_task(mailbox.next())
    await settle()

    mailbox.push("news", FAR)

    assert await finish(reader) == [(Source.MESSAGE, "news")]


async def test_events_come_before_messages_that_wait_with_them(mailbox):
    mailbox.push("news", FAR)
    taken = mailbox.post("connect")
    await settle()

    assert await mailbox.next() == (Source.EVENT, "connect")
    await finish(taken)


async def test_events_and_messages_alternate(clock):
    mailbox = Mailbox("box", 10, clock=clock)
    taken = [mailbox.post(f"event {n}") for n in range(3)]
    await settle()
    for number in range(3):
        mailbox.push(f"message {number}", FAR)

    read = [(await mailbox.next())[1] for _ in range(6)]
    await finish(*taken)

    assert read == [
        "event 0",
        "message 0",
        "event 1",
        "message 1",
        "event 2",
        "message 2",
    ]


async def test_expired_messages_do_not_delay_an_event(mailbox, clock):
    first = mailbox.post("first")
    await settle()
    await mailbox.next()
    mailbox.push("old", clock.now + 10)
    second = mailbox.post("second")
    await settle()
    clock.advance(10)

    assert await mailbox.next() == (Source.EVENT, "second")
    await finish(first, second)


async def test_an_event_does_not_go_to_a_reader_of_messages(mailbox):
    messages = asyncio.create_task(mailbox.get())
    await settle()
    everything = asyncio.create_task(mailbox.next())
    await settle()

    await mailbox.post("connect")

    assert await finish(everything) == [(Source.EVENT, "connect")]
    assert not messages.done()
    mailbox.push("news", FAR)
    assert await finish(messages) == ["news"]


async def test_a_reader_that_takes_an_event_leaves_its_message_to_the_next(mailbox):
    everything = asyncio.create_task(mailbox.next())
    await settle()
    messages = asyncio.create_task(mailbox.get())
    await settle()

    # Woken for the message, it finds the event first.
    asyncio.get_running_loop().call_soon(mailbox.push, "news", FAR)
    taken = mailbox.post("connect")

    assert await finish(everything, messages, taken) == [
        (Source.EVENT, "connect"),
        "news",
        None,
    ]


async def test_a_message_may_be_posted_one_by_one_like_an_event(mailbox):
    taken = mailbox.post("news", Source.MESSAGE)
    await settle()

    assert await mailbox.next() == (Source.MESSAGE, "news")
    await finish(taken)


async def test_an_event_whose_future_was_cancelled_is_still_read(mailbox):
    taken = mailbox.post("disconnect")
    await settle()
    taken.cancel()
    await settle()

    assert await mailbox.next() == (Source.EVENT, "disconnect")


# Holding messages back


async def test_a_held_mailbox_returns_events_only(mailbox):
    mailbox.push("news", FAR)
    mailbox.hold()
    reader = asyncio.create_task(mailbox.next())
    await settle()
    assert not reader.done()

    await mailbox.post("disconnect")

    assert await finish(reader) == [(Source.EVENT, "disconnect")]


async def test_a_message_pushed_while_held_waits_for_the_release(mailbox):
    mailbox.hold()
    reader = asyncio.create_task(mailbox.next())
    await settle()
    mailbox.push("news", FAR)
    await settle()
    assert not reader.done()

    mailbox.release()

    assert await finish(reader) == [(Source.MESSAGE, "news")]


async def test_a_message_posted_while_held_waits_for_the_release(mailbox):
    mailbox.hold()
    taken = mailbox.post("news", Source.MESSAGE)
    reader = asyncio.create_task(mailbox.next())
    await settle()
    assert not reader.done()

    mailbox.release()

    assert await finish(reader, taken) == [
        (Source.MESSAGE, "news"),
        None,
    ]


async def test_an_event_overtakes_a_held_message_posted_before_it(mailbox):
    mailbox.hold()
    message = mailbox.post("news", Source.MESSAGE)
    await settle()
    event = mailbox.post("disconnect")
    await settle()

    assert await mailbox.next() == (Source.EVENT, "disconnect")

    mailbox.release()
    assert await mailbox.next() == (Source.MESSAGE, "news")
    await finish(message, event)


async def test_while_held_a_message_goes_to_a_reader_of_messages(mailbox):
    mailbox.hold()
    everything = asyncio.create_task(mailbox.next())
    await settle()
    messages = asyncio.create_task(mailbox.get())
    await settle()

    mailbox.push("news", FAR)

    assert await finish(messages) == ["news"]
    everything.cancel()


# Expiry without a reader


def test_a_mailbox_is_queued_for_expiry_once(clock):
    expiry_queue = ExpiryQueue()
    mailbox = Mailbox("box", 100, expiry_queue=expiry_queue, clock=clock)

    for _ in range(50):
        mailbox.push("news", clock.now + 10)

    assert len(expiry_queue) == 1


def test_a_mailbox_is_not_popped_before_its_time(clock):
    expiry_queue = ExpiryQueue()
    mailbox = Mailbox("box", 3, expiry_queue=expiry_queue, clock=clock)
    mailbox.push("news", clock.now + 10)

    assert expiry_queue.pop(clock.now + 9.9) is None
    assert expiry_queue.pop(clock.now + 10) is mailbox
    assert expiry_queue.pop(FAR) is None


def test_mailboxes_are_popped_in_the_order_of_expiry(clock):
    expiry_queue = ExpiryQueue()
    boxes = {
        after: Mailbox(f"box{after}", 3, expiry_queue=expiry_queue, clock=clock)
        for after in (30, 10, 20)
    }
    for after, mailbox in boxes.items():
        mailbox.push("news", clock.now + after)

    assert [expiry_queue.pop(FAR).name for _ in boxes] == ["box10", "box20", "box30"]


def test_a_mailbox_is_queued_again_for_its_next_message(clock):
    expiry_queue = ExpiryQueue()
    mailbox = Mailbox("box", 3, expiry_queue=expiry_queue, clock=clock)
    mailbox.push("first", clock.now + 10)
    mailbox.push("second", clock.now + 20)
    clock.advance(10)

    assert expiry_queue.pop(clock.now).drop_and_reschedule() == 1
    assert expiry_queue.pop(clock.now) is None

    clock.advance(10)
    assert expiry_queue.pop(clock.now).drop_and_reschedule() == 1
    assert len(expiry_queue) == 0


def test_a_mailbox_is_queued_again_after_a_clear(clock):
    expiry_queue = ExpiryQueue()
    mailbox = Mailbox("box", 3, expiry_queue=expiry_queue, clock=clock)
    mailbox.push("first", clock.now + 10)

    expiry_queue.clear()
    mailbox.push("second", clock.now + 20)

    assert len(expiry_queue) == 1


def test_a_mailbox_of_a_consumer_is_not_queued_for_expiry(clock):
    expiry_queue = ExpiryQueue()
    mailbox = Mailbox("box", 3, expiry_queue=expiry_queue, clock=clock)
    mailbox.expiry_queue = None

    mailbox.push("news", clock.now + 10)

    assert len(expiry_queue) == 0


# Threads and loops


def test_a_push_from_another_thread_wakes_the_reader_in_its_loop():
    mailbox = Mailbox("box", 3)

    async def read():
        reader = asyncio.create_task(mailbox.get())
        await settle()
        pusher = threading.Thread(target=mailbox.push, args=("news", FAR))
        pusher.start()
        result = await finish(reader)
        pusher.join(PATIENCE)
        return result

    assert asyncio.run(read()) == ["news"]


async def test_a_reader_cancelled_when_a_thread_woke_it_passes_the_message_on(mailbox):
    first = asyncio.create_task(mailbox.get())
    await settle()
    second = asyncio.create_task(mailbox.get())
    await settle()
    pusher = threading.Thread(target=mailbox.push, args=("due", FAR))
    pusher.start()
    pusher.join(PATIENCE)

    # The wake-up is on its way into this loop.
    first.cancel()

    assert await finish(second) == ["due"]


async def test_a_message_pushed_just_before_a_reader_waits_is_read(mailbox):
    """Another thread may push after the reader looked and before it can be woken."""

    class Racing(list):
        def append(self, waiter):
            mailbox.push("just now", FAR)
            super().append(waiter)

    mailbox._waiters = Racing()

    assert await finish(mailbox.get()) == ["just now"]
    assert mailbox._waiters == []


def test_a_reader_of_a_closed_loop_is_skipped():
    mailbox = Mailbox("box", 3)
    abandoned = asyncio.new_event_loop()
    task = abandoned.create_task(mailbox.get())
    abandoned.run_until_complete(settle())
    abandoned.close()

    async def read():
        reader = asyncio.create_task(mailbox.get())
        await settle()
        mailbox.push("news", FAR)
        return await finish(reader)

    assert asyncio.run(read()) == ["news"]
    assert not task.done()
    task._log_destroy_pending = False


def test_messages_between_threads_are_neither_lost_nor_duplicated():
    pushers, each = 4, 2000
    mailbox: Mailbox[tuple[int, int]] = Mailbox("box", pushers * each)
    taken: list[list[tuple[int, int]]] = [[], []]
    end = (END, END)

    async def read(into):
        while (message := await mailbox.get()) != end:
            into.append(message)

    def push(who):
        for number in range(each):
            assert mailbox.push((who, number), FAR)

    readers = [
        threading.Thread(target=asyncio.run, args=(read(into),)) for into in taken
    ]
    threads = [threading.Thread(target=push, args=(who,)) for who in range(pushers)]
    for thread in [*readers, *threads]:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    mailbox.capacity += 2
    for _ in readers:
        mailbox.push(end, FAR)
    for thread in readers:
        thread.join(PATIENCE)

    assert sorted(taken[0] + taken[1]) == [
        (who, number) for who in range(pushers) for number in range(each)
    ]
    # A reader sees what one sender sent in the order in which it was sent.
    for read_by_one in taken:
        for who in range(pushers):
            numbers = [number for sender, number in read_by_one if sender == who]
            assert numbers == sorted(numbers)


def test_a_push_drops_expired_messages_only(clock):
    """A reader in another thread may take the expired message in between."""
    mailbox: Mailbox[int] = Mailbox("box", 2, clock=clock)
    taken: list[int] = []
    reader = threading.Thread(target=lambda: taken.append(asyncio.run(mailbox.get())))

    class Racing(deque):
        """Starts the reader when a push has seen that the oldest is expired."""

        def __getitem__(self, index):
            item = super().__getitem__(index)
            if reader.ident is None:
                reader.start()
                reader.join(0.05)
            return item

    mailbox._messages = Racing()
    mailbox.push(1, clock.now + 10)
    mailbox.push(2, clock.now + 20)
    clock.advance(10)

    mailbox.push(3, clock.now + 20)
    reader.join(PATIENCE)
    while not mailbox.empty():
        taken.append(asyncio.run(mailbox.get()))

    assert taken == [2, 3]


# Any order of events


class Model:
    """A mailbox of messages in its simplest form, without asyncio."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.waiting: list[tuple[float, int]] = []
        self.accepted: list[int] = []
        self.expired: set[int] = set()

    def push(self, number, now, deadline):
        if len(self.waiting) >= self.capacity:
            self.expire(now)
        if len(self.waiting) >= self.capacity:
            return False
        self.waiting.append((deadline, number))
        self.accepted.append(number)
        return True

    def take(self, number, now):
        """A reader got ``number``: it must be the oldest that lives."""
        self.expire(now)
        return bool(self.waiting) and self.waiting.pop(0)[1] == number

    def expire(self, now):
        """Those before the oldest that lives are over; only they are looked at."""
        while self.waiting and self.waiting[0][0] <= now:
            self.expired.add(self.waiting.pop(0)[1])

    def drain(self, now):
        """Return all that have not expired, in order."""
        self.expired |= {number for end, number in self.waiting if end <= now}
        return [number for end, number in self.waiting if end > now]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 5)),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 3)),
        st.tuples(st.just("pass time"), st.integers(1, 3)),
        st.tuples(st.just("let run"), st.integers(1, 4)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(steps=STEPS, capacity=st.integers(1, 4))
def test_messages_are_read_once_and_in_order(steps, capacity):
    clock = FakeClock(0.0)
    mailbox: Mailbox[int] = Mailbox("box", capacity, clock=clock)
    model = Model(capacity)
    got: list[int] = []
    in_order: list[bool] = []

    async def read():
        number = await mailbox.get()
        got.append(number)
        in_order.append(model.take(number, clock.now))

    async def play():
        readers: list[asyncio.Task[None]] = []
        for number, (step, amount) in enumerate(steps):
            match step:
                case "push":
                    deadline = clock.now + amount
                    expected = model.push(number, clock.now, deadline)
                    assert mailbox.push(number, deadline) == expected
                case "read":
                    readers.append(asyncio.create_task(read()))
                case "cancel" if readers:
                    readers[amount % len(readers)].cancel()
                case "pass time":
                    clock.advance(amount)
                case "let run":
                    for _ in range(amount):
                        await asyncio.sleep(0)
        await settle()
        waiting = [reader for reader in readers if not reader.done()]
        model.expire(clock.now)
        # A living message and a waiting reader at once would be a lost wake-up.
        assert not (waiting and model.waiting)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        left = []
        mailbox.capacity += 1
        mailbox.push(END, FAR)
        while (number := await mailbox.get()) != END:
            left.append(number)
        return left

    left = asyncio.run(play())

    assert all(in_order)
    assert got == sorted(got)
    assert left == model.drain(clock.now)
    assert sorted({*got, *left} | model.expired) == model.accepted
    assert len(got) == len(set(got))


def test_first_messages_of_many_threads_are_all_queued():
    threads_count = 8
    for _ in range(50):
        mailbox = Mailbox("box", 100)
        together = threading.Barrier(threads_count)

        def push(mailbox=mailbox, together=together):
            together.wait()
            mailbox.push("message", FAR)

        threads = [threading.Thread(target=push) for _ in range(threads_count)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

        assert len(mailbox) == threads_count


def test_mailboxes_without_messages_share_none():
    first, second = Mailbox("first", 3), Mailbox("second", 3)

    first.push("message", FAR)

    assert (len(first), len(second)) == (1, 0)
