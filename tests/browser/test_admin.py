"""The page of Django's admin in a real Chromium: both themes, a phone and a desk.

It is the demo's, whose policy allows nothing inline; whatever the page's console
complains about fails the test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, expect
from websockets.exceptions import ConnectionClosed

from support.servers.demo_process import DemoProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

EVIL = "<img src=x>"
VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`refused by the policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
PACE = 5_000  # milliseconds
HIDE = """
Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
document.dispatchEvent(new Event("visibilitychange"));
"""
SHOW = """
delete document.hidden;
document.dispatchEvent(new Event("visibilitychange"));
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Iterator[DemoProcess]:
    with DemoProcess(tmp_path_factory.mktemp("demo")) as process:
        yield process


@pytest.fixture
def complaints() -> list[str]:
    """The warnings and errors on the consoles of the test's pages."""
    return []


@pytest.fixture
def look(demo, new_context, complaints):
    """Log harbour in on a screen of this kind; the page of connections."""

    def complain(said: ConsoleMessage) -> None:
        # Django's admin brings no icon for the tab.
        if said.type == "error" and "favicon" not in said.location["url"]:
            complaints.append(said.text)

    def open_page(*, clock: bool = False, **screen) -> Page:
        page = new_context(**screen).new_page()
        if clock:
            # It stands still: else a page that waits for a slow machine is refreshed.
            page.clock.install(time=0)
            page.clock.pause_at(1)
        page.add_init_script(VIOLATIONS)
        page.goto(f"{demo.url}/admin/tiderace/connections/")
        page.on("console", complain)
        page.get_by_label("Username").fill("harbour")
        page.get_by_label("Password").fill("harbour-tide")
        page.get_by_role("button", name="Log in").click()
        expect(
            page.get_by_role("heading", name="Connections", exact=True, level=2)
        ).to_be_visible()
        page.wait_for_load_state("load")  # with the style sheets
        return page

    return open_page


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_screen_and_keeps_the_policy(
    demo, look, complaints, theme, width
):
    alice = demo.visitor().log_in("alice")
    with alice.room("general"):
        page = look(color_scheme=theme, viewport={"width": width, "height": 900})

        expect(page.get_by_role("link", name="alice (1)")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(255, 255, 255)") == (theme == "light")
    alice.close()
    assert not complaints


def test_a_user_is_disconnected_after_a_second_look(demo, look, complaints):
    alice = demo.visitor().log_in("alice")
    with alice.room("general") as window:
        page = look()
        page.get_by_role("row").filter(has_text="alice (1)").get_by_role(
            "link", name="Disconnect"
        ).click()
        page.get_by_label("Reason").fill(EVIL)
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_text("Close all connections of this user?")).to_be_visible()
        expect(page.get_by_text(EVIL, exact=True)).to_be_visible()
        page.get_by_role("button", name="Yes").click()

        expect(
            page.get_by_text("1 connection of user 1 is being ended.")
        ).to_be_visible()
        with contextlib.suppress(ConnectionClosed):
            for _ in window.connection:
                pass  # what was said before
        assert (window.connection.close_code, window.connection.close_reason) == (
            3503,
            EVIL,
        )
    alice.close()
    expect(page.get_by_text(f"Disconnected. Reason: {EVIL}")).to_be_visible()
    assert not complaints


def test_the_page_refreshes_itself(demo, look, complaints):
    with contextlib.closing(demo.visitor().log_in("alice")) as alice:
        page = look(clock=True)
        page.get_by_placeholder("name").fill("half typed")
        page.get_by_placeholder("name").blur()
        with alice.room("general"):
            page.clock.run_for(PACE)

            expect(page.get_by_role("link", name="alice (1)")).to_be_visible()
            expect(page.get_by_placeholder("name")).to_have_value("half typed")
    assert not complaints


def requests_for_the_part(page: Page) -> list[str]:
    """Return a list that gets the address of each request of the script."""
    seen: list[str] = []

    def note(request: Request) -> None:
        if "tiderace-live" in request.headers:
            seen.append(request.url)

    page.on("request", note)
    return seen


def test_the_page_is_not_refreshed_while_it_is_hidden(look):
    page = look(clock=True)
    seen = requests_for_the_part(page)
    page.evaluate(HIDE)

    page.clock.run_for(10 * PACE)
    assert seen == []

    with page.expect_response(lambda response: "tiderace" in response.url):
        page.evaluate(SHOW)
        page.clock.run_for(1)
    assert len(seen) == 1


def test_the_refreshing_can_be_switched_off_for_good(look):
    page = look(clock=True)
    page.get_by_label("Refresh every 5 seconds").uncheck()
    page.reload()
    seen = requests_for_the_part(page)
    box = page.get_by_label("Refresh every 5 seconds")
    expect(box).not_to_be_checked()

    page.clock.run_for(10 * PACE)
    assert seen == []

    with page.expect_response(lambda response: "tiderace" in response.url):
        box.check()
        page.clock.run_for(1)


def test_a_link_with_the_focus_is_not_moved_away(look):
    page = look(clock=True)
    seen = requests_for_the_part(page)
    button = page.get_by_role("button", name="Filter")
    button.focus()

    page.clock.run_for(10 * PACE)
    assert seen == []

    with page.expect_response(lambda response: "tiderace" in response.url):
        button.blur()
        page.clock.run_for(PACE)


def test_the_page_says_that_the_session_has_ended(look):
    page = look(clock=True)
    page.context.clear_cookies()

    page.clock.run_for(PACE)

    expect(page.get_by_role("status")).to_have_text(
        "Not refreshed: the log-in or the permission has ended. Load the page again."
    )
    expect(page.get_by_label("Refresh every 5 seconds")).not_to_be_checked()


def test_a_server_that_is_away_is_asked_again(look):
    page = look(clock=True)
    page.route("**/connections/", lambda route: route.abort())
    page.clock.run_for(PACE)
    expect(page.get_by_role("status")).to_contain_text("It is tried again.")
    page.unroute("**/connections/")

    page.clock.run_for(2 * PACE)

    expect(page.get_by_role("status")).to_be_empty()


def test_the_page_works_without_javascript(look):
    page = look(java_script_enabled=False)

    expect(page.get_by_text("Refresh every 5 seconds")).to_be_hidden()
    expect(page.get_by_role("heading", name="Processes", level=2)).to_be_visible()
