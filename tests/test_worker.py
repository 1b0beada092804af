"""Tests of the worker on named channels."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
from unittest import mock

import pytest
from asgiref.server import StatelessServer
from django.core.management import CommandError, call_command
from django.test import override_settings

from support.paths import TESTS
from support.waiting import until
from tiderace.consumer import AsyncConsumer
from tiderace.exceptions import ChannelFull, StopConsumer
from tiderace.layers import InMemoryChannelLayer
from tiderace.management.commands import runworker
from tiderace.routing import ChannelNameRouter, ProtocolTypeRouter
from tiderace.worker import Worker


class Harness:
    """A worker that runs in this loop, with what its applications were given."""

    def __init__(self, application, channels=("tea",), layer=None) -> None:
        self.layer = layer or InMemoryChannelLayer()
        self.worker = Worker(application, list(channels), self.layer)
        self.worker.retry_delay = 0

    async def __aenter__(self) -> Harness:
        self.task = asyncio.create_task(self.worker.arun())
        return self

    async def __aexit__(self, *error) -> None:
        self.worker.request_stop()
        await asyncio.wait_for(self.task, 5)

    async def send(self, channel: str, **message) -> None:
        await self.layer.send(channel, message)


def recorder(log):
    """An application that appends the type of every message to ``log``."""

    async def application(scope, receive, send):
        while True:
            log.append((scope["channel"], (await receive())["type"]))

    return application


class BrokenLayer(InMemoryChannelLayer):
    """Fails on ``receive`` as often as it has ``errors`` left."""

    def __init__(self, *errors) -> None:
        super().__init__()
        self.errors = list(errors)

    async def receive(self, channel):
        if self.errors:
            raise self.errors.pop(0)
        return await super().receive(channel)


# What Channels documents


def test_a_worker_is_a_stateless_server_of_asgiref_with_its_arguments():
    layer = InMemoryChannelLayer()

    worker = Worker("application", ["tea"], layer, max_applications=7)

    assert isinstance(worker, StatelessServer)
    assert (worker.channels, worker.channel_layer) == (["tea"], layer)
    assert (worker.application, worker.max_applications) == ("application", 7)


def test_a_worker_needs_a_layer():
    with pytest.raises(ValueError, match="Channel layer is not valid"):
        Worker(recorder([]), ["tea"], None)


async def test_every_channel_gets_an_instance_of_its_own():
    log = []
    async with Harness(recorder(log), ["tea", "milk"]) as harness:
        await harness.send("tea", type="brew")
        await harness.send("milk", type="pour")
        await until(lambda: len(log) == 2)

        assert sorted(log) == [("milk", "pour"), ("tea", "brew")]
        assert sorted(harness.worker.application_instances) == ["milk", "tea"]


async def test_the_messages_of_a_channel_come_in_order_to_one_instance():
    log = []
    async with Harness(recorder(log)) as harness:
        for number in range(5):
            await harness.send("tea", type=f"n{number}")
        await until(lambda: len(log) == 5)

    assert [kind for _, kind in log] == ["n0", "n1", "n2", "n3", "n4"]


async def test_a_consumer_handles_the_messages_of_its_channel():
    handled = asyncio.Event()

    class Brewer(AsyncConsumer):
        async def brew_tea(self, event):
            if event["leaves"] == 3 and self.scope["channel"] == "tea":
                handled.set()

    router = ProtocolTypeRouter(
        {"channel": ChannelNameRouter({"tea": Brewer.as_asgi()})}
    )
    async with Harness(router) as harness:
        await harness.send("tea", type="brew.tea", leaves=3)

        await asyncio.wait_for(handled.wait(), 5)


async def test_the_listener_puts_messages_into_the_queue_of_the_instance():
    worker = Worker(recorder([]), ["tea"], InMemoryChannelLayer())
    queue = asyncio.Queue()
    with mock.patch.object(
        worker, "get_or_create_application_instance", return_value=queue
    ) as get:
        listening = asyncio.create_task(worker.listener("tea"))
        await worker.channel_layer.send("tea", {"type": "brew"})

        assert await asyncio.wait_for(queue.get(), 5) == {"type": "brew"}

    get.assert_called_once_with("tea", {"type": "channel", "channel": "tea"})
    listening.cancel()


async def test_the_listener_by_itself_raises_for_a_message_without_a_type():
    worker = Worker(recorder([]), ["tea"], InMemoryChannelLayer())
    await worker.channel_layer.send("tea", {"leaves": 3})

    with pytest.raises(ValueError, match=r"Worker received message with no type\."):
        await worker.listener("tea")


async def test_handle_by_itself_raises_what_ended_a_listener():
    worker = Worker(recorder([]), ["tea"], BrokenLayer(OSError("no broker")))

    with pytest.raises(OSError, match="no broker"):
        await worker.handle()


async def test_an_application_that_sends_gets_an_explained_error(caplog):
    async def application(scope, receive, send):
        await receive()
        await send({"type": "http.response.start"})

    async with Harness(application) as harness:
        await harness.send("tea", type="brew")
        await until(lambda: caplog.records)

    assert "sent 'http.response.start', but a worker has no client" in caplog.text


# Supervision


async def test_a_message_without_a_type_is_dropped_and_the_next_one_handled(caplog):
    log = []
    async with Harness(recorder(log)) as harness:
        await harness.send("tea", leaves=3)
        await harness.send("tea", type="brew")
        await until(lambda: log)

    assert log == [("tea", "brew")]
    assert "a message on channel tea has no type" in caplog.text


async def test_an_error_of_the_layer_is_logged_and_reading_continues(caplog):
    log = []
    layer = BrokenLayer(OSError("no broker"), OSError("still none"))
    async with Harness(recorder(log), layer=layer) as harness:
        await harness.send("tea", type="brew")
        await until(lambda: log)

    failures = [r for r in caplog.records if "reading channel tea failed" in r.message]
    assert [str(r.exc_info[1]) for r in failures] == ["no broker", "still none"]


async def pauses_of(harness) -> list[float]:
    """The pauses that the worker makes until its layer has no errors left."""
    pauses = []

    async def sleep(delay):
        pauses.append(delay)

    turn = asyncio.sleep
    with mock.patch("tiderace.worker.asyncio.sleep", sleep):
        async with harness, asyncio.timeout(5):
            while harness.layer.errors:
                await turn(0)
    return pauses


async def test_pauses_between_attempts_double_up_to_the_longest():
    harness = Harness(recorder([]), layer=BrokenLayer(*[OSError("no broker")] * 8))
    del harness.worker.retry_delay

    assert await pauses_of(harness) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_the_pause_is_short_again_after_reading_went_well_for_a_while():
    harness = Harness(recorder([]), layer=BrokenLayer(*[OSError("no broker")] * 3))
    del harness.worker.retry_delay
    # Any time without an error is longer than this.
    harness.worker.retry_delay_max = 0

    assert await pauses_of(harness) == [0.1, 0.1, 0.1]


async def test_a_failed_application_is_logged_and_replaced(caplog):
    starts = []

    async def application(scope, receive, send):
        starts.append(scope["channel"])
        message = await receive()
        raise ValueError(f"cannot {message['type']}")

    async with Harness(application) as harness:
        await harness.send("tea", type="brew")
        await until(lambda: caplog.records)
        await harness.send("tea", type="pour")
        await until(lambda: len(caplog.records) == 2)

    assert starts == ["tea", "tea"]
    assert [str(r.exc_info[1]) for r in caplog.records] == [
        "cannot brew",
        "cannot pour",
    ]
    assert {r.name for r in caplog.records} == {"django.channels.worker"}


async def test_an_application_that_stopped_is_replaced_without_a_log_record(
    caplog,
):
    handled = []

    async def application(scope, receive, send):
        handled.append((await receive())["type"])
        raise StopConsumer

    async with Harness(application) as harness:
        for kind in ("brew", "pour"):
            await harness.send("tea", type=kind)
        await until(lambda: len(handled) == 2)

    assert handled == ["brew", "pour"]
    assert not caplog.records


async def test_a_message_that_waited_for_an_instance_that_failed_goes_to_the_next():
    handled = []
    begun, fail = asyncio.Event(), asyncio.Event()

    async def application(scope, receive, send):
        kind = (await receive())["type"]
        handled.append(kind)
        begun.set()
        if kind == "brew":
            await fail.wait()
            raise ValueError("no water")

    async with Harness(application) as harness:
        await harness.send("tea", type="brew")
        await begun.wait()
        await harness.send("tea", type="pour")
        queue = harness.worker.application_instances["tea"]["input_queue"]
        await until(lambda: queue.qsize() == 1)
        fail.set()
        await until(lambda: len(handled) == 2)

    assert handled == ["brew", "pour"]


async def test_a_message_of_an_application_that_takes_none_is_dropped_and_logged(
    caplog,
):
    starts = []

    async def application(scope, receive, send):
        starts.append(1)

    async with Harness(application) as harness:
        await harness.send("tea", type="brew")
        await until(lambda: caplog.records)
        await asyncio.sleep(0)

    assert len(starts) == 1
    assert "ended without taking a message; 1 dropped" in caplog.text


async def test_messages_that_a_busy_application_cannot_take_stay_in_the_layer():
    busy = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        busy.set()
        await asyncio.Event().wait()

    layer = InMemoryChannelLayer(capacity=3)
    async with Harness(application, layer=layer) as harness:
        harness.worker.stop_timeout = 0
        await harness.send("tea", type="first")
        await busy.wait()
        queue = harness.worker.application_instances["tea"]["input_queue"]
        await harness.send("tea", type="second")
        await until(lambda: queue.qsize() == 1)
        for _ in range(3):
            await harness.send("tea", type="waiting")
        await asyncio.sleep(0)

        assert queue.qsize() == 1
        with pytest.raises(ChannelFull, match="tea"):
            await harness.send("tea", type="too many")


async def test_with_too_many_instances_the_one_longest_unused_is_ended():
    log = []
    layer = InMemoryChannelLayer()
    worker = Worker(recorder(log), ["a", "b", "c"], layer, max_applications=1)
    harness = Harness(recorder(log))
    harness.worker, harness.layer = worker, layer
    async with harness:
        for channel in "abc":
            await harness.send(channel, type="brew")
            await until(lambda: len(log) == "abc".index(channel) + 1)  # noqa: B023

        assert sorted(worker.application_instances) == ["b", "c"]


# Stopping


async def test_stopping_lets_the_consumer_finish_its_message():
    begun, go_on = asyncio.Event(), asyncio.Event()
    finished = []

    class Brewer(AsyncConsumer):
        async def brew(self, event):
            begun.set()
            await go_on.wait()
            finished.append("brew")

    harness = Harness(Brewer.as_asgi())
    async with harness:
        await harness.send("tea", type="brew")
        await begun.wait()
        harness.worker.request_stop()
        go_on.set()
        await asyncio.wait_for(harness.task, 5)

    assert finished == ["brew"]


async def test_stopping_takes_no_more_messages_from_the_layer():
    log = []
    harness = Harness(recorder(log))
    async with harness:
        await harness.send("tea", type="brew")
        await until(lambda: log)
    await harness.send("tea", type="pour")

    assert await harness.layer.receive("tea") == {"type": "pour"}
    assert log == [("tea", "brew")]


async def test_a_consumer_that_takes_too_long_is_cancelled_and_logged(caplog):
    begun = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        begun.set()
        await asyncio.Event().wait()

    async with Harness(application) as harness:
        harness.worker.stop_timeout = 0
        await harness.send("tea", type="brew")
        await begun.wait()

    assert "the consumer of channel tea is cut off" in caplog.text


async def test_a_second_request_to_stop_does_not_wait():
    begun = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        begun.set()
        await asyncio.Event().wait()

    async with Harness(application) as harness:
        harness.worker.stop_timeout = 3600
        await harness.send("tea", type="brew")
        await begun.wait()
        harness.worker.request_stop()


async def test_requesting_a_stop_of_a_worker_that_does_not_run_does_nothing():
    Worker(recorder([]), ["tea"], InMemoryChannelLayer()).request_stop()


async def test_a_subclass_may_override_handle():
    class Once(Worker):
        async def handle(self):
            raise ValueError("my own way")

    worker = Once(recorder([]), ["tea"], InMemoryChannelLayer())

    with pytest.raises(ValueError, match="my own way"):
        await asyncio.wait_for(worker.arun(), 5)


async def test_a_listener_that_returns_is_not_started_again():
    class Once(Worker):
        async def listener(self, channel):
            return

    worker = Once(recorder([]), ["tea"], InMemoryChannelLayer())

    await asyncio.wait_for(worker.arun(), 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_worker_after_its_message(number):
    """A real process, since signals are delivered to its main thread."""
    program = f"""
