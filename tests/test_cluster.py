"""The control bus: telling, asking, opening, and what happens when the broker is away."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from support.process_stats import process_stats
from support.waiting import until
from tiderace import cluster
from tiderace.cluster import Cluster
from tiderace.exceptions import LayerUnavailable
from tiderace.layers import InMemoryChannelLayer
from tiderace.layers.names import CLUSTER_GROUP
from tiderace.layers.redis import RedisChannelLayer
from tiderace.layers.stats import LayerStats
from tiderace.runtime.connections import ConnectionRegistry


@pytest.fixture
def handlers(monkeypatch):
    """The handlers of this test, which replace those of the package."""
    handlers = {}
    monkeypatch.setattr(cluster, "_handlers", handlers)
    return handlers


@pytest.fixture
async def one():
    """The bus of a process without others."""
    bus = Cluster(InMemoryChannelLayer())
    yield bus
    await bus.close()


@pytest.fixture
async def processes(redis_url, prefix):
    """The buses of three processes: one layer object is one process."""
    layers = [RedisChannelLayer(hosts=[redis_url], prefix=prefix) for _ in range(3)]
    buses = [Cluster(layer) for layer in layers]
    for bus in buses:
        await bus.open()
    yield buses
    for bus in buses:
        await bus.close()
        await bus.layer.close()


# One process


async def test_a_message_reaches_the_process_that_sends_it(one, handlers):
    received = []
    cluster.handler("note")(received.append)
    await one.open()

    await one.tell("note", {"number": 1})

    await until(lambda: received)
    assert received == [{"number": 1}]


async def test_a_question_is_answered_by_the_asker_too(one, handlers):
    cluster.handler("double")(lambda payload: payload * 2)

    answers = await one.ask("double", 21, timeout=0)

    assert answers.by_process == {one.process: 42}
    assert answers.silent == ()


async def test_an_answer_may_be_a_coroutine(one, handlers):
    @cluster.handler("double")
    async def double(payload):
        return payload * 2

    assert await one.ask_one(one.process, "double", 21, timeout=0) == 42


async def test_a_question_without_a_handler_has_no_answers(one, handlers):
    assert (await one.ask("unknown", None, timeout=0)).by_process == {}
    assert await one.ask_one(one.process, "unknown", None, timeout=0) is None


async def test_messages_are_handled_in_order(one, handlers):
    received = []
    cluster.handler("note")(received.append)
    await one.open()

    for number in range(10):
        await one.tell("note", number)

    await until(lambda: len(received) == 10)
    assert received == list(range(10))


async def test_a_handler_that_raises_keeps_no_message_from_the_next(
    one, handlers, caplog
):
    received = []

    @cluster.handler("note")
    def fail_once(payload):
        received.append(payload)
        if payload == 1:
            raise RuntimeError("broken")

    await one.open()
    await one.tell("note", 1)
    await one.tell("note", 2)

    await until(lambda: len(received) == 2)
    assert "a message of another process could not be handled" in caplog.text


async def test_without_a_layer_this_process_handles_its_own_messages(handlers):
    received = []
    cluster.handler("note")(received.append)
    bus = Cluster(None)

    assert await bus.open()
    assert not await bus.open()
    await bus.tell("note", 1)
    answers = await bus.ask("note", 2, timeout=0)

    assert received == [1, 2]
    assert answers.stats == LayerStats(())


async def test_a_closed_bus_receives_nothing(one, handlers):
    received = []
    cluster.handler("note")(received.append)
    await one.open()
    await one.close()

    await one.tell("note", 1)

    assert not one.is_open
    assert CLUSTER_GROUP not in one.groups
    assert received == []


def test_the_bus_moves_to_a_running_loop_when_its_own_is_closed(handlers):
    received = []
    cluster.handler("note")(received.append)
    bus = Cluster(InMemoryChannelLayer())
    asyncio.run(bus.open())

    async def use():
        assert not bus.is_open
        assert await bus.open()
        await bus.tell("note", 1)
        await until(lambda: received)

    asyncio.run(use())

    assert received == [1]


async def test_a_loop_that_does_not_receive_may_ask(one, handlers):
    cluster.handler("double")(lambda payload: payload * 2)
    await one.open()

    answers = await asyncio.to_thread(
        lambda: asyncio.run(one.ask("double", 21, timeout=1))
    )

    assert answers.by_process == {one.process: 42}


# Layers of other projects


class ForeignLayer:
    """A layer with the methods that Channels specifies."""

    def __init__(self):
        self.inner = InMemoryChannelLayer()
        for name in ("new_channel", "group_add", "group_discard", "group_send"):
            setattr(self, name, getattr(self.inner, name))
        self.fail = False

    async def receive(self, channel):
        message = await self.inner.receive(channel)
        if self.fail:
            raise ConnectionError("away")
        return message


async def test_a_layer_of_another_project_carries_messages(handlers):
    received = []
    cluster.handler("note")(received.append)
    bus = Cluster(ForeignLayer())
    await bus.open()

    await bus.tell("note", 1)

    await until(lambda: received)
    await bus.close()
    assert bus.layer.inner.groups == {}


async def test_over_a_layer_of_another_project_only_the_asker_answers(handlers):
    cluster.handler("double")(lambda payload: payload * 2)
    bus = Cluster(ForeignLayer())

    answers = await bus.ask("double", 21, timeout=0)

    assert not bus.can_ask
    assert list(answers.by_process.values()) == [42]


async def test_a_bus_over_a_layer_that_failed_can_be_opened_again(handlers):
    received = []
    cluster.handler("note")(received.append)
    bus = Cluster(ForeignLayer())
    await bus.open()
    bus.layer.fail = True
    await bus.tell("note", 1)
    await until(lambda: not bus.is_open)
    bus.layer.fail = False

    assert await bus.open()
    await bus.tell("note", 2)

    await until(lambda: received)
    assert received == [2]
    await bus.close()


# Several processes


async def test_a_message_reaches_every_process(processes, handlers):
    received = []
    cluster.handler("note")(received.append)

    await processes[0].tell("note", "tide")

    await until(lambda: len(received) == 3)
    assert received == ["tide"] * 3


async def test_every_known_process_is_waited_for_and_no_longer(processes, handlers):
    cluster.handler("double")(lambda payload: payload * 2)
    begun = time.perf_counter()
    answers = await processes[0].ask("double", 21, timeout=30)

    assert answers.by_process == {each.process: 42 for each in processes}
    assert answers.silent == ()
    assert time.perf_counter() - begun < 5


async def test_a_process_without_the_handler_is_not_waited_for(processes, handlers):
    begun = time.perf_counter()
    answers = await processes[0].ask("unknown", None, timeout=30)

    assert (answers.by_process, answers.silent) == ({}, ())
    assert time.perf_counter() - begun < 5


async def test_a_process_that_does_not_answer_in_time_is_named(processes, handlers):
    calls = []
    released = asyncio.Event()

    @cluster.handler("slow")
    async def answer_the_first_call(payload):
        calls.append(payload)
        if len(calls) > 1:  # the asker answers itself first
            await released.wait()
        return 1

    answers = await processes[0].ask("slow", None, timeout=0.1)
    released.set()

    assert answers.by_process == {processes[0].process: 1}
    assert {each.process for each in answers.silent} == {
        each.process for each in processes[1:]
    }


async def test_a_question_to_one_process_returns_its_answer(processes, handlers):
    cluster.handler("double")(lambda payload: payload * 2)

    answer = await processes[0].ask_one(processes[1].process, "double", 21, timeout=10)

    assert answer == 42


async def test_questions_of_one_process_are_handled_in_order(processes, handlers):
    received = []
    cluster.handler("note")(lambda payload: received.append(payload) or 1)

    await asyncio.gather(
        *(
            processes[0].ask_one(processes[1].process, "note", number, timeout=10)
            for number in range(20)
        )
    )

    assert received == list(range(20))


async def test_asking_a_process_that_does_not_exist_times_out(one, handlers):
    with pytest.raises(TimeoutError):
        await one.ask_one("gone", "note", None, timeout=0.01)


async def test_a_failing_answer_is_logged(processes, handlers, caplog):
    @cluster.handler("fail")
    async def fail(payload):
        await asyncio.sleep(0)
        raise RuntimeError("broken")

    with pytest.raises(TimeoutError):
        await processes[0].ask_one(processes[1].process, "fail", None, timeout=0.5)

    # The process that asks does not wait for it.
    await until(lambda: "another process could not be answered: broken" in caplog.text)


# Lost messages


async def test_hooks_are_called_for_lost_messages_and_for_a_new_connection(
    one, monkeypatch
):
    called = []
    monkeypatch.setattr(cluster, "_gap_hooks", [])
    monkeypatch.setattr(cluster, "_reconnect_hooks", [])
    cluster.on_gap(lambda: called.append("gap"))
    cluster.on_reconnect(lambda: called.append("reconnect"))
    await one.open()

    one.on_gap(CLUSTER_GROUP)
    one.layer.after_reconnect()

    await until(lambda: len(called) == 2)
    assert called == ["gap", "reconnect"]


# Opening in the background


class Away(InMemoryChannelLayer):
    """A layer whose broker is away for the first attempts."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.tried = asyncio.Event()

    async def stream_subscribe(self, group, listener):
        self.tried.set()
        if self.times:
            self.times -= 1
            raise LayerUnavailable("away")
        await super().stream_subscribe(group, listener)


