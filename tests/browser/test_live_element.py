"""The element of ``{% live %}`` in Chromium, on pages with a strict policy."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from support.servers.asgi_process import AsgiProcess
from support.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


RECORD_UPDATES = """
window.updates = [];
window.times = [];
document.addEventListener("tiderace:updated", ({ target, timeStamp }) => {
  updates.push(target.id);
  times.push(timeStamp);
});
"""


class Site:
    """The site, and what a test tells it."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **query: object) -> str:
        url = f"{self.address}{path}?{urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.read().decode()

    def show(self, **parts: str) -> None:
        """Set the HTML of parts, and publish to their topics."""
        self.get("/set", **parts)

    @property
    def requests(self) -> int:
        """How often the page was requested for its parts."""
        return int(json.loads(self.get("/count")))


@pytest.fixture(scope="module")
def server() -> Iterator[AsgiProcess]:
    with AsgiProcess("uvicorn", "browser.live_element_site:application") as process:
        yield process


@pytest.fixture
def site(server: AsgiProcess) -> Iterator[Site]:
    site = Site(server.http)
    site.show(board="<p id='first'>first</p>", slow="")
    yield site
    site.get("/status", code=200)


@pytest.fixture
def enter(
    site: Site, new_context: Callable[..., BrowserContext]
) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the page and waits until it has settled."""
    complaints: list[str] = []

    def go(path: str = "/", **cookies: str) -> Page:
        context = new_context()
        context.add_cookies(
            [{"name": n, "value": v, "url": site.address} for n, v in cookies.items()]
        )
        context.add_init_script(RECORD_UPDATES)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(error.message))
        page.goto(site.address + path)
        # The part with a topic that has no history is requested once.
        wait_until(lambda: page.evaluate("updates[0] === 'both'"), what="the update")
        settle(page)
        return page

    go.complaints = complaints  # type: ignore[attr-defined]
    yield go
    assert not complaints


def settle(page: Page) -> None:
    """Wait until what was published is shown: the page gets a message of its own."""
    page.evaluate(
        """async () => {
            const { topics } = await import(document.querySelector("script[src]").src);
            const room = topics().subscribe("slow");
            if (room.state !== "subscribed") {
                await new Promise((done) => room.addEventListener("subscribed", done));
            }
            await room.history({ limit: 0 });
        }"""
    )


def board(page: Page) -> Any:
    return page.locator("#live-board")


def test_a_publication_renders_a_part_of_the_page_again(site, enter):
    page = enter()

    site.show(board="<p>second</p>")

    expect(board(page)).to_have_text("second")


def test_published_data_is_not_put_into_the_page(site, enter):
    page = enter()

    site.show(board="<p>second</p>")

    expect(board(page)).to_have_text("second")
    assert page.locator("#published").count() == 0


@pytest.mark.parametrize("path", ["/", "/?loose"], ids=["strict", "without-policy"])
def test_scripts_in_the_new_part_do_not_run(site, enter, path):
    page = enter(path)
    data = "<script type='application/json' id='data'>[1]</script>"

    site.show(board=f"<script>window.ran = 1</script>{data}<p>second</p>")

    expect(board(page).locator("p")).to_have_text("second")
    assert page.evaluate("window.ran") is None
    assert page.locator("#data").text_content() == "[1]"


def test_every_visitor_gets_the_part_that_the_view_renders_for_them(site, enter):
    ada, bob = enter(visitor="ada"), enter(visitor="bob")

    site.show(board="<p>second</p>")

    for page, name in ((ada, "ada"), (bob, "bob")):
        expect(board(page)).to_have_text("second")
        expect(page.locator("#both")).to_have_text(name)


def test_the_part_is_that_of_the_address_with_its_query(site, enter):
    page = enter("/?page=2")

    assert board(page).get_attribute("src") == "/?page=2"


def test_parts_of_one_address_share_a_request(site, enter):
    page = enter()
    before = site.requests

    site.show(board="<p>second</p>")

    expect(board(page)).to_have_text("second")
    assert site.requests == before + 1


def test_publications_during_a_request_cause_one_more(site, enter):
    page = enter()
    before = site.requests
    site.get("/hold")
    site.show(board="<p>1</p>")
    wait_until(lambda: site.requests == before + 1, what="the request")
    for number in range(2, 10):
        site.show(board=f"<p>{number}</p>")
    settle(page)
    site.get("/hold")

    expect(board(page)).to_have_text("9")
    wait_until(lambda: site.requests == before + 2, what="the second request")
    site.show(board="<p>end</p>")
    expect(board(page)).to_have_text("end")
    assert site.requests == before + 3


def test_requests_are_at_least_the_interval_apart(site, enter):
    page = enter()
    part = page.locator("#live-slow")
    site.show(slow="<p>1</p>")
    expect(part).to_have_text("1")

    site.show(slow="<p>2</p>")

    expect(part).to_have_text("2")
    assert page.evaluate("updates.slice(-2)") == ["live-slow", "live-slow"]
    # A timer may be early by a millisecond.
    assert page.evaluate("times.at(-1) - times.at(-2)") > 995


def test_typed_text_focus_and_caret_stay(site, enter):
    page = enter()
    form = "<form><input id='say'></form>"
    site.show(board=f"<p>1</p>{form}")
    expect(board(page).locator("p")).to_have_text("1")
    page.locator("#say").press_sequentially("half a wo")
    page.locator("#say").press("ArrowLeft")

    site.show(board=f"<h2>new</h2><p>2</p><p>3</p>{form}")

    expect(board(page).locator("h2")).to_have_text("new")
    field = "document.querySelector('#say')"
    assert page.evaluate(f"{field} === document.activeElement")
    assert page.evaluate(f"[{field}.value, {field}.selectionStart]") == ["half a wo", 8]


@pytest.mark.parametrize("move", ["moveBefore", "insertBefore"])
def test_focus_stays_in_a_row_that_moves(site, enter, move):
    page = enter()
    if move == "insertBefore":
        page.evaluate("delete Element.prototype.moveBefore")
    rows = [f"<li id='r{each}'><input></li>" for each in range(4)]
    site.show(board=f"<ul>{''.join(rows)}</ul>")
    page.locator("#r3 input").fill("mine")

    site.show(board=f"<ul>{''.join([rows[3], rows[1], rows[0]])}</ul>")

    expect(page.locator("#r2")).to_have_count(0)
    ids = "[...document.querySelectorAll('#live-board li')].map((row) => row.id)"
    assert page.evaluate(ids) == ["r3", "r1", "r0"]
    assert page.evaluate("document.activeElement.value") == "mine"


def test_rows_with_ids_stay_the_same_elements(site, enter):
    page = enter()
    rows = [f" <li id='r{each}'>{each}</li> " for each in range(4)]
    site.show(board=f"<ul>{''.join(rows)}</ul>")
    expect(page.locator("#r3")).to_have_text("3")
    page.evaluate("window.row = document.querySelector('#r2')")

    site.show(board=f"<ul><li id='top'>top</li>{rows[2]}</ul>")

    expect(page.locator("#top")).to_have_text("top")
    expect(page.locator("#live-board li")).to_have_text(["top", "2"])
    assert page.evaluate("row === document.querySelector('#r2')")


def test_scroll_positions_and_what_was_opened_stay(site, enter):
    page = enter()
    lines = "<p>line</p>" * 50
    html = (
        "<details><summary>more</summary>text</details>"
        "<div id='box' class='{0}'><h2>{0}</h2>" + lines + "</div>"
    )
    site.show(board=html.format("one"))
    box = page.locator("#box")
    expect(box).to_have_class("one")
    page.locator("summary").click()
    box.evaluate("(box) => { box.style.height = '50px'; box.style.overflow = 'auto'; }")
    box.evaluate("(box) => { box.dataset.liveKeep = ''; box.scrollTop = 120; }")

    site.show(board=html.format("two") + "<p id='end'>end</p>")

    expect(page.locator("#end")).to_have_text("end")
    assert page.locator("details").evaluate("(details) => details.open")
    assert box.evaluate("(box) => box.scrollTop") == 120


def test_an_element_that_is_kept_is_not_changed(site, enter):
    page = enter()
    site.show(board="<div id='map' data-live-keep>1</div>")
    expect(page.locator("#map")).to_have_text("1")
    page.evaluate("document.querySelector('#map').textContent = 'drawn'")

    site.show(board="<div id='map' data-live-keep>2</div><p>second</p>")

    expect(board(page).locator("p")).to_have_text("second")
    expect(page.locator("#map")).to_have_text("drawn")


def test_attributes_follow_the_new_part(site, enter):
    page = enter()
    site.show(board="<button id='go' class='old' disabled>go</button>")
    expect(page.locator("#go")).to_have_class("old")

    site.show(board="<button id='go' @click='x' title='new'>go</button>")

    expect(page.locator("#go")).to_have_attribute("title", "new")
    assert page.locator("#go").evaluate("(go) => go.getAttributeNames()") == [
        "id",
        "@click",
        "title",
    ]


def test_a_hidden_page_requests_nothing_until_it_is_shown(site, enter):
    page = enter()
    before = site.requests
    hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    for number in range(5):
        site.show(board=f"<p>{number}</p>")
    settle(page)
    assert site.requests == before

    page.evaluate(hide, False)

    expect(board(page)).to_have_text("4")
    assert site.requests == before + 1


TOPICS = "(await import(document.querySelector('script[src]').src)).topics()"


@pytest.mark.parametrize("missed", [1, 5], ids=["recovered", "too-many"])
def test_a_page_that_was_away_is_current_when_it_comes_back(site, enter, missed):
    page = enter()
    page.evaluate(f"async () => {TOPICS}.disconnect()")
    for number in range(missed):
        site.show(board=f"<p>{number}</p>")

    page.evaluate(f"async () => {TOPICS}.connect()")

    expect(board(page)).to_have_text(str(missed - 1))


def test_a_publication_between_rendering_and_subscription_is_not_missed(site, enter):
    def publish_first(route: Route) -> None:
        site.show(board="<p>second</p>")
        route.continue_()

    page = enter()
    page.route("**/tiderace.js", publish_first)
    page.reload()

    expect(board(page)).to_have_text("second")


def test_an_unchanged_page_is_not_requested_when_it_subscribes(site, enter):
    page = enter()
    page.evaluate("document.querySelector('#both').remove()")
    settle(page)
    before = site.requests
    page.evaluate(
        """() => {
            const part = document.querySelector("#live-slow");
            part.replaceWith(part.cloneNode(true));
        }"""
    )
    settle(page)

    assert site.requests == before


def test_a_part_that_is_inserted_late_is_made_current(site, enter):
    page = enter()
    page.evaluate("window.part = document.querySelector('#live-board')")
    page.evaluate("part.remove()")
    site.show(board="<p>second</p>")
    settle(page)

    page.evaluate("document.body.append(part)")

    expect(board(page)).to_have_text("second")


def test_the_page_stays_as_it_was_when_the_view_redirects_to_the_login(site, enter):
    page = enter()
    site.get("/status", code=302)
    with page.expect_console_message() as warning:
        site.show(board="<p>second</p>")

    assert "/ has no tiderace-live#live-board" in warning.value.text
    expect(board(page)).to_have_text("first")
    # Playwright dispatches events during calls only.
    wait_until(
        lambda: page.evaluate("true") and len(enter.complaints) == 2,
        what="two parts complaining",
    )
    settle(page)
    enter.complaints.clear()


def test_a_failed_request_is_repeated(site, enter):
    page = enter()
    site.get("/status", code=503)
    with page.expect_console_message(lambda m: "HTTP 503" in m.text):
        site.show(board="<p>second</p>")

    site.get("/status", code=200)

    expect(board(page)).to_have_text("second")
    enter.complaints.clear()


def test_a_part_does_not_request_another_site(site, enter):
    page = enter()
    elsewhere = site.address.replace("127.0.0.1", "localhost")
    page.evaluate(
        "(src) => document.querySelector('#live-board').setAttribute('src', src)",
        f"{elsewhere}/",
    )
    with page.expect_console_message() as warning:
        site.show(board="<p>second</p>")

    assert f"{elsewhere}/ is of another site" in warning.value.text
    expect(board(page)).to_have_text("first")
    settle(page)
    enter.complaints.clear()


def test_an_event_says_that_a_part_has_changed(site, enter):
    page = enter()

    site.show(slow="<p>second</p>")

    expect(page.locator("#live-slow")).to_have_text("second")
    assert page.evaluate("updates") == ["both", "live-slow"]