import asyncio, os, sys
from tiderace.consumer import AsyncConsumer
from tiderace.layers import InMemoryChannelLayer
from tiderace.worker import Worker
from django.conf import settings
settings.configure()

class Brewer(AsyncConsumer):
    async def brew(self, event):
        os.kill(os.getpid(), {int(number)})
        await asyncio.sleep(0.2)
        print("brewed", flush=True)

layer = InMemoryChannelLayer()
asyncio.run(layer.send("tea", {{"type": "brew"}}))
Worker(Brewer.as_asgi(), ["tea"], layer).run()
print("ended", flush=True)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )

    assert (result.stdout.split(), result.returncode) == (["brewed", "ended"], 0), (
        result.stderr
    )


# The command


class Recorded(Worker):
    """A worker that only says that it ran."""

    ran: list[Worker] = []

    def run(self):
        type(self).ran.append(self)


application = recorder([])


@override_settings(ASGI_APPLICATION=f"{__name__}.application")
def test_the_command_runs_a_worker_for_the_channels_it_is_given(caplog):
    Recorded.ran.clear()
    caplog.set_level(logging.INFO, "django.channels.worker")

    with mock.patch.object(runworker.Command, "worker_class", Recorded):
        call_command("runworker", "tea", "milk")

    [worker] = Recorded.ran
    assert worker.channels == ["tea", "milk"]
    assert isinstance(worker.channel_layer, InMemoryChannelLayer)
    assert worker.application is application
    assert "Running worker for channels ['tea', 'milk']" in caplog.text


