"""The guide to htmx, typed as printed, with htmx 4 and htmx 2."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from browser.subscriptions import wait_for_subscription
from support.clients.npm_packages import serve_packages

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture
def enter(typed_site, new_context) -> Callable[..., Page]:
    """Type the guide; return a function that opens its page with a version of htmx."""
    typed_site.start_project("tasks")
    typed_site.read("docs/guides/htmx.md")
    typed_site.type_rest()

    def go(version: int) -> Page:
        context = new_context()
        serve_packages(context)
        page = context.new_page()
        page.on("pageerror", lambda error: pytest.fail(error.message))
        with page.expect_response("**/connection/events*"):
            page.goto(f"{typed_site.url()}/{version}/")
        wait_for_subscription(page, "tasks")
        assert page.evaluate("htmx.version").startswith(f"{version}.")
        return page

    return go


@pytest.mark.parametrize("version", [4, 2])
def test_a_page_shows_what_another_changes(enter, version):
    page, other = enter(version), enter(version)

    page.get_by_label("Task").fill("tea & <b>milk</b>")
    page.get_by_role("button", name="Add").click()

    for each in (page, other):
        expect(each.locator("#tasks li")).to_contain_text(["tea & <b>milk</b>"])
        expect(each.locator("#log li")).to_have_text(["tea & <b>milk</b> was added"])
        expect(each.locator("#count")).to_have_text("1 open")
    expect(page.get_by_label("Task")).to_have_value("")

    # The button came with the update.
    other.get_by_role("button", name="Done").click()

    for each in (page, other):
        expect(each.locator("#tasks li")).to_have_count(0)
        expect(each.locator("#log li")).to_have_count(2)
        expect(each.locator("#count")).to_have_text("0 open")
