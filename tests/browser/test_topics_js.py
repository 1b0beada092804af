"""The built topics client in Chromium, with a real server."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute

from browser.stalling_proxy import StallingProxy
from support.servers.asgi_process import AsgiProcess
from support.servers.brokers import Server
from support.servers.ports import free_port

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

SITE = "browser.topics_site:application"
# Creates `window.client` and `window.room`, and records their events in `window.log`.
ENTER = """
async ([topic, options, settings, token]) => {
  const { Client } = await import("/static/tiderace/tiderace.js");
  window.tokens = 0;
  const getToken = async () => {
    window.tokens++;
    return (await fetch(token)).text();
  };
  const client = (window.client = new Client("/connection/", {
    minDelay: 0.05, maxDelay: 0.2, ...settings, ...(token && { getToken })
  }));
  const log = (window.log = []);
  const note = (target, ...types) => types.forEach((type) =>
    target.addEventListener(type, (e) => log.push([type, e.error ? `${e.error}` : e.detail])));
  note(client, "connected", "connecting", "disconnected", "error");
  const room = (window.room = client.subscribe(topic, options));
  note(room, "publication", "subscribed", "subscribing", "unsubscribed", "gap", "joined",
       "left", "error");
}
"""

Enter = Callable[..., Page]


@pytest.fixture(scope="module")
def site() -> Iterator[AsgiProcess]:
    with AsgiProcess("uvicorn", SITE) as server:
        yield server


@pytest.fixture
def enter(site: AsgiProcess, new_context: Callable[..., Any]) -> Enter:
    """Return a function that opens a page whose client subscribes to a topic."""

    def go(
        topic: str,
        *,
        address: str = "",
        settings: object = None,
        token: str = "",
        state: str = "subscribed",
        prepare: Callable[[Page], None] | None = None,
        **options: object,
    ) -> Page:
        page: Page = new_context().new_page()
        if prepare:
            prepare(page)
        page.goto(f"{address or site.http}/")
        page.evaluate(ENTER, [topic, options, settings or {}, token])
        page.wait_for_function("state => room.state === state", arg=state)
        return page

    return go


def log(page: Page, kind: str) -> list[Any]:
    entries: list[list[Any]] = page.evaluate("() => log")
    return [entry[1] for entry in entries if entry[0] == kind]


def wait_for(page: Page, kind: str, count: int = 1) -> None:
    page.wait_for_function(
        "([kind, count]) => log.filter(([k]) => k === kind).length >= count",
        arg=[kind, count],
    )


def texts(page: Page) -> list[str]:
    return [each["data"]["text"] for each in log(page, "publication")]


def publish(page: Page, *messages: str) -> None:
    """Publish from the page, and wait for the acknowledgements."""
    page.evaluate(
        "messages => Promise.all(messages.map((text) => room.publish({text})))",
        messages,
    )


def publish_from_view(server: AsgiProcess, topic: str, *messages: str) -> None:
    """Publish from a view of the site."""
    for text in messages:
        with urllib.request.urlopen(
            f"{server.http}/publish/{topic}/{text}", timeout=10
        ):
            pass


def test_a_publication_of_a_page_is_received_by_two_pages(enter: Enter) -> None:
    ada, bob = enter("room:pair"), enter("room:pair")

    publish(ada, "grüße", "again")

    for page in (ada, bob):
        wait_for(page, "publication", 2)
        assert texts(page) == ["grüße", "again"]


def test_a_publication_of_a_view_is_received(enter: Enter, site: AsgiProcess) -> None:
    page = enter("room:view")

    publish_from_view(site, "room:view", "saved")

    wait_for(page, "publication")
    assert texts(page) == ["saved"]


def test_a_loop_yields_the_messages_in_order(enter: Enter) -> None:
    page = enter("room:loop")
    page.evaluate(
        "() => { window.seen = []; (async () => {"
        " for await (const { text } of room) seen.push(text) })() }"
    )

    publish(page, "a", "b")

    page.wait_for_function("() => seen.join() === 'a,b'")


def test_every_page_has_the_members_of_a_topic(enter: Enter) -> None:
    ada = enter("room:people", presence=True)
    ada.wait_for_function("() => room.presence.size === 1")

    bob = enter("room:people", presence=True)

    for page in (ada, bob):
        page.wait_for_function("() => room.presence.size === 2")
    bob.close()
    ada.wait_for_function("() => room.presence.size === 1")
    assert len(log(ada, "left")) == 1


def test_messages_missed_in_the_page_cache_are_recovered(enter: Enter) -> None:
    ada, bob = enter("room:nap"), enter("room:nap")
    publish(bob, "one")
    wait_for(ada, "publication")

    ada.evaluate("() => dispatchEvent(new PageTransitionEvent('pagehide'))")
    publish(bob, "two", "three")
    ada.evaluate("() => dispatchEvent(new PageTransitionEvent('pageshow'))")

    wait_for(ada, "publication", 3)
    assert texts(ada) == ["one", "two", "three"]
    assert [each["recovered"] for each in log(ada, "subscribed")] == [False, True]
    assert log(ada, "gap") == []


def test_a_page_continues_at_the_position_it_was_rendered_at(
    enter: Enter, site: AsgiProcess
) -> None:
    publish_from_view(site, "room:rendered", "shown")
    page = enter("room:other")
    page.goto(f"{site.http}/position/room:rendered")
    publish_from_view(site, "room:rendered", "missed")

    page.evaluate(
        """async () => {
            const { topics } = await import("/static/tiderace/tiderace.js");
            window.seen = [];
            const room = topics().subscribe("room:rendered");
            room.addEventListener("publication", ({ data }) => seen.push(data.text));
            room.addEventListener("gap", () => seen.push("a gap"));
        }"""
    )

    page.wait_for_function("() => seen.length")
    assert page.evaluate("() => seen") == ["missed"]


def test_a_page_loads_its_state_again_when_its_position_is_unrecoverable(
    enter: Enter, site: AsgiProcess
) -> None:
    publish_from_view(site, "room:state", "kept")
    page = enter("room:other")

    page.evaluate(
        """async () => {
            window.loads = 0;
            const getState = async () => {
                loads++;
                if (loads === 1) return { offset: 99, epoch: "gone" };
                return (await fetch("/publish/room:state/loaded")).json();
            };
            window.state = client.subscribe("room:state", { getState });
        }"""
    )

    page.wait_for_function("() => state.state === 'subscribed'")
    assert page.evaluate("() => [loads, state.position.offset]") == [2, 2]


def test_a_topic_without_a_history_has_a_gap_after_an_outage(
    enter: Enter,
) -> None:
    page = enter("transient:gap")

    page.evaluate("() => dispatchEvent(new PageTransitionEvent('pagehide'))")
    page.evaluate("() => dispatchEvent(new PageTransitionEvent('pageshow'))")

    wait_for(page, "gap")
    wait_for(page, "subscribed", 2)


def test_publications_are_repeated_after_a_rate_limit(enter: Enter) -> None:
    page = enter("room:rate")
    messages = [f"{number:02}" for number in range(80)]

    publish(page, *messages)

    wait_for(page, "publication", 80)
    assert sorted(texts(page)) == messages
    assert log(page, "error") == []


def test_methods_of_a_topic_and_of_the_endpoint_are_called(enter: Enter) -> None:
    page = enter("room:calls")

    assert page.evaluate("() => room.call('shout', {text: 'tea'})") == "TEA!"
    assert page.evaluate("() => client.call('add', {a: 2, b: 3})") == 5


def test_a_refused_call_has_the_code_of_the_application(enter: Enter) -> None:
    page = enter("room:calls")

    error = page.evaluate(
        "() => room.call('shout', {text: ''})"
        ".catch((e) => [e.name, e.code, e.temporary])"
    )

    assert error == ["TopicError", 422, False]


def test_history_is_read_from_either_end(enter: Enter, site: AsgiProcess) -> None:
    publish_from_view(site, "room:past", "a", "b", "c")
    page = enter("room:past")

    read = (
        "(options) => room.history(options)"
        ".then((h) => h.publications.map((p) => p.data.text))"
    )

    assert page.evaluate(read, {}) == ["a", "b", "c"]
    assert page.evaluate(read, {"limit": 2, "reverse": True}) == ["c", "b"]


def test_a_topic_without_permission_is_unsubscribed(enter: Enter) -> None:
    page = enter("closed:door", state="unsubscribed")

    assert [each["code"] for each in log(page, "unsubscribed")] == [103]
    error = page.evaluate("() => room.publish({}).catch((e) => e.code)")
    assert error == 103


def test_a_token_identifies_the_publisher_and_is_refreshed(
    enter: Enter,
) -> None:
    page = enter("room:token", token="/token/7?ttl=2")

    page.wait_for_function("() => tokens >= 3")
    publish(page, "still here")

    wait_for(page, "publication")
    assert log(page, "publication")[0]["info"]["user"] == "7"
    assert log(page, "connecting") == []


def test_a_user_that_is_disconnected_does_not_reconnect(
    enter: Enter, site: AsgiProcess
) -> None:
    page = enter("room:kick", token="/token/8")

    page.evaluate("() => fetch('/kick/8')")

    wait_for(page, "disconnected")
    assert log(page, "disconnected") == [{"code": 3503, "reason": "out"}]


@pytest.mark.parametrize("transport", ["http_stream", "sse"])
def test_a_room_works_over_http(
    enter: Enter, site: AsgiProcess, transport: str
) -> None:
    settings = {"transports": [transport]}
    page = enter(f"room:{transport}", settings=settings, presence=True)
    page.wait_for_function("() => room.presence.size === 1")

    publish(page, "grüße 🌊", *(f"{n}" for n in range(20)))
    publish_from_view(site, f"room:{transport}", "seen")

    wait_for(page, "publication", 22)
    assert texts(page) == ["grüße 🌊", *map(str, range(20)), "seen"]
    assert log(page, "connected")[0]["transport"] == transport
    assert log(page, "connecting") == []


@pytest.mark.parametrize("transport", ["http_stream", "sse"])
def test_an_outage_over_http_is_recovered(enter: Enter, transport: str) -> None:
    ada = enter(f"room:nap-{transport}", settings={"transports": [transport]})
    bob = enter(f"room:nap-{transport}")

    ada.evaluate("() => dispatchEvent(new PageTransitionEvent('pagehide'))")
    publish(bob, "missed")
    ada.evaluate("() => dispatchEvent(new PageTransitionEvent('pageshow'))")

    wait_for(ada, "publication")
    assert log(ada, "gap") == []


def test_a_user_that_is_disconnected_over_http_does_not_reconnect(enter: Enter) -> None:
    settings = {"transports": ["http_stream"]}
    page = enter("room:kick", settings=settings, token="/token/9")

    page.evaluate("() => fetch('/kick/9')")

    wait_for(page, "disconnected")
    assert log(page, "disconnected") == [{"code": 3503, "reason": "out"}]


def test_http_is_used_and_stored_where_websockets_do_not_pass(enter: Enter) -> None:
    tried: list[str] = []

    def refuse(socket: WebSocketRoute) -> None:
        tried.append(socket.url)
        socket.close(code=4000)

    page = enter(
        "room:proxy",
        prepare=lambda page: page.route_web_socket(re.compile("websocket"), refuse),
    )
    assert page.evaluate("() => client.transport") == "http_stream"

    page.reload()
    page.evaluate(ENTER, ["room:proxy", {}, {}, ""])
    page.wait_for_function("() => room.state === 'subscribed'")

    assert len(tried) == 1
    assert page.evaluate("() => client.transport") == "http_stream"


def test_a_history_that_ends_with_the_server_is_a_gap(enter: Enter) -> None:
    port = free_port()
    with AsgiProcess("uvicorn", SITE, port=port) as server:
        page = enter("room:memory", address=server.http)
        publish(page, "before")
        wait_for(page, "publication")
    wait_for(page, "connecting")
    page.evaluate("() => { room.publish({text: 'meanwhile'}) }")

    with AsgiProcess("uvicorn", SITE, port=port):
        wait_for(page, "publication", 2)

    assert len(log(page, "gap")) == 1
    assert texts(page) == ["before", "meanwhile"]


def test_no_message_is_lost_when_a_server_is_killed(enter: Enter) -> None:
    port = free_port()
    with Server() as broker:
        env = {"REDIS_URL": broker.url}
        with AsgiProcess("uvicorn", SITE, env=env) as other:
            with AsgiProcess("uvicorn", SITE, env=env, port=port) as server:
                page = enter("room:redis", address=server.http)
                publish(page, "1")
                wait_for(page, "publication")
            wait_for(page, "connecting")
            publish_from_view(other, "room:redis", "2", "3")
            page.evaluate("() => { window.sent = room.publish({text: '4'}) }")

            with AsgiProcess("uvicorn", SITE, env=env, port=port):
                page.evaluate("() => sent")
                wait_for(page, "publication", 4)
                publish(page, "5")
                wait_for(page, "publication", 5)

    assert texts(page) == ["1", "2", "3", "4", "5"]
    assert log(page, "gap") == []


def test_a_silent_connection_is_detected_and_recovered(
    enter: Enter, site: AsgiProcess
) -> None:
    with StallingProxy(site.port) as proxy:
        page = enter("room:stall", address=f"http://127.0.0.1:{proxy.port}")

        proxy.stall()
        publish_from_view(site, "room:stall", "missed")
        wait_for(page, "publication")
        missed, gaps = texts(page), log(page, "gap")
        page.close()

    assert (missed, gaps) == (["missed"], [])


def test_a_listener_that_throws_does_not_stop_the_client(enter: Enter) -> None:
    page = enter("room:throws")
    page.evaluate(
        "() => room.addEventListener('publication', () => { throw new Error('mine') })"
    )

    publish(page, "a", "b")

    wait_for(page, "publication", 2)
    assert log(page, "error") == []
    assert log(page, "connecting") == []
