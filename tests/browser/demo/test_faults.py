"""The demo's page "Break it" in Chromium: two processes over Redis, every button."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from support.servers.brokers import Server
from support.servers.demo_process import DemoProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

PATIENCE = 30_000  # milliseconds


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Iterator[DemoProcess]:
    folder = tmp_path_factory.mktemp("demo")
    with Server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", server.url)
        with DemoProcess(folder, "--layer", "redis", "--workers", "2") as process:
            yield process
            assert "Traceback" not in process.output()


@pytest.fixture
def open_page(demo, new_context) -> Callable[[str, str], Page]:
    """Return a function that opens a page as a user."""

    def open_as(name: str, path: str) -> Page:
        context = new_context()
        with contextlib.closing(demo.visitor()) as visitor:
            visitor.log_in(name)
            context.add_cookies(
                [
                    {"name": key, "value": value, "url": demo.url}
                    for key, value in visitor.http.cookies.items()
                ]
            )
        page: Page = context.new_page()
        page.goto(demo.url + path)
        expect(page.locator("#badge")).to_have_text("Connected", timeout=PATIENCE)
        return page

    return open_as


@pytest.fixture
def page(open_page) -> Page:
    """The page, which sends and receives."""
    page: Page = open_page("alice", "/break-it/")
    wait_for(page, "received", 5)
    return page


def count(page: Page, name: str) -> int:
    shown = page.locator(f'[data-count="{name}"]').inner_text()
    return int(re.sub(r"\D", "", shown))


def wait_for(page: Page, name: str, at_least: int) -> None:
    page.wait_for_function(
        "([name, least]) => Number(document.querySelector(`[data-count=${name}]`)"
        ".textContent.replace(/\\D/g, '')) >= least",
        arg=[name, at_least],
        timeout=PATIENCE,
    )


def expect_no_losses(page: Page) -> None:
    # A message may be acknowledged before it is received; a lost one stays missing.
    expect(page.locator('[data-count="missing"]')).to_have_text("0")
    assert [count(page, name) for name in ("doubled", "disordered")] == [0, 0]


@pytest.mark.parametrize(
    ("button", "event"),
    [
        ("Drop my socket", "Back, and recovered"),
        ("Stall the server", "Stall the server"),
        ("Cut the broker", "Cut the broker"),
        ("Kill my worker", "Back, and recovered"),
        ("Roll all workers", "Back, and recovered"),
    ],
)
def test_nothing_is_lost_doubled_or_out_of_order(page, button, event):
    page.get_by_role("button", name=button).click()

    expect(page.locator("#happened")).to_contain_text(event, timeout=PATIENCE)
    before = count(page, "sent")
    wait_for(page, "sent", before + 20)
    wait_for(page, "received", before + 20)
    expect_no_losses(page)


def test_a_flood_arrives_whole_although_the_socket_is_dropped(page):
    page.get_by_role("button", name="Flood").click()
    page.get_by_role("button", name="Drop my socket").click()

    wait_for(page, "received", 10_000)
    expect(page.locator("#happened")).to_contain_text("Back, and recovered")
    expect_no_losses(page)


def test_a_chat_goes_on_in_order_through_a_rolling_restart(page, open_page):
    rooms = [open_page(name, "/chat/rolling/") for name in ("bob", "carol")]
    said = [f"line {number}" for number in range(30)]

    page.get_by_role("button", name="Roll all workers").click()
    for text in said:
        rooms[0].locator("#text").fill(text)
        rooms[0].locator("#text").press("Enter")

    for room in rooms:
        shown = room.locator(".message:not(.waiting) .text")
        expect(shown).to_have_text(said, timeout=PATIENCE)
