"""The contract of what a layer over a database deletes once it has expired."""

from __future__ import annotations

import asyncio

import pytest

from support.contracts.process_contract import listen, programs
from support.waiting import until
from tiderace.layers import Retention
from tiderace.layers.database import sweeping
from tiderace.layers.database.sweeping import sweep
from tiderace.ratelimit import Rate

__all__ = ["SweepingContract"]

SHORT = Retention(10, 5)


class SweepingContract:
    """A subclass has the fixtures ``make_layer``, ``layer_setup`` and two more.

    ``elapse(seconds)`` moves the database's clock, and ``rows(table, column)`` returns
    the values of a column of the layer's rows.
    """

    @pytest.fixture
    def layer(self, make_layer, monkeypatch):
        """A layer whose deletions take several transactions."""
        monkeypatch.setattr(sweeping, "_ROWS", 2)
        monkeypatch.setattr(sweeping, "_MESSAGES", 3)
        return make_layer(expiry=5, group_capacity=10)

    @pytest.fixture
    def sweep_after(self, layer, elapse):
        """Returns after some seconds of the database's clock and a sweep."""

        async def sweep_after(seconds):
            elapse(seconds)
            await sweep(layer._brokers[0].executor)

        return sweep_after

    @pytest.fixture
    def found(self, rows):
        """Return what the rows of a table have in a column that contains ``tide``."""

        def found(table, column):
            return [each for each in rows(table, column) if "tide" in each]

        return found

    async def test_messages_and_later_their_stream_are_deleted(
        self, layer, found, sweep_after
    ):
        for number in range(10):
            await layer.stream_publish("tide", {"data": str(number)}, keep=SHORT)

        # Those that are there when a period begins are kept for the whole of it.
        await sweep_after(5.1)
        assert len(found("entry", "subject")) == 10
        await sweep_after(5.1)
        assert not found("entry", "subject")
        assert found("stream", "subject")
        await sweep_after(50)
        assert not found("stream", "subject")

    async def test_a_history_is_kept_for_its_time(self, layer, found, sweep_after):
        history = Retention(3, 3600)
        for number in range(10):
            await layer.stream_publish("tide", {"data": str(number)}, keep=history)

        await sweep_after(3500)
        _, kept = await layer.stream_read("tide", keep=history)
        assert [each.data for each in kept] == ["7", "8", "9"]
        for _ in range(3):
            await sweep_after(3601)
        assert not found("entry", "subject")

    async def test_messages_beyond_the_size_are_deleted(self, layer, found):
        for number in range(200):
            await layer.stream_publish("tide", {"data": str(number)}, keep=SHORT)

        assert len(found("entry", "subject")) < 100

    async def test_an_idempotency_key_is_deleted(self, layer, found, sweep_after):
        for key in "abcde":
            await layer.stream_publish("tide", {}, keep=SHORT, key=key, key_ttl=10)

        await sweep_after(9)
        assert len(found("once", "subject")) == 5
        await sweep_after(2)
        assert not found("once", "subject")

    async def test_a_message_of_a_queue_is_deleted(self, layer, found, sweep_after):
        for _ in range(5):
            await layer.send("tide", {"type": "task"})

        await sweep_after(4)
        assert len(found("queue", "queue")) == 5
        await sweep_after(2)
        assert not found("queue", "queue")

    async def test_a_bucket_that_is_full_again_is_deleted(
        self, layer, found, sweep_after
    ):
        await layer.take_token("tide", Rate(1, 5))

        await sweep_after(4)
        assert len(found("bucket", "name")) == 1
        await sweep_after(2)
        assert not found("bucket", "name")

    async def test_a_killed_process_and_its_memberships_are_deleted(
        self, layer, found, rows, sweep_after, layer_setup
    ):
        with programs(layer_setup) as start:
            process = start(
                """
                async def main():
                    name = await layer.new_channel()
                    layer.attach(name)
                    await layer.group_add("tide", name)
                    while not layer.ready:
                        await asyncio.sleep(0.01)
                    await layer.report()
                    print("ready", flush=True)
                    await asyncio.sleep(60)
                asyncio.run(main())
                """
            )
            assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
            await until(lambda: found("membership", "subject"))
        assert len(rows("process", "name")) == 1

        await sweep_after(31)

        assert not rows("process", "name")
        assert not found("membership", "subject")

    async def test_a_layer_that_receives_sweeps_at_times(
        self, layer, found, elapse, monkeypatch
    ):
        monkeypatch.setattr("tiderace.layers.database.broker._SWEEP_INTERVAL", 0.01)
        await layer.take_token("tide", Rate(1, 5))
        await listen(layer)

        elapse(6)

        await until(lambda: not found("bucket", "name"))
