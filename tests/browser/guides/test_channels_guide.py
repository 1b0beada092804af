"""The guide's two chat scripts in a real browser, on the guide's site under runserver."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from support.servers.asgi_process import TESTS, RunserverProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

SETTINGS = "sites.guide_site.settings"


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("guide") / "db.sqlite3")
    env = {**os.environ, "PYTHONPATH": str(TESTS), "GUIDE_SITE_DB": path}
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity=0"],
        env={**env, "DJANGO_SETTINGS_MODULE": SETTINGS},
        timeout=60,
        check=True,
    )
    return path


def serve(database, port=None):
    return RunserverProcess(SETTINGS, env={"GUIDE_SITE_DB": database}, port=port)


@pytest.fixture(scope="module")
def site(database):
    with serve(database) as server:
        yield server


@pytest.fixture
def lobby(site, new_context):
    """Return a function that opens the lobby in a new window and waits for the connection."""

    def enter():
        page = new_context().new_page()
        page.goto(f"{site.http}/queue/")
        expect(page.locator("#status")).to_have_text("connected")
        return page

    return enter


@pytest.fixture
def room(site, new_context):
    """Return a function that opens a room in a new window, as a user who is logged in."""

    def enter(name, username):
        page = new_context().new_page()
        page.goto(f"{site.http}/login/{username}/")
        page.goto(f"{site.http}/room/{name}/{username}/")
        expect(page.locator("#connection-status")).to_have_text("Connected")
        return page

    return enter


def send(page, text, *, field="#input", button="#send"):
    page.fill(field, text)
    page.click(button)


# The chat with a queue


def test_two_windows_of_the_queueing_chat_receive_each_other(lobby):
    one = lobby()
    other = lobby()

    send(one, "good morning")

    for page in (one, other):
        expect(page.locator(".message")).to_have_text(["somebody: good morning"])


def test_the_queueing_chat_shows_joins(lobby):
    page = lobby()
    lobby()

    expect(page.locator(".system-message")).to_have_text(["one more joined"] * 2)


def test_the_queueing_chat_shows_an_error_of_the_server(lobby):
    page = lobby()

    page.evaluate("chat.ws.send('{')")

    expect(page.locator("#errors")).to_have_text("not JSON")


def test_a_normal_close_is_not_followed_by_another_attempt(lobby):
    page = lobby()

    page.evaluate("chat.close()")

    expect(page.locator("#status")).to_have_text("disconnected")
    assert page.evaluate("[chat.closes, chat.attempts]") == [[1000], 0]


def test_leaving_the_page_ends_its_connection(lobby):
    stayed = lobby()
    left = lobby()
    left.goto("about:blank")

    send(stayed, "still here")

    expect(stayed.locator(".message")).to_have_text(["somebody: still here"])


def test_queued_messages_are_sent_once_after_a_restart_of_the_server(
    database, new_context
):
    page = new_context().new_page()
    with serve(database) as server:
        page.goto(f"{server.http}/queue/")
        expect(page.locator("#status")).to_have_text("connected")
        server.terminate()
    page.wait_for_function("chat.ws.readyState !== WebSocket.OPEN")
    send(page, "into the dark")

    with serve(database, port=server.port):
        expect(page.locator("#status")).to_have_text("connected", timeout=30_000)
        send(page, "back again")

        expect(page.locator(".message")).to_have_text(
            ["somebody: into the dark", "somebody: back again"]
        )
    assert page.evaluate("chat.closes[0]") == 1012


# The room


def test_messages_of_a_room_have_the_names_of_users(room):
    ada = room("tea", "ada")
    bob = room("tea", "bob")

    send(ada, "milk?", field="#message-input", button="#send-button")

    for page in (ada, bob):
        expect(page.locator(".message")).to_have_text(["ada: milk?"])


def test_a_room_shows_joins_and_leaves(room):
    ada = room("hall", "ada")
    bob = room("hall", "bob")
    expect(ada.locator(".system-message")).to_have_text(["bob came in"])

    bob.close()

    expect(ada.locator(".system-message")).to_have_text(["bob came in", "bob went out"])


def test_a_room_shows_who_is_typing_until_they_pause(room):
    ada = room("desk", "ada")
    bob = room("desk", "bob")
    # The pause begins when bob has seen the indicator.
    ada.clock.install(time=0)
    ada.clock.pause_at(1)

    ada.press("#message-input", "h")

    indicator = bob.locator("#typing-indicators")
    expect(indicator).to_have_text("ada is typing...")
    expect(ada.locator("#typing-indicators")).to_be_empty()
    ada.clock.run_for(1000)
    expect(indicator).to_be_empty()


def test_a_room_reconnects_after_a_restart_of_the_server(database, new_context):
    page = new_context().new_page()
    with serve(database) as server:
        page.goto(f"{server.http}/room/attic/ada/")
        expect(page.locator("#connection-status")).to_have_text("Connected")
        server.terminate()
        expect(page.locator("#connection-status")).to_have_text("Disconnected")

    with serve(database, port=server.port):
        expect(page.locator("#connection-status")).to_have_text(
            "Connected", timeout=30_000
        )


# The browser's own WebSocket, as described in the guide


def test_the_properties_of_a_websocket_are_those_negotiated(site, page):
    page.goto(f"{site.http}/queue/")

    facts = page.evaluate(
        """async () => {
            const url = `ws://${location.host}/ws/files/`;
            const ws = new WebSocket(url, ["unknown", "chat"]);
            const before = ws.readyState;
            await new Promise((done) => ws.addEventListener("open", done, {once: true}));
            return [before, ws.readyState, ws.protocol, ws.url === url];
        }"""
    )

    assert facts == [0, 1, "chat", True]


@pytest.mark.parametrize(
    "made",
    ["new Blob(['bits'])", "new TextEncoder().encode('bits').buffer"],
    ids=["Blob", "ArrayBuffer"],
)
def test_binary_data_is_echoed(site, page, made):
    page.goto(f"{site.http}/queue/")

    received = page.evaluate(
        """async (made) => {
            const ws = new WebSocket(`ws://${location.host}/ws/files/`);
            await new Promise((done) => (ws.onopen = done));
            ws.send(eval(made));
            const event = await new Promise((done) => (ws.onmessage = done));
            return [event.data instanceof Blob, await event.data.text()];
        }""",
        made,
    )

    assert received == [True, "bits"]


def test_the_close_event_has_the_consumers_code_and_reason(site, page):
    page.goto(f"{site.http}/queue/")

    seen = page.evaluate(
        """async () => {
            const ws = new WebSocket(`ws://${location.host}/ws/shown-out/`);
            const event = await new Promise((done) => (ws.onclose = done));
            return [event.code, event.reason, event.wasClean];
        }"""
    )

    assert seen == [4001, "who are you?", True]


def test_a_refused_handshake_is_an_error_and_then_a_close(site, page):
    page.goto(f"{site.http}/queue/")

    seen = page.evaluate(
        """async () => {
            const ws = new WebSocket(`ws://${location.host}/ws/members/`);
            const seen = [];
            ws.onerror = (event) => seen.push(event.type);
            const event = await new Promise((done) => (ws.onclose = done));
            return [...seen, event.code, event.wasClean];
        }"""
    )

    assert seen == ["error", 1006, False]
