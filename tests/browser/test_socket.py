"""The built client in Chromium, against a server that is killed and comes back."""

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
from support.asgi_process import AsgiProcess, free_port, wait_until

pytestmark = pytest.mark.browser

POLICY = (
    "default-src 'none'; img-src data:; connect-src 'self'; script-src 'nonce-bm9uY2U='"
)
QUICK = {"minDelay": 0.05, "maxDelay": 0.2}
# Opens `window.socket`, with a record of all that happens to it in `window.log`.
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


class Server:
    """The server of a test and its diary; it can be killed and started again."""

    def __init__(self, diary: Path) -> None:
        self.port = free_port()
        self._diary = diary
        self._process: AsgiProcess | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = AsgiProcess(
            "uvicorn",
            "browser.socket_app:app",
            port=self.port,
            env={"DIARY": str(self._diary), "POLICY": POLICY},
        )
        self._process.__enter__()

    def kill(self) -> None:
        """SIGKILL: not a byte of farewell on any connection."""
        if self._process:
            self._process.kill()
            self._process = None

    def terminate(self) -> None:
        """SIGTERM, as a deploy sends it."""
        assert self._process
        assert self._process.terminate() in (0, -signal.SIGTERM)
        self.kill()

    def diary(self, at: str) -> list[dict[str, Any]]:
        lines = self._diary.read_text(encoding="utf-8").splitlines()
        return [entry for entry in map(json.loads, lines) if entry["at"] == at]

    def texts(self) -> list[str]:
        return [entry["text"] for entry in self.diary("message")]

    def wait_for_text(self, text: str) -> list[str]:
        """Every text so far, once ``text`` has come."""
        wait_until(lambda: text in self.texts(), what=f"the message {text!r}")
        return self.texts()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    diary = tmp_path / "diary"
    diary.touch()
    server = Server(diary)
    yield server
    server.kill()


def open_socket(page: Page, url: str = "/ws/", **options: object) -> None:
    page.evaluate(OPEN, [url, {**QUICK, **options}])


def wait_for_status(page: Page, status: str) -> None:
    page.wait_for_function("status => socket.status === status", arg=status)


def send(page: Page, *messages: object) -> None:
    page.evaluate("messages => messages.forEach((m) => socket.send(m))", messages)


def log(page: Page, kind: str) -> list[list[Any]]:
    entries: list[list[Any]] = page.evaluate("() => log")
    return [entry[1:] for entry in entries if entry[0] == kind]


def test_a_message_goes_there_and_its_echo_comes_back(
    page: Page, server: Server
) -> None:
    page.goto(server.address)
    open_socket(page)
    wait_for_status(page, "open")

    send(page, {"text": "grüße"})

    page.wait_for_function("() => log.some(([kind]) => kind === 'message')")
    assert log(page, "message") == [['{"text":"grüße"}']]


def test_what_was_sent_while_the_server_was_dead_arrives_once_and_in_order(
    page: Page, server: Server
) -> None:
    page.goto(server.address)
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


def test_several_crashes_in_a_row_repeat_nothing(page: Page, server: Server) -> None:
    page.goto(server.address)
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
    page.goto(server.address)
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
    wait_until(lambda: len(server.diary("message")) == 2, what="both messages")

    assert [entry["bytes"] for entry in server.diary("message")] == [
        [2, 3, 4],
        [1, 2, 3, 4],
    ]


@pytest.mark.parametrize("kind", ["Blob", "ArrayBuffer"])
def test_binary_messages_come_as_the_type_that_was_chosen(
    page: Page, server: Server, kind: str
) -> None:
    page.goto(server.address)
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


def test_a_server_that_restarts_says_1012_and_is_called_again(
    page: Page, server: Server
) -> None:
    page.goto(server.address)
    open_socket(page)
    wait_for_status(page, "open")

    server.terminate()
    page.wait_for_function("() => log.some(([kind]) => kind === 'close')")
    server.start()
    wait_for_status(page, "open")

    code, _, will_reconnect = log(page, "close")[0]
    assert (code, will_reconnect) == (1012, True)


def test_a_final_code_is_not_followed_by_an_attempt(page: Page, server: Server) -> None:
    page.clock.install()
    page.goto(server.address)

    open_socket(page, "/ws/close/4401")
    wait_for_status(page, "closed")
    page.clock.fast_forward("10:00")
    # A later connection proves that the server would have seen an earlier one.
    page.evaluate("() => { new WebSocket(`ws://${location.host}/ws/witness`) }")
    wait_until(
        lambda: server.diary("connect")[-1]["path"] == "/ws/witness", what="the witness"
    )

    assert [entry["path"] for entry in server.diary("connect")] == [
        "/ws/close/4401",
        "/ws/witness",
    ]
    assert log(page, "close") == [[4401, "as asked", False]]


