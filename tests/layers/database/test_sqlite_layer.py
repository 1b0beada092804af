"""The layer over a SQLite file: several processes, forks, faults of the file."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from support.contracts.process_contract import (
    KEEP,
    LayerSetup,
    ProcessContract,
    listen,
    programs,
    publish,
)
from support.servers.disks import locked
from support.waiting import PATIENCE, until, within
from tiderace import metrics
from tiderace.exceptions import LayerAccessDenied, LayerUnavailable, MessageTooLarge
from tiderace.layers.database import DatabaseChannelLayer
from tiderace.layers.database.sqlite import connection, feed
from tiderace.layers.database.sqlite.vendor import SqliteVendor
from tiderace.layers.database.sqlite.wakeups import WakeupFolder
from tiderace.layers.database.vendor import Fault


def open_files():
    """Return what this process has open."""
    return [str(each.resolve()) for each in Path("/proc/self/fd").iterdir()]


# Several processes


@pytest.fixture
def layer_setup(file):
    return LayerSetup(options={"path": str(file)})


@pytest.fixture
def start(layer_setup):
    with programs(layer_setup) as start:
        yield start


class TestProcesses(ProcessContract):
    """The file in several processes."""


async def test_a_fork_waits_until_a_file_is_open(make_layer, monkeypatch):
    events = []
    opening, forking, forked = (threading.Event() for _ in range(3))
    # Called before the layer's own function, and in later tests in vain.
    os.register_at_fork(before=forking.set)

    def open_during_fork(path, timeout):
        opening.set()
        assert forking.wait(PATIENCE)
        forked.wait(0.2)  # in vain, as the fork waits
        database = connection.open_file(path, timeout)
        events.append("open")
        return database

    def fork():
        child.start()
        events.append("forked")
        forked.set()
        child.join()

    monkeypatch.setattr(feed, "open_file", open_during_fork)
    child = multiprocessing.get_context("fork").Process(target=os.getpid)
    listening = asyncio.create_task(listen(make_layer()))
    assert await asyncio.to_thread(opening.wait, PATIENCE)

    await asyncio.to_thread(fork)

    assert events[:2] == ["open", "forked"]  # after it the feed opens it again
    await listening


async def test_messages_of_a_process_killed_before_it_wakes_others_arrive(
    make_layer, start
):
    listener = await listen(make_layer())

    process = start(
        """
        from tiderace.layers.database.sqlite.wakeups import WakeupFolder
        WakeupFolder.wake = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
        layer.sync.stream_publish("tide", {"data": "last"}, keep=KEEP)
        """,
    )

    await until(lambda: listener.data == ["last"])
    assert process.wait() == -signal.SIGKILL


# Wake-ups


async def test_a_lost_wake_up_delays_a_message_only(make_layer, monkeypatch):
    layer = make_layer()
    listener = await listen(layer)
    channel = asyncio.create_task(layer.receive("queue"))
    monkeypatch.setattr(WakeupFolder, "wake", lambda *arguments: None)

    await publish(layer, "a")
    await layer.send("queue", {"type": "task"})

    async with asyncio.timeout(3):
        await until(lambda: listener.data == ["a"])
        assert await channel == {"type": "task"}


async def test_a_process_polls_where_there_are_no_sockets(make_layer, monkeypatch):
    monkeypatch.setattr(WakeupFolder, "listen", lambda folder: None)
    layer = make_layer()
    listener = await listen(layer)

    await publish(layer, "a", "b")

    await until(lambda: listener.data == ["a", "b"])


async def test_wake_ups_work_under_a_path_too_long_for_a_socket(
    make_layer, tmp_path, monkeypatch
):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    layer = make_layer(path=folder / "layer.sqlite3")
    monkeypatch.setattr(feed, "_INTERVAL", 60)
    listener = await listen(layer)

    await publish(layer, "a")

    await until(lambda: listener.data == ["a"])


async def test_the_socket_of_a_killed_process_is_removed(make_layer, start, file):
    process = start(
        """
        async def main():
            layer.attach(await layer.new_channel())
            while not layer.ready:
                await asyncio.sleep(0.01)
            print("ready", flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
        """,
    )
    await asyncio.to_thread(process.stdout.readline)
    folder = file.with_name(f"{file.name}-wake")
    assert len(list(folder.iterdir())) == 1
    process.kill()
    process.wait()

    await publish(make_layer(), "a")

    assert list(folder.iterdir()) == []


async def test_the_last_process_that_closes_its_layer_removes_the_folder(
    make_layer, file
):
    first, second = make_layer(), make_layer()
    await listen(first)
    await listen(second)
    folder = file.with_name(f"{file.name}-wake")

    await first.close()
    left = len(list(folder.iterdir()))
    await second.close()

    assert left == 1
    assert not folder.exists()


# The file


async def test_a_renewed_report_writes_one_page(make_layer, file):
    layer = make_layer()
    layer.attach(await layer.new_channel())
    await layer.report()
    log = file.with_name(f"{file.name}-wal")
    before = log.stat().st_size

    await layer.report()

    # One page and its header in the log. An idle process writes it four times a minute.
    assert log.stat().st_size - before == 24 + 2048


async def test_a_publication_waits_for_a_lock(make_layer, file):
    layer = make_layer()
    listener = await listen(layer)
    await publish(layer, "before")
    with locked(file):
        waiting = asyncio.create_task(publish(layer, "during"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        # Readers do not wait.
        _, found = await layer.stream_read("tide", keep=KEEP)
        assert [each.data for each in found] == ["before"]

    await within(waiting)
    await until(lambda: listener.data == ["before", "during"])


async def test_a_lock_that_is_held_too_long_is_named(make_layer, file):
    layer = make_layer(publish_timeout=0.3)
    await publish(layer, "before")

    with locked(file), pytest.raises(LayerUnavailable) as raised:
        await publish(layer, "during")

    assert str(file) in str(raised.value)
    assert "busy for 0.3 seconds" in str(raised.value)
    await publish(layer, "after")
    _, found = await layer.stream_read("tide", keep=KEEP)
    assert [each.data for each in found] == ["before", "after"]


async def test_sync_code_gets_the_same_error_for_a_lock(make_layer, file):
    layer = make_layer(publish_timeout=0.3)
    await publish(layer, "before")

    def send():
        layer.sync.group_send("tide", {"type": "greet"})

    with locked(file), pytest.raises(LayerUnavailable, match="busy for"):
        await asyncio.to_thread(send)


async def test_a_full_disk_refuses_a_publication_and_takes_no_offset(
    make_layer, monkeypatch
):
    layer = make_layer()
    await publish(layer, "a")
    [broker] = layer._brokers
    database = broker.executor._writes._connection._database
    ((pages,),) = database.execute("PRAGMA page_count")
    database.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(LayerUnavailable, match="database or disk is full"):
        await publish(layer, "x" * 1_000_000)

    # The next connection has no limit, as if there were room again.
    position = (await publish(layer, "b"))[0]
    assert position.offset == 2


async def test_a_message_that_the_file_never_takes_is_too_large(make_layer):
    layer = make_layer()
    await publish(layer, "a")
    [broker] = layer._brokers
    database = broker.executor._writes._connection._database
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)

    with pytest.raises(MessageTooLarge, match="too big"):
        await publish(layer, "x" * 20_000)

    position = (await publish(layer, "b"))[0]
    assert position.offset == 2


@pytest.mark.parametrize("where", ["group", "queue"])
async def test_a_message_above_the_limit_of_all_engines_is_not_sent_to_the_database(
    make_layer, monkeypatch, where
):
    monkeypatch.setattr("tiderace.layers.database.executor._MAX_BYTES", 10_000)
    layer = make_layer()
    calls = {
        "group": lambda: publish(layer, "x" * 20_000),
        "queue": lambda: layer.send("work", {"type": "said", "data": "x" * 20_000}),
    }

    with pytest.raises(MessageTooLarge, match="the layer takes 10000"):
        await calls[where]()


async def test_a_refused_operation_does_not_fail_those_that_were_gathered_with_it(
    make_layer, file
):
    layer = make_layer(publish_timeout=10)
    await publish(layer, "a")
    with locked(file):
        waiting = [
            asyncio.create_task(layer.stream_publish("tide", record, keep=KEEP))
            for record in ({"data": "b"}, {"data": "c"})
        ]
        [broker] = layer._brokers
        refused = asyncio.create_task(
            broker.executor.write(lambda cursor: cursor.fetch("SELECT no"))
        )
        await asyncio.sleep(0.1)

    with pytest.raises(LayerUnavailable, match="no such column"):
        await refused
    assert [(await each).offset for each in waiting] == [2, 3]


async def test_members_get_a_gap_when_the_file_was_deleted(make_layer, file):
    layer = make_layer()
    listener = await listen(layer)
    await publish(layer, "a")
    await until(lambda: listener.data == ["a"])

    for path in file.parent.glob("layer.sqlite3*"):
        if path.is_file():
            path.unlink()
    await publish(layer, "b")

    await until(lambda: listener.data[-1:] == ["b"])
    assert listener.data == ["a", None, "b"]


async def test_offsets_are_not_used_again_in_an_older_copy_of_the_file(
    make_layer, file, tmp_path
):
    layer = make_layer()
    await publish(layer, "a")
    await layer.close()
    copy = shutil.copy(file, tmp_path / "copy")
    (seen,) = await publish(layer, "b")
    await layer.close()

    shutil.move(copy, file)
    (position,) = await publish(layer, "c")

    assert position.epoch == seen.epoch
    assert position.offset > seen.offset + 1
    _, found = await layer.stream_read("tide", keep=KEEP)
    assert [each.data for each in found] == ["a", "c"]
    assert found[1].before == 1


async def test_offsets_leap_after_the_machine_was_started_again(
    make_layer, monkeypatch
):
    layer = make_layer()
    await publish(layer, "a")
    await layer.close()
    monkeypatch.setattr(connection, "boot_id", lambda: "next")

    first, second = await publish(layer, "b", "c")

    assert first.offset > 1 << 20
    assert second.offset == first.offset + 1


async def test_a_file_of_another_release_is_refused(make_layer, file):
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 99")

    with pytest.raises(LayerUnavailable, match="another release") as raised:
        await publish(make_layer(), "a")

    assert "delete it" in str(raised.value)


async def test_a_file_that_is_no_database_is_refused(make_layer, file):
    file.write_text("no database, but long enough to have a header" * 100)

    with pytest.raises(LayerUnavailable, match="file is not a database"):
        await publish(make_layer(), "a")


async def test_a_file_that_may_not_be_written_denies_access(make_layer, file):
    await publish(make_layer(), "a")
    with (
        contextlib.closing(
            sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        ) as database,
        pytest.raises(sqlite3.OperationalError) as raised,
    ):
        database.execute("DELETE FROM tiderace_layer_entry")

    assert SqliteVendor("default", file).explain(raised.value) is Fault.DENIED


async def test_a_folder_that_does_not_exist_is_named_at_once(make_layer, tmp_path):
    layer = make_layer(path=tmp_path / "missing" / "layer.sqlite3")

    with pytest.raises(LayerAccessDenied) as raised:
        await publish(layer, "a")

    assert f"its folder {tmp_path / 'missing'} does not exist; create it" in str(
        raised.value
    )


async def test_many_processes_create_the_file_at_the_same_time(file, start):
    code = 'layer.sync.stream_publish("tide", {"data": "a"}, keep=KEEP)'
    processes = [start(code) for _ in range(6)]

    assert [process.wait() for process in processes] == [0] * 6
    layer = DatabaseChannelLayer(path=file)
    _, found = await layer.stream_read("tide", keep=KEEP)
    assert len(found) == 6
    await layer.close()


# Interruptions


async def test_a_process_that_was_cut_off_misses_nothing(make_layer):
    here, there = make_layer(), make_layer()
    listener = await listen(here)
    interruptions = metrics.LAYER_INTERRUPTIONS.value

    await publish(there, "a")
    await here.interrupt()
    await publish(there, "b")

    await until(lambda: listener.data == ["a", "b"])
    assert metrics.LAYER_INTERRUPTIONS.value == interruptions + 1


async def test_a_closed_layer_leaves_no_open_file(make_layer, file):
    layer = make_layer()
    await listen(layer)
    await publish(layer, "a")

    await layer.close()

    assert not [path for path in open_files() if path.startswith(str(file))]


async def test_a_file_that_is_opened_when_the_layer_is_closed_is_closed_again(
    make_layer, monkeypatch
):
    opening, proceed, ended = threading.Event(), threading.Event(), threading.Event()
    databases = []
    open_file = feed.open_file
    open_and_read = feed.SqliteFeed._open_file

    def open_and_note(*arguments):
        databases.append(open_file(*arguments))
        return databases[-1]

    def open_later(self):
        opening.set()
        proceed.wait(PATIENCE)
        try:
            return open_and_read(self)
        finally:
            ended.set()

    monkeypatch.setattr(feed, "open_file", open_and_note)
    monkeypatch.setattr(feed.SqliteFeed, "_open_file", open_later)
    layer = make_layer()
    listening = asyncio.create_task(listen(layer))
    await until(opening.is_set)

    listening.cancel()
    await layer.close()
    proceed.set()
    await until(ended.is_set)

    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        databases[0].execute("SELECT 1")


async def test_threads_without_a_loop_publish_at_once(make_layer):
    layer = make_layer()
    listener = await listen(layer)
    start_together = threading.Barrier(4)

    def run():
        start_together.wait(PATIENCE)
        for _ in range(50):
            layer.sync.stream_publish("tide", {"data": "x"}, keep=KEEP)

    await asyncio.gather(*(asyncio.to_thread(run) for _ in range(4)))

    await until(lambda: len(listener.received) == 200)
    assert listener.offsets == list(range(1, 201))


async def test_a_key_lasts_as_long_as_given_and_five_minutes_after_expire_keys(
    make_layer, file
):
    layer = make_layer()
    for key, options in (
        ("short", {}),
        ("long", {"key_ttl": 86_400}),
        ("longer", {"key_ttl": 86_400}),
    ):
        await layer.stream_publish("tide", {"data": "1"}, keep=KEEP, key=key, **options)

    await layer.stream_expire_keys("tide", ["short", "long", "unknown"])

    with contextlib.closing(sqlite3.connect(file)) as database:
        found = database.execute(
            "SELECT idempotency_key, expires_ms / 1000.0 - ? FROM tiderace_layer_once",
            (time.time(),),
        )
        left = dict(found.fetchall())
    assert 290 < left.pop("short") <= 300
    assert 290 < left.pop("long") <= 300
    assert 86_390 < left.pop("longer") <= 86_400
    assert not left