@override_settings(
    ASGI_APPLICATION=f"{__name__}.application",
    CHANNEL_LAYERS={
        "second": {
            "BACKEND": "tiderace.layers.InMemoryChannelLayer",
            "CONFIG": {"capacity": 3},
        }
    },
)
def test_the_command_uses_the_layer_of_its_option():
    Recorded.ran.clear()

    with mock.patch.object(runworker.Command, "worker_class", Recorded):
        call_command("runworker", "tea", "--layer", "second")

    assert Recorded.ran[0].channel_layer.capacity == 3


@contextlib.contextmanager
def routed(application):
    """``runworker`` with this application, and a worker that does not run."""
    with (
        mock.patch.object(
            runworker, "get_default_application", return_value=application
        ),
        mock.patch.object(runworker.Command, "worker_class", Recorded),
        override_settings(ASGI_APPLICATION="shop.asgi.application"),
    ):
        yield


def test_the_command_refuses_an_application_without_channels():
    with (
        routed(ProtocolTypeRouter({"http": application})),
        pytest.raises(CommandError, match="serves no channels") as raised,
    ):
        call_command("runworker", "tea")

    assert "shop.asgi.application" in str(raised.value)
    assert 'channel={"tea": YourConsumer.as_asgi()}' in str(raised.value)


