"""The built client in Chromium, on topics of a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from asgi_process import AsgiProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

# Opens `window.client` and `window.room`, with a record of all that happens in `log`.
ENTER = """
async ([topic, options, settings]) => {
  const { Client } = await import("/static/tiderace/tiderace.js");
  const client = (window.client = new Client("/connection/", {
    minDelay: 0.05, maxDelay: 0.2, ...settings
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


@pytest.fixture(scope="module")
def site() -> Iterator[AsgiProcess]:
    with AsgiProcess("uvicorn", "browser.topics_site:application") as server:
        yield server


@pytest.fixture
def enter(site: AsgiProcess, new_context: Callable[..., Any]) -> Callable[..., Page]:
    """Open a page whose client is subscribed to a topic."""

    def go(topic: str, *, settings: object = None, **options: object) -> Page:
        page: Page = new_context().new_page()
        page.goto(f"{site.http}/")
        page.evaluate(ENTER, [topic, options, settings or {}])
        page.wait_for_function("() => room.state === 'subscribed'")
        return page

    return go


def log(page: Page, kind: str) -> list[Any]:
    entries: list[list[Any]] = page.evaluate("() => log")
    return [entry[1] for entry in entries if entry[0] == kind]


def wait_for(page: Page, kind: str, count: int = 1) -> list[Any]:
    page.wait_for_function(
        "([kind, count]) => log.filter(([k]) => k === kind).length >= count",
        arg=[kind, count],
    )
    return log(page, kind)


def texts(page: Page) -> list[str]:
    return [each["data"]["text"] for each in log(page, "publication")]


def publish(page: Page, *messages: str) -> None:
    page.evaluate(
        "messages => Promise.all(messages.map((text) => room.publish({text})))",
        messages,
    )


def test_what_one_page_publishes_two_pages_receive(enter: Callable[..., Page]) -> None:
    ada, bob = enter("room:pair"), enter("room:pair")

    publish(ada, "grüße", "again")

    for page in (ada, bob):
        wait_for(page, "publication", 2)
        assert texts(page) == ["grüße", "again"]


def test_who_is_in_a_topic_is_known_in_every_page(enter: Callable[..., Page]) -> None:
    ada = enter("room:people", presence=True)
    ada.wait_for_function("() => room.presence.size === 1")

    bob = enter("room:people", presence=True)

    for page in (ada, bob):
        page.wait_for_function("() => room.presence.size === 2")
    bob.close()
    ada.wait_for_function("() => room.presence.size === 1")
    assert len(log(ada, "left")) == 1


def test_what_was_missed_in_the_page_cache_comes_on_return(
    enter: Callable[..., Page],
) -> None:
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


def test_methods_of_a_topic_and_of_the_endpoint_are_called(
    enter: Callable[..., Page],
) -> None:
    page = enter("room:calls")

    assert page.evaluate("() => room.call('shout', {text: 'tea'})") == "TEA!"
    assert page.evaluate("() => client.call('add', {a: 2, b: 3})") == 5


def test_a_refused_call_says_the_code_of_the_application(
    enter: Callable[..., Page],
) -> None:
    page = enter("room:calls")

    error = page.evaluate(
        "() => room.call('shout', {text: ''}).catch((e) => [e.name, e.code, e.temporary])"
    )

    assert error == ["TopicError", 422, False]