@pytest.fixture
def connections(monkeypatch):
    """The open connections of this test."""
    connections = ConnectionRegistry()
    monkeypatch.setattr(cluster, "process_connections", connections)
    monkeypatch.setattr(cluster, "_RETRY", 0)
    return connections


async def test_a_persistent_bus_waits_for_its_broker(connections):
    bus = Cluster(Away(2))

    bus.start(persistent=True)

    await until(lambda: bus.is_open)
    await bus.close()


async def test_a_bus_waits_for_its_broker_while_connections_are_open(connections):
    connections.add(object())
    bus = Cluster(Away(2))

    bus.start()

    await until(lambda: bus.is_open)
    await bus.close()


async def test_without_connections_the_bus_is_not_opened_later(connections):
    bus = Cluster(Away(2))

    bus.start()

    async with asyncio.timeout(5):
        await bus.layer.tried.wait()
        await until(lambda: bus._starting.done())
    assert not bus.is_open


# Which processes are expected


class Quiet:
    """A layer whose other processes answer nothing."""

    def __init__(self, *others):
        own = process_stats(process="me", in_cluster=True)
        self._stats = LayerStats((own, *others))

    async def stats(self, *, fleet):
        return self._stats

    def stats_here(self, top):
        return self._stats.processes[0]

    async def stream_subscribe(self, group, listener):
        listener.groups = {*listener.groups, group}

    def stream_unsubscribe(self, group, listener):
        listener.groups = {*listener.groups} - {group}

    async def group_send(self, group, event):
        pass


@pytest.mark.parametrize("taking_part", [True, False])
async def test_processes_that_take_part_are_expected_to_answer(handlers, taking_part):
    other = process_stats(process="other", in_cluster=taking_part)
    bus = Cluster(Quiet(other))

    answers = await bus.ask("note", None, timeout=0.01)

    assert answers.silent == ((other,) if taking_part else ())


async def test_a_message_without_a_handler_is_ignored(one, handlers, caplog):
    await one.open()

    with caplog.at_level(logging.WARNING):
        await one.tell("unknown", None)

    assert not caplog.records
