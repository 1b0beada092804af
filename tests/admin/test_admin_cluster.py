"""The page of Django's admin over two real processes that share a layer."""

from __future__ import annotations

import contextlib
import os
import re
import signal

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from support.servers.brokers import Server
from support.servers.demo_process import DemoProcess
from support.waiting import wait_until
from tiderace.layers.database import DatabaseChannelLayer
from tiderace.layers.redis import RedisChannelLayer
from tiderace.runtime import sync_bridge

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

PAGE = "/admin/tiderace/connections/"


@pytest.fixture(scope="module", params=["redis", "database"])
def layer_kind(request):
    """The kind of the layer between the processes."""
    return request.param


@pytest.fixture(scope="module")
def layer_url(layer_kind):
    """A server of these tests' own, or nothing."""
    if layer_kind == "database":
        yield ""
        return
    with Server() as server:
        yield server.url


@pytest.fixture(scope="module")
def demo(tmp_path_factory, layer_kind, layer_url):
    """The demo in two processes."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", layer_url)
        with DemoProcess(folder, "--layer", layer_kind, "--workers", "2") as demo:
            yield demo


@pytest.fixture
def harbour(demo):
    """A browser of somebody who may see who is connected."""
    with contextlib.closing(demo.visitor()) as visitor:
        answer = visitor.post(
            f"/admin/login/?next={PAGE}", username="harbour", password="harbour-tide"
        )
        assert answer.url.path == PAGE, answer.text
        yield visitor


@pytest.fixture
def in_both(demo, harbour):
    """Open sockets of alice's until both processes have one."""
    with contextlib.ExitStack() as windows:
        alice = windows.enter_context(contextlib.closing(demo.visitor()))
        alice.log_in("alice")
        opened = []

        def both_have_one():
            opened.append(windows.enter_context(alice.room("general")))
            return len(processes(shown(harbour))) == 2

        wait_until(both_have_one, timeout=90, what="a socket in both processes")
        yield opened


@pytest.fixture
def reports(layer_url, demo):
    """A layer that reads what the processes of the demo tell of themselves."""
    if layer_url:
        layer = RedisChannelLayer(hosts=[layer_url], prefix="tiderace-demo")
    else:
        layer = DatabaseChannelLayer(path=demo.folder / "demo.tiderace.sqlite3")
    yield layer
    sync_bridge.call(layer.close)


def close_payload(window):
    """Code and reason with which a socket is closed."""
    try:
        while True:
            window.next()
    except ConnectionClosed as closed:
        return closed.rcvd.code, closed.rcvd.reason


def shown(browser):
    return browser.http.get(PAGE).text


def processes(page):
    """The processes that somebody in the list of connections is connected to."""
    connections = page.partition('id="who"')[2].partition('id="processes"')[0]
    return set(re.findall(r"<td>([\w.-]+:\d+)</td>", connections))


def test_the_page_lists_the_connections_of_every_process(harbour, in_both):
    page = shown(harbour)

    assert f"1 to {len(in_both)} of {len(in_both)}," in page
    assert page.count("/connection/websocket") == len(in_both)
    assert "No answer" not in page


def test_a_user_is_disconnected_from_every_process(harbour, in_both):
    answer = harbour.post(
        f"{PAGE}disconnect/", user="1", reason="closing time", confirmed="yes"
    )

    assert f"{len(in_both)} connection" in answer.text
    closes = [close_payload(window) for window in in_both]
    assert closes == [(3503, "closing time")] * len(in_both)


def test_a_stopped_process_is_named_as_silent(demo, harbour, in_both, reports):
    def both_have_told_of_their_sockets():
        told = sync_bridge.call(reports.stats, fleet=True).processes
        return sum(each.topic_clients > 0 for each in told) == 2

    wait_until(both_have_told_of_their_sockets, what="reports")
    still, other = processes(shown(harbour))
    pid = int(still.rpartition(":")[2])
    os.kill(pid, signal.SIGSTOP)
    try:
        # A new connection, which only the other one can accept.
        with httpx.Client(cookies=harbour.http.cookies, timeout=20) as fresh:
            page = fresh.get(demo.url + PAGE).text
    finally:
        os.kill(pid, signal.SIGCONT)

    assert f"No answer within a second from {still}." in page
    assert processes(page) == {other}