def test_a_connection_that_fell_silent_is_replaced(page: Page, server: Server) -> None:
    with StallingProxy(server.port) as proxy:
        page.goto(server.address)
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
        send(page, "through again")

        server.wait_for_text("through again")
        assert log(page, "close") == [
            [1006, "no frame within 2 s of a heartbeat", True]
        ]


def test_an_answered_heartbeat_keeps_the_connection(page: Page, server: Server) -> None:
    page.goto(server.address)
    open_socket(page, heartbeat=0.05, heartbeatTimeout=5)

    page.wait_for_function(
        '() => log.filter(([, data]) => data === \'{"type":"pong"}\').length >= 5'
    )

    assert log(page, "close") == []
    assert len(server.diary("connect")) == 1


def test_a_listener_that_throws_harms_neither_the_others_nor_the_socket(
    page: Page, server: Server
) -> None:
    thrown: list[str] = []
    page.on("pageerror", lambda error: thrown.append(error.message))
    page.goto(server.address)
    open_socket(page)
    wait_for_status(page, "open")
    page.evaluate(
        """() => {
          socket.onerror = socket.onclose = () => { throw new Error("a slip"); };
          socket.addEventListener("close", () => log.push(["heard"]));
        }"""
    )

    server.kill()
    page.wait_for_function("() => log.some(([kind]) => kind === 'heard')")
    server.start()
    wait_for_status(page, "open")

    assert set(thrown) == {"a slip"}


def test_leaving_the_page_ends_its_connection(page: Page, server: Server) -> None:
    page.goto(server.address)
    open_socket(page)
    wait_for_status(page, "open")

    page.goto("about:blank")

    wait_until(lambda: server.diary("disconnect"), what="the disconnect")


def test_a_socket_that_is_closed_ends_its_connection_with_the_code(
    page: Page, server: Server
) -> None:
    page.goto(server.address)
    open_socket(page)
    wait_for_status(page, "open")

    page.evaluate("() => socket.close(4001, 'done')")
    wait_for_status(page, "closed")

    assert log(page, "close") == [[4001, "done", False]]
    wait_until(lambda: server.diary("disconnect"), what="the disconnect")
    assert server.diary("disconnect")[0]["code"] == 4001


@pytest.fixture(scope="module")
def keeping_browser(launch: Callable[..., Browser]) -> Browser:
    """A browser that keeps pages it has left, and knows a host ``site.test``.

    Playwright's own launch turns the back/forward cache off.
    """
    return launch(
        "--host-resolver-rules=MAP site.test 127.0.0.1",
        ignore_default_args=["--disable-back-forward-cache"],
    )


@pytest.fixture
def kept_page(keeping_browser: Browser) -> Iterator[Page]:
    page = keeping_browser.new_page()
    yield page
    page.context.close()


def test_a_page_kept_by_the_browser_hangs_up_and_comes_back_with_its_queue(
    kept_page: Page, server: Server
) -> None:
    page = kept_page
    page.goto(server.address)
    open_socket(page)
    wait_for_status(page, "open")
    page.evaluate("() => addEventListener('pagehide', () => socket.send('kept'))")

    page.goto(f"{server.address}/elsewhere")
    wait_until(lambda: server.diary("disconnect"), what="the disconnect")
    assert "kept" not in server.texts()
    page.go_back(wait_until="commit")

    assert server.wait_for_text("kept") == ["kept"]
    assert log(page, "error") == []
    assert log(page, "close") == [[1001, "the page is hidden", True]]


def test_without_network_no_attempt_is_made_until_it_is_back(
    kept_page: Page, server: Server
) -> None:
    page = kept_page
    page.goto(f"http://site.test:{server.port}/")
    open_socket(page)
    wait_for_status(page, "open")

    page.context.set_offline(True)
    server.kill()
    wait_for_status(page, "offline")
    server.start()
    page.context.set_offline(False)
    wait_for_status(page, "open")

    assert len(server.diary("connect")) == 2


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
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))

    page.goto(f"{server.address}/tagged.html")

    # Playwright's own waiting evaluates text in the page, which the policy forbids.
    wait_until(lambda: server.diary("connect"), what="the connection")
    assert [entry["path"] for entry in server.diary("connect")] == ["/ws/from-the-tag/"]
    assert complaints == []
