"""The built client in Chromium, with a server that is killed and started again."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.template import Context, Template
from django.test import override_settings
from playwright.sync_api import Browser, Page

from browser.stalling_proxy import StallingProxy
from support.servers.asgi_process import AsgiProcess
from support.waiting import wait_until

pytestmark = pytest.mark.browser

POLICY = (
    "default-src 'none'; img-src data:; connect-src 'self'; script-src 'nonce-bm9uY2U='"
)
QUICK = {"minDelay": 0.05, "maxDelay": 0.2}
# Opens `window.socket` and records its events in `window.log`.
OPEN = """
async ([url, options]) => {
  const { Socket } = await import("/static/tiderace/tiderace.js");
  const socket = (window.socket = new Socket(url, [], options));
  const log = (window.log = []);
  socket.onstate = ({ detail }) => log.push(["state", detail.status]);
  socket.onmessage = ({ data }) => log.push(["message", data]);
  socket.onerror = ({ error }) => log.push(["error", error ?? null]);
  socket.onclose = (e) => log.push(["close", e.code, e.reason, e.willReconnect]);
}
"""


class Server(AsgiProcess):
    """A server that can be killed and started again, and its log of events."""

    def __init__(self, event_log: Path) -> None:
        self._event_log = event_log
        env = {"EVENT_LOG": str(event_log), "POLICY": POLICY}
        super().__init__("uvicorn", "browser.socket_app:app", env=env)

    def events(self, at: str) -> list[dict[str, Any]]:
        lines = self._event_log.read_text(encoding="utf-8").splitlines()
        return [entry for entry in map(json.loads, lines) if entry["at"] == at]

    def texts(self) -> list[str]:
        return [entry["text"] for entry in self.events("message")]

    def wait_for_text(self, text: str) -> list[str]:
        """Wait for ``text``, and return all texts so far."""
        wait_until(lambda: text in self.texts(), what=f"the message {text!r}")
        return self.texts()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    event_log = tmp_path / "event_log"
    event_log.touch()
    with Server(event_log) as server:
        yield server


def open_socket(page: Page, url: str = "/ws/", **options: object) -> None:
    page.evaluate(OPEN, [url, {**QUICK, **options}])


def wait_for_status(page: Page, status: str) -> None:
    page.wait_for_function("status => socket.status === status", arg=status)


def send(page: Page, *messages: object) -> None:
    page.evaluate("messages => messages.forEach((m) => socket.send(m))", messages)


def log(page: Page, kind: str) -> list[list[Any]]:
    entries: list[list[Any]] = page.evaluate("() => log")
    return [entry[1:] for entry in entries if entry[0] == kind]


def test_a_message_is_sent_and_its_echo_received(page: Page, server: Server) -> None:
    page.goto(server.http)
    open_socket(page)
    wait_for_status(page, "open")

    send(page, {"text": "grüße"})

    page.wait_for_function("() => log.some(([kind]) => kind === 'message')")
    assert log(page, "message") == [['{"text":"grüße"}']]


def test_messages_sent_without_a_server_arrive_once_and_in_order(
    page: Page, server: Server
) -> None:
    page.goto(server.http)
    open_socket(page)
    wait_for_status(page, "open")
    send(page, "before")
    server.wait_for_text("before")

    server.kill()
    wait_for_status(page, "waiting")
    send(page, "one", {"two": 2}, "three")
    server.start()
    wait_for_status(page, "open")
    send(page, "after")

    texts = server.wait_for_text("after")
    assert texts == ["before", "one", '{"two":2}', "three", "after"]


def test_several_crashes_in_a_row_repeat_no_message(page: Page, server: Server) -> None:
    page.goto(server.http)
    open_socket(page)

    for crash in range(3):
        wait_for_status(page, "open")
        server.kill()
        wait_for_status(page, "waiting")
        send(page, f"{crash} a", f"{crash} b")
        server.start()
        server.wait_for_text(f"{crash} b")
    send(page, "end")

    expected = [f"{crash} {letter}" for crash in range(3) for letter in "ab"]
    assert server.wait_for_text("end") == [*expected, "end"]


def test_queued_bytes_arrive_as_bytes(page: Page, server: Server) -> None:
    page.goto(server.http)
    open_socket(page)
    wait_for_status(page, "open")
    server.kill()
    wait_for_status(page, "waiting")

    page.evaluate(
        """() => {
          const bytes = new Uint8Array([1, 2, 3, 4]);
          socket.send(bytes.subarray(1));
          socket.send(new Blob([bytes]));
          bytes.fill(9);
        }"""
    )
    server.start()
    wait_until(lambda: len(server.events("message")) == 2, what="both messages")

    assert [entry["bytes"] for entry in server.events("message")] == [
        [2, 3, 4],
        [1, 2, 3, 4],
    ]


@pytest.mark.parametrize("kind", ["Blob", "ArrayBuffer"])
def test_binary_messages_have_the_chosen_type(
    page: Page, server: Server, kind: str
) -> None:
    page.goto(server.http)
    open_socket(page)

    received = page.evaluate(
        """(kind) => new Promise((resolve) => {
          socket.binaryType = kind.toLowerCase();
          socket.onmessage = ({ data }) => resolve(data.constructor.name);
          socket.send(new Uint8Array([1, 2, 3]));
        })""",
        kind,
    )

    assert received == kind


def test_a_socket_reconnects_after_a_restart_with_1012(
    page: Page, server: Server
) -> None:
    page.goto(server.http)
    open_socket(page)
    wait_for_status(page, "open")

    assert server.terminate() in (0, -signal.SIGTERM)
    page.wait_for_function("() => log.some(([kind]) => kind === 'close')")
    server.start()
    wait_for_status(page, "open")

    code, _, will_reconnect = log(page, "close")[0]
    assert (code, will_reconnect) == (1012, True)


def test_a_final_code_is_not_followed_by_an_attempt(page: Page, server: Server) -> None:
    page.clock.install()
    page.goto(server.http)

    open_socket(page, "/ws/close/4401")
    wait_for_status(page, "closed")
    page.clock.fast_forward("10:00")
    # The events of the server are in order: another attempt would come first.
    page.evaluate("() => { new WebSocket(`ws://${location.host}/ws/witness`) }")
    wait_until(
        lambda: server.events("connect")[-1]["path"] == "/ws/witness",
        what="the witness",
    )

    assert [entry["path"] for entry in server.events("connect")] == [
        "/ws/close/4401",
        "/ws/witness",
    ]
    assert log(page, "close") == [[4401, "as asked", False]]


def test_a_silent_connection_is_replaced(page: Page, server: Server) -> None:
    with StallingProxy(server.port) as proxy:
        page.goto(server.http)
        open_socket(
            page,
            f"ws://127.0.0.1:{proxy.port}/ws/",
            heartbeat=0.1,
            heartbeatTimeout=2,
        )
        wait_for_status(page, "open")

        proxy.stall()
        page.wait_for_function("() => log.some(([kind]) => kind === 'close')")
        wait_for_status(page, "open")
        send(page, "after the stall")

        server.wait_for_text("after the stall")
        assert log(page, "close") == [[1006, "no frame within 2 s", True]]


def test_an_answered_heartbeat_keeps_the_connection(page: Page, server: Server) -> None:
    page.goto(server.http)
    open_socket(page, heartbeat=0.05, heartbeatTimeout=5)

    page.wait_for_function(
        '() => log.filter(([, data]) => data === \'{"type":"pong"}\').length >= 5'
    )

    assert log(page, "close") == []
    assert len(server.events("connect")) == 1


def test_a_listener_that_throws_does_not_stop_the_others_or_the_socket(
    page: Page, server: Server
) -> None:
    thrown: list[str] = []
    page.on("pageerror", lambda error: thrown.append(error.message))
    page.goto(server.http)
    open_socket(page)
    wait_for_status(page, "open")
    page.evaluate(
        """() => {
          socket.onerror = socket.onclose = () => { throw new Error("from a listener"); };
          socket.addEventListener("close", () => log.push(["called"]));
        }"""
    )

    server.kill()
    page.wait_for_function("() => log.some(([kind]) => kind === 'called')")
    server.start()
    wait_for_status(page, "open")

    assert set(thrown) == {"from a listener"}


def test_leaving_the_page_ends_its_connection(page: Page, server: Server) -> None:
    page.goto(server.http)
    open_socket(page)
    wait_for_status(page, "open")

    page.goto("about:blank")

    wait_until(lambda: server.events("disconnect"), what="the disconnect")


def test_close_ends_the_connection_with_its_code(page: Page, server: Server) -> None:
    page.goto(server.http)
    open_socket(page)
    wait_for_status(page, "open")

    page.evaluate("() => socket.close(4001, 'done')")
    wait_for_status(page, "closed")

    assert log(page, "close") == [[4001, "done", False]]
    wait_until(lambda: server.events("disconnect"), what="the disconnect")
    assert server.events("disconnect")[0]["code"] == 4001


@pytest.fixture(scope="module")
def caching_browser(launch: Callable[..., Browser]) -> Browser:
    """A browser with a back/forward cache, which resolves the host ``site.test``.

    Playwright's own launch disables the cache.
    """
    return launch(
        "--host-resolver-rules=MAP site.test 127.0.0.1",
        ignore_default_args=["--disable-back-forward-cache"],
    )


@pytest.fixture
def cached_page(caching_browser: Browser) -> Iterator[Page]:
    page = caching_browser.new_page()
    yield page
    page.context.close()


def test_a_page_in_the_cache_disconnects_and_later_sends_its_queue(
    cached_page: Page, server: Server
) -> None:
    page = cached_page
    page.goto(server.http)
    open_socket(page)
    wait_for_status(page, "open")
    page.evaluate("() => addEventListener('pagehide', () => socket.send('queued'))")

    page.goto(f"{server.http}/other")
    wait_until(lambda: server.events("disconnect"), what="the disconnect")
    assert "queued" not in server.texts()
    page.go_back(wait_until="commit")

    assert server.wait_for_text("queued") == ["queued"]
    assert log(page, "error") == []
    assert log(page, "close") == [[1001, "page hidden", True]]


def test_without_network_no_attempt_is_made_until_it_is_back(
    cached_page: Page, server: Server
) -> None:
    page = cached_page
    page.goto(f"http://site.test:{server.port}/")
    open_socket(page)
    wait_for_status(page, "open")

    page.context.set_offline(True)
    server.kill()
    wait_for_status(page, "offline")
    server.start()
    page.context.set_offline(False)
    wait_for_status(page, "open")

    assert len(server.events("connect")) == 2


PAGE_WITH_TAGS = """
{% load tiderace %}<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
{% tiderace_importmap %}
{% tiderace_script base="/ws/" min_delay=0.05 max_delay=0.2 %}
<script type="module" nonce="{{ csp_nonce }}">
import { connect } from "tiderace";
window.socket = connect("from-the-tag/");
</script>
"""


def test_the_tags_load_the_client_under_a_strict_policy(
    page: Page, server: Server, tmp_path: Path
) -> None:
    engine = "django.template.backends.django.DjangoTemplates"
    with override_settings(TEMPLATES=[{"BACKEND": engine}], STATIC_URL="/static/"):
        html = Template(PAGE_WITH_TAGS).render(Context({"csp_nonce": "bm9uY2U="}))
    (tmp_path / "tagged.html").write_text(html, encoding="utf-8")
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))

    page.goto(f"{server.http}/tagged.html")

    # Playwright's waiting evaluates text in the page, which the policy forbids.
    wait_until(lambda: server.events("connect"), what="the connection")
    assert [entry["path"] for entry in server.events("connect")] == [
        "/ws/from-the-tag/"
    ]
    assert messages == []
