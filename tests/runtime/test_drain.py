"""Tests of the drain of a process."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections import Counter

import pytest
from asgiref.testing import ApplicationCommunicator
from django.test import override_settings

from support.drain_harness import DrainHarness
from support.waiting import settle, until
from tiderace import conf
from tiderace.consumer import AsyncConsumer
from tiderace.generic.websocket import AsyncWebsocketConsumer
from tiderace.layers import get_channel_layer
from tiderace.routing import ProtocolTypeRouter
from tiderace.runtime import drain
from tiderace.runtime.connections import ConnectionRegistry, DrainNotice
from tiderace.runtime.drain import Drain, SigtermWatch
from tiderace.testing import WebsocketCommunicator


async def test_sockets_are_closed_one_by_one_across_the_window():
    harness = DrainHarness(1000)

    await harness.drain.begin(window=20, grace=5)

    per_second = Counter(int(at) for at in harness.asked_at)
    assert max(harness.asked_at) <= 20
    assert all(25 < per_second[second] < 100 for second in range(20)), per_second


async def test_no_tenth_of_a_second_has_a_fifth_of_the_sockets():
    harness = DrainHarness(1000)

    await harness.drain.begin(window=2, grace=5)

    assert max(Counter(int(at * 10) for at in harness.asked_at).values()) < 200


async def test_sockets_are_closed_in_random_order():
    harness = DrainHarness(200)

    await harness.drain.begin(window=20, grace=5)

    first_comers = sum(
        sorted(harness.asked_at).index(at) for at in harness.asked_at[:100]
    )
    assert harness.asked_at != sorted(harness.asked_at)
    assert 8000 < first_comers < 12000  # 9950 on average; 4950 in their order


async def test_a_window_of_zero_closes_all_at_once():
    harness = DrainHarness(50)

    await harness.drain.begin(window=0, grace=5)

    assert set(harness.asked_at) == {0}


async def test_a_few_sockets_do_not_need_the_whole_window():
    harness = DrainHarness(3)

    await harness.drain.begin(window=20, grace=5)

    assert 0 < harness.elapsed <= 0.6


async def test_a_drain_without_sockets_is_over_at_once():
    harness = DrainHarness()

    await harness.drain.begin(window=20, grace=5)

    assert harness.elapsed == 0


async def test_a_disconnected_socket_is_not_asked_to_close():
    harness = DrainHarness(2)
    harness.connections.discard(harness.sockets[0])

    await harness.drain.begin(window=20, grace=5)

    assert harness.sockets[0].asked_at is None
    assert harness.sockets[1].asked_at is not None


async def test_a_socket_opened_during_the_drain_is_closed_too():
    harness = DrainHarness(100)
    running = harness.drain.begin(window=20, grace=5)
    await asyncio.sleep(0)
    late = harness.connect()

    await running

    assert late.notice is not None


async def test_a_socket_opened_after_the_window_is_closed_at_once():
    harness = DrainHarness(1, ignores_notice=True, frozen=True)
    running = harness.drain.begin(window=0, grace=5)
    await until(lambda: harness.sockets[0].asked_at is not None)
    late = harness.connect()

    await until(lambda: late.notice is not None)

    harness.connections.discard(harness.sockets[0])
    await running


async def test_a_socket_still_open_after_the_grace_period_is_cut():
    harness = DrainHarness(2, ignores_notice=True)

    await harness.drain.begin(window=0, grace=5)

    assert [socket.was_cut for socket in harness.sockets] == [True, True]
    assert harness.elapsed == 5


async def test_the_drain_does_not_wait_for_the_grace_when_all_have_ended():
    harness = DrainHarness(1, ignores_notice=True, frozen=True)
    running = harness.drain.begin(window=0, grace=5)
    await until(lambda: harness.sockets[0].asked_at is not None)

    harness.connections.discard(harness.sockets[0])
    await running

    assert not harness.sockets[0].was_cut


async def test_hurry_closes_all_remaining_sockets_at_once():
    harness = DrainHarness(1000)
    running = harness.drain.begin(window=20, grace=5)
    await until(lambda: any(harness.asked_at))

    harness.drain.hurry()
    hurried_at = harness.elapsed
    await running

    assert max(harness.asked_at) <= hurried_at + 0.2


async def test_an_error_in_one_socket_does_not_stop_the_drain(caplog):
    harness = DrainHarness(3)
    harness.sockets[1].drain = None

    await harness.drain.begin(window=0, grace=0)

    assert harness.sockets[0].notice
    assert harness.sockets[2].notice
    assert "could not be asked" in caplog.text


async def test_beginning_twice_is_beginning_once():
    harness = DrainHarness(5)

    assert harness.drain.begin(1, 1) is harness.drain.begin(0, 0)
    await harness.drain.begin(1, 1)


async def test_the_notice_contains_the_reconnect_delay():
    harness = DrainHarness(50)

    await harness.drain.begin(window=0, grace=5)

    waits = [socket.notice.retry_after for socket in harness.sockets]
    assert 0.1 <= min(waits) < 0.3
    assert 0.8 < max(waits) <= 1.0
    assert DrainNotice(retry_after=0.25).reason == "retry-after=0.2"


@pytest.mark.parametrize(
    ("setting", "seconds"),
    [
        ({"DEBUG": False, "TIDERACE": {}}, 20),
        ({"DEBUG": True, "TIDERACE": {}}, 0),
        ({"DEBUG": True, "TIDERACE": {"DRAIN_SECONDS": 7}}, 7),
        ({"DEBUG": False, "TIDERACE": {"DRAIN_SECONDS": 0}}, 0),
    ],
)
def test_the_window_comes_from_the_settings_and_is_zero_in_development(
    setting, seconds
):
    with override_settings(**setting):
        assert drain.drain_seconds() == seconds


@pytest.mark.parametrize("key", ["DRAIN_SECONDS", "DRAIN_GRACE"])
def test_a_negative_time_is_refused(key):
    with pytest.raises(conf.UnknownSetting, match=f"{key}.*is -1; use 0 or more"):
        conf.validate({key: -1})


# SIGTERM, as seen from inside the process.


@pytest.fixture
def server():
    """A handler of SIGTERM as uvicorn has one; what it was called with."""
    calls = []

    def handle_exit(number, frame):
        calls.append(number)

    before = signal.signal(signal.SIGTERM, handle_exit)
    yield calls
    signal.signal(signal.SIGTERM, before)


async def test_the_server_is_stopped_after_the_drain(server):
    harness = DrainHarness(1, ignores_notice=True, frozen=True)
    watch = SigtermWatch(harness.drain)
    await watch.start()

    signal.raise_signal(signal.SIGTERM)
    await until(lambda: harness.drain.draining)
    assert server == []
    harness.connections.discard(harness.sockets[0])
    await until(lambda: server)

    assert server == [signal.SIGTERM]
    await watch.stop()


async def test_a_second_sigterm_is_passed_to_the_server_at_once(server, monkeypatch):
    # Another test of this process may have imported it; it repeats signals.
    monkeypatch.delitem(sys.modules, "gunicorn.arbiter", raising=False)
    harness = DrainHarness(1, ignores_notice=True, frozen=True)
    watch = SigtermWatch(harness.drain, clock=harness.clock)
    await watch.start()

    signal.raise_signal(signal.SIGTERM)
    harness.clock.now += 2
    signal.raise_signal(signal.SIGTERM)
    await until(lambda: server)

    assert harness.drain.open == 1
    await watch.stop()


async def test_the_same_sigterm_by_two_ways_is_one(server):
    harness = DrainHarness(1, ignores_notice=True, frozen=True)
    watch = SigtermWatch(harness.drain, clock=harness.clock)
    await watch.start()

    signal.raise_signal(signal.SIGTERM)
    harness.clock.now += 1.9
    signal.raise_signal(signal.SIGTERM)
    await settle()

    assert harness.drain.draining
    assert server == []
    await watch.stop()


async def test_the_server_is_stopped_when_a_drain_is_not_possible(server, caplog):
    watch = SigtermWatch(Drain(ConnectionRegistry()))
    await watch.start()

    with override_settings(TIDERACE={"NO_SUCH_SETTING": 1}):
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: server)

    assert "NO_SUCH_SETTING" in caplog.text
    await watch.stop()


def test_the_server_is_stopped_when_the_loop_is_closed(server):
    watch = SigtermWatch(Drain(ConnectionRegistry()))
    asyncio.run(watch.start())

    signal.raise_signal(signal.SIGTERM)

    assert server == [signal.SIGTERM]


async def test_the_servers_handler_is_put_back(server):
    own = signal.getsignal(signal.SIGTERM)
    watch = SigtermWatch(Drain(ConnectionRegistry()))
    await watch.start()
    assert signal.getsignal(signal.SIGTERM) != own

    await watch.stop()

    assert signal.getsignal(signal.SIGTERM) == own


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
async def test_a_server_that_handles_no_sigterm_is_left_alone(server, handler):
    signal.signal(signal.SIGTERM, handler)

    await SigtermWatch(Drain(ConnectionRegistry())).start()

    assert signal.getsignal(signal.SIGTERM) == handler


async def test_a_handler_of_the_loop_is_left_alone(server):
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    harness = DrainHarness(1, ignores_notice=True, frozen=True)
    watch = SigtermWatch(harness.drain)

    await watch.start()
    signal.raise_signal(signal.SIGTERM)
    await told.wait()

    assert not harness.drain.draining
    await watch.stop()
    loop.remove_signal_handler(signal.SIGTERM)


def test_a_server_in_another_thread_is_left_alone(server):
    own = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(
        target=lambda: asyncio.run(SigtermWatch(Drain(ConnectionRegistry())).start())
    )

    thread.start()
    thread.join()

    assert signal.getsignal(signal.SIGTERM) == own


# Connections, as consumers have them.


@pytest.fixture
def harness(monkeypatch):
    """The drain that connections of this test enter."""
    mine = DrainHarness(frozen=True)
    monkeypatch.setattr(
        "tiderace.connection.connection.process_connections", mine.connections
    )
    return mine


async def test_a_consumer_of_http_may_end_its_response(harness):
    class Events(AsyncConsumer):
        async def http_request(self, message):
            await self.send({"type": "http.response.start", "status": 200})

        async def server_drain(self, event):
            await self.send({"type": "http.response.body", "body": b"retry: 1\n"})

    stream = ApplicationCommunicator(
        Events.as_asgi(), {"type": "http", "method": "GET", "path": "/", "headers": []}
    )
    await stream.send_input({"type": "http.request", "body": b""})
    assert (await stream.receive_output())["status"] == 200

    draining = harness.drain.begin(0, 5)

    assert (await stream.receive_output())["body"] == b"retry: 1\n"
    await stream.send_input({"type": "http.disconnect"})
    await draining


async def test_an_error_in_the_goodbye_ends_its_connection_and_not_the_drain(harness):
    class Clumsy(AsyncWebsocketConsumer):
        async def server_drain(self, event):
            raise RuntimeError("tripped")

    client = WebsocketCommunicator(Clumsy.as_asgi(), "/")
    await client.connect()

    draining = harness.drain.begin(0, 5)

    with pytest.raises(RuntimeError, match="tripped"):
        await client.receive_output()
    await draining


async def test_a_socket_that_is_just_being_accepted_is_closed_after_that(harness):
    may_accept = asyncio.Event()

    class Slow(AsyncWebsocketConsumer):
        async def connect(self):
            await may_accept.wait()
            await self.accept()

    client = WebsocketCommunicator(Slow.as_asgi(), "/")
    await client.send_input({"type": "websocket.connect"})
    await until(lambda: harness.drain.open)
    draining = harness.drain.begin(0, 5)
    await settle()

    may_accept.set()

    assert (await client.receive_output())["type"] == "websocket.accept"
    assert (await client.receive_output())["code"] == 1012
    await draining
    await client.wait()


async def test_messages_of_a_layer_cannot_close_a_socket_as_a_drain_does(harness):
    client = WebsocketCommunicator(AsyncWebsocketConsumer.as_asgi(), "/")
    await client.connect()
    [opened] = harness.connections
    channel = opened.connection._consumer.channel_name

    await get_channel_layer().send(channel, {"type": "server.drain", "code": 1012})

    assert await client.receive_nothing()
    await client.disconnect()


# Newcomers.


@pytest.fixture
async def draining(monkeypatch):
    """This process, draining."""
    mine = Drain(ConnectionRegistry())
    monkeypatch.setattr("tiderace.routing.process_drain", mine)
    await mine.begin(0, 0)
    return mine


async def test_a_new_connection_is_refused_with_503_and_retry_after(draining):
    scope = {"extensions": {"websocket.http.response": {}}}
    router = ProtocolTypeRouter({"websocket": AsyncWebsocketConsumer.as_asgi()})
    newcomer = WebsocketCommunicator(router, "/")
    newcomer.scope.update(scope)

    await newcomer.send_input({"type": "websocket.connect"})
    answer = await newcomer.receive_output()

    assert answer["status"] == 503
    assert (b"retry-after", b"1") in answer["headers"]


async def test_where_the_server_cannot_say_503_it_is_1012(draining):
    router = ProtocolTypeRouter({"websocket": AsyncWebsocketConsumer.as_asgi()})
    newcomer = WebsocketCommunicator(router, "/")

    await newcomer.send_input({"type": "websocket.connect"})

    assert (await newcomer.receive_output())["type"] == "websocket.accept"
    assert await newcomer.receive_output() == {
        "type": "websocket.close",
        "code": 1012,
        "reason": "retry-after=1.0",
    }
