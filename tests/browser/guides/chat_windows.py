"""The tutorial's project, and windows of Chromium that show its chat."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import BrowserContext, Locator, Page

from browser.subscriptions import wait_for_subscription
from support.pages.typed_site import PASSWORD, TypedSite

__all__ = [
    "lines",
    "log_in",
    "say",
    "type_parts_before",
    "wait_for_room",
    "windows",
]

PARTS = (
    "docs/tutorial/1-live-page.md",
    "docs/tutorial/2-chat.md",
    "docs/tutorial/3-history.md",
    "docs/tutorial/4-members.md",
    "docs/tutorial/5-tests.md",
    "docs/tutorial/6-deployment.md",
)


def type_parts_before(site: TypedSite, part: int) -> None:
    """Type the parts before ``part`` (from 1), but do not start their servers."""
    for page in PARTS[: part - 1]:
        site.read(page)
        site.type_preparations()
    site.read(PARTS[part - 1])


def windows(
    new_context: Callable[..., BrowserContext], url: str, number: int
) -> list[Page]:
    """Open ``number`` windows of one browser, with the same cookies, at ``url``."""
    context = new_context()
    pages = [context.new_page() for _ in range(number)]
    for page in pages:
        page.goto(url)
    return pages


def wait_for_room(page: Page) -> None:
    """Wait until the page of a room is shown, and has subscribed to its topic."""
    # Unlike other pages it names the topic: that of a log-in may be shown until now.
    topic = page.locator("body[data-topic]").get_attribute("data-topic")
    assert topic
    wait_for_subscription(page, topic)


def say(page: Page, text: str) -> None:
    """Write a message in a window."""
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def log_in(page: Page, name: str) -> None:
    """Fill in the admin's log-in."""
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()


def lines(page: Page) -> Locator:
    """Return the messages that a window shows."""
    return page.locator("#log li")
