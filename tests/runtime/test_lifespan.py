"""The lifespan: hooks before the first and after the last connection."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.signals import setting_changed

from support.waiting import settle, within
from tiderace.layers import ChannelLayerManager, channel_layers
from tiderace.routing import ProtocolTypeRouter
from tiderace.runtime import lifespan
from tiderace.runtime.lifespan import (
    Lifespan,
    on_shutdown,
    on_startup,
    while_serving,
)

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}


def server(application) -> ApplicationCommunicator:
    return ApplicationCommunicator(application, {"type": "lifespan"})


async def say(communicator, event):
    await communicator.send_input(event)
    return await communicator.receive_output()


@pytest.fixture
def process(monkeypatch):
    """The lifespan of this process, with nothing registered yet."""
    fresh = Lifespan()
    monkeypatch.setattr(lifespan, "process_lifespan", fresh)
    monkeypatch.setattr("tiderace.routing.process_lifespan", fresh)
    return fresh


def hook(log: list[str], name: str, error: Exception | None = None):
    async def run():
        log.append(name)
        if error is not None:
            raise error

    return run


async def test_startup_hooks_run_in_order_and_shutdown_hooks_in_reverse():
    log: list[str] = []
    running = server(
        Lifespan(
            startup=[hook(log, "open a"), hook(log, "open b")],
            shutdown=[hook(log, "close a"), hook(log, "close b")],
        )
    )

    assert await say(running, STARTUP) == {"type": "lifespan.startup.complete"}
    assert log == ["open a", "open b"]
    assert await say(running, SHUTDOWN) == {"type": "lifespan.shutdown.complete"}
    assert log[2:] == ["close b", "close a"]


async def test_the_application_ends_after_the_shutdown():
    running = server(Lifespan())

    await say(running, STARTUP)
    await say(running, SHUTDOWN)
    await running.wait(timeout=1)

    assert running.future.done()


async def test_an_error_at_startup_is_reported_to_the_server(caplog):
    async def open_harbour():
        raise ConnectionError("no harbour on port 6379")

    running = server(Lifespan(startup=[open_harbour]))

    answer = await say(running, STARTUP)

    assert answer["type"] == "lifespan.startup.failed"
    assert "open_harbour" in answer["message"]
    assert "ConnectionError: no harbour on port 6379" in answer["message"]
    assert caplog.records[0].name == "tiderace.lifespan"


async def test_after_a_failed_startup_the_shutdown_hooks_have_run(caplog):
    log: list[str] = []
    running = server(
        Lifespan(
            startup=[hook(log, "open a", OSError("no")), hook(log, "open b")],
            shutdown=[hook(log, "close")],
        )
    )

    await say(running, STARTUP)

    assert log == ["open a", "close"]


async def test_an_error_at_shutdown_keeps_no_other_hook_from_running(caplog):
    log: list[str] = []
    running = server(
        Lifespan(
            shutdown=[hook(log, "first"), hook(log, "second", ValueError("stuck"))],
        )
    )

    await say(running, STARTUP)
    answer = await say(running, SHUTDOWN)

    assert log == ["second", "first"]
    assert answer["type"] == "lifespan.shutdown.failed"
    assert "ValueError: stuck" in answer["message"]


async def test_sys_exit_in_a_hook_is_an_error_of_the_hook(caplog):
    log: list[str] = []
    running = server(
        Lifespan(
            startup=[hook(log, "open", SystemExit(3))],
            shutdown=[hook(log, "first"), hook(log, "second", SystemExit(3))],
        )
    )

    answer = await say(running, STARTUP)

    assert log == ["open", "second", "first"]
    assert "SystemExit: 3" in answer["message"]


async def test_an_unknown_lifespan_event_is_ignored():
    running = server(Lifespan())
    await running.send_input({"type": "lifespan.reload"})

    assert await say(running, STARTUP) == {"type": "lifespan.startup.complete"}


async def test_a_protocol_router_answers_the_lifespan_by_itself(process):
    running = server(ProtocolTypeRouter({}))

    assert await say(running, STARTUP) == {"type": "lifespan.startup.complete"}
    assert await say(running, SHUTDOWN) == {"type": "lifespan.shutdown.complete"}


async def test_hooks_registered_for_the_process_are_run_by_a_protocol_router(process):
    log: list[str] = []
    on_startup(hook(log, "open"))
    on_shutdown(hook(log, "close"))
    running = server(ProtocolTypeRouter({}))

    await say(running, STARTUP)
    await say(running, SHUTDOWN)

    assert log == ["open", "close"]


async def test_a_hook_registered_while_the_server_runs_is_run_at_its_end(process):
    log: list[str] = []
    running = server(ProtocolTypeRouter({}))
    await say(running, STARTUP)

    on_shutdown(hook(log, "close"))
    await say(running, SHUTDOWN)

    assert log == ["close"]


async def test_a_hook_registered_twice_runs_once(process):
    log: list[str] = []
    close = hook(log, "close")

    assert on_shutdown(on_shutdown(close)) is close
    assert on_startup(on_startup(close)) is close

    assert process.shutdown == [close]
    assert process.startup == [close]


async def test_work_runs_from_the_start_of_the_process_to_its_stop(process):
    log: list[str] = []
    begun = asyncio.Event()

    @while_serving
    async def work():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")

    on_shutdown(hook(log, "close"))
    running = server(ProtocolTypeRouter({}))

    assert not begun.is_set()
    await say(running, STARTUP)
    await within(begun.wait())
    await say(running, SHUTDOWN)

    assert log == ["close", "cancelled"]


async def test_an_error_of_work_is_logged_and_ends_it_alone(process, caplog):
    @while_serving
    async def work():
        raise RuntimeError("no tide today")

    running = server(ProtocolTypeRouter({}))

    assert await say(running, STARTUP) == {"type": "lifespan.startup.complete"}
    await settle()
    assert await say(running, SHUTDOWN) == {"type": "lifespan.shutdown.complete"}

    assert "no tide today" in caplog.text


class Layer:
    def __init__(self, log, name, error=None):
        self.close = hook(log, name, error)


@pytest.fixture
def layers():
    """A manager of its own, with nothing made yet."""
    manager = ChannelLayerManager()
    yield manager
    setting_changed.disconnect(manager._reset_backends)


async def test_layers_that_were_made_are_closed_with_the_server(monkeypatch):
    log: list[str] = []
    monkeypatch.setattr(channel_layers, "backends", {"default": Layer(log, "closed")})
    running = server(ProtocolTypeRouter({}))

    await say(running, STARTUP)
    await say(running, SHUTDOWN)

    assert log == ["closed"]


async def test_the_start_of_a_process_makes_no_layer(monkeypatch):
    monkeypatch.setattr(channel_layers, "backends", {})

    await say(server(ProtocolTypeRouter({})), STARTUP)

    assert channel_layers.backends == {}


async def test_a_layer_that_fails_to_close_keeps_no_other_from_it(layers):
    log: list[str] = []
    layers.set("bad", Layer(log, "bad", OSError("gone")))
    layers.set("without close", object())
    layers.set("good", Layer(log, "good"))

    with pytest.raises(ExceptionGroup, match="closing channel layers failed") as error:
        await layers.close()

    assert log == ["bad", "good"]
    assert [str(one) for one in error.value.exceptions] == ["gone"]


async def test_a_closed_layer_can_still_be_used(layers):
    layer = Layer([], "closed")
    layers.set("default", layer)

    await layers.close()

    assert layers["default"] is layer


async def test_an_application_for_the_lifespan_in_the_mapping_wins(process):
    log: list[str] = []
    on_startup(hook(log, "ours"))
    theirs = Lifespan(startup=[hook(log, "theirs")])

    await say(server(ProtocolTypeRouter({"lifespan": theirs})), STARTUP)

    assert log == ["theirs"]
