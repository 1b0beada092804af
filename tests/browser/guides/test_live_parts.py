"""The guide to live parts, typed as printed, in two windows."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from browser.subscriptions import wait_for_subscription

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def test_both_windows_show_orders_of_pages_and_of_the_shell(typed_site, new_context):
    typed_site.start_project("orders")
    typed_site.read("docs/guides/live-parts.md")
    typed_site.type_until("runserver")
    one, two = (new_context().new_page() for _ in range(2))
    for page in (one, two):
        page.goto(typed_site.url())
        script = page.locator("script[src]").get_attribute("src")
        assert script
        wait_for_subscription(page, "orders", module=script)
    two.get_by_label("Order").fill("half a wo")

    one.get_by_label("Order").fill("tea")
    one.get_by_role("button").click()
    expect(two.get_by_role("listitem")).to_have_text(["tea"])
    typed_site.type_until("shell")

    for page in (one, two):
        expect(page.get_by_role("listitem")).to_have_text(["tea", "from the shell"])
        expect(page.locator("p")).to_have_text("2 open")
    assert two.get_by_label("Order").input_value() == "half a wo"
    typed_site.type_rest()