def test_the_command_refuses_a_channel_without_a_consumer():
    channels = ChannelNameRouter({"tea": application, "milk": application})

    with (
        routed(ProtocolTypeRouter({"channel": channels})),
        pytest.raises(CommandError) as raised,
    ):
        call_command("runworker", "tea", "mlik")

    text = str(raised.value)
    assert "no consumer for the channel 'mlik'; did you mean 'milk'?" in text
    assert "(it has tea, milk)" in text


def test_the_command_runs_for_channels_with_a_consumer_and_warns_of_a_layer_in_memory():
    Recorded.ran.clear()
    errors = io.StringIO()
    channels = ChannelNameRouter({"tea": application})

    with routed(ProtocolTypeRouter({"channel": channels})):
        call_command("runworker", "tea", stderr=errors)

    assert len(Recorded.ran) == 1
    assert "this worker gets no message of another process" in errors.getvalue()
    assert "tiderace.layers.database.DatabaseChannelLayer" in errors.getvalue()


@override_settings(CHANNEL_LAYERS={})
def test_the_command_without_layers_fails_with_a_message():
    with pytest.raises(CommandError, match="do not have any CHANNEL_LAYERS configured"):
        call_command("runworker", "tea")


def test_the_command_with_an_unknown_layer_names_it():
    with pytest.raises(CommandError, match="no layer 'second'"):
        call_command("runworker", "tea", "--layer", "second")


def test_the_command_does_not_change_the_locale():
    assert runworker.Command.leave_locale_alone is True
