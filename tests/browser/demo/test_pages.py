"""The demo's poll, dashboard and devices in Chromium."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import APIResponse, Locator, Page, Route, expect

from browser.demo.windows import Visitor
from support.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

TOPIC = "ops:metrics"


# The poll


def ask(page: Page, question: str, *options: str) -> None:
    page.get_by_label("Question", exact=True).fill(question)
    page.get_by_label("Options, each on a line").fill("\n".join(options))
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#question-title")).to_have_text(question)


def votes(page: Page) -> Locator:
    """The counts of the options, in their order."""
    return page.locator("#results dd:first-of-type")


def open_poll(visitor: Visitor, path: str) -> Page:
    """Open a page of the poll, and wait for its stream."""
    with visitor.page.expect_response("**/connection/events*"):
        visitor.page.goto(visitor.url + path)
    return visitor.page


def test_votes_without_an_account_are_shown_to_the_presenter(signed_in, stranger):
    presenter = open_poll(signed_in("alice"), "/poll/")
    ask(presenter, "Tea or coffee?", "Tea", "Coffee", "<b>Both</b>")
    voters = [open_poll(stranger(), "/vote/") for _ in range(3)]

    for voter, option in zip(voters, ("Tea", "Tea", "<b>Both</b>"), strict=True):
        voter.get_by_role("button", name=option).click()

    expect(votes(presenter)).to_have_text(["2 67 %", "0 0 %", "1 33 %"])
    for voter in voters:
        expect(votes(voter)).to_have_text(["2 67 %", "0 0 %", "1 33 %"])
    expect(voters[0].get_by_role("button", name="Tea")).to_have_attribute(
        "aria-pressed", "true"
    )
    voters[0].get_by_role("button", name="Coffee").click()
    expect(votes(presenter)).to_have_text(["1 33 %", "1 33 %", "1 33 %"])
    voters[0].reload()
    expect(voters[0].get_by_role("button", name="Coffee")).to_have_attribute(
        "aria-pressed", "true"
    )


def test_a_vote_that_is_counted_while_the_results_are_loaded_is_shown(
    signed_in, stranger
):
    presenter = open_poll(signed_in("alice"), "/poll/")
    ask(presenter, "Twice at once?", "Yes", "No")
    voters = [open_poll(stranger(), "/vote/") for _ in range(2)]
    held: list[tuple[Route, APIResponse]] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append((route, route.fetch()))

    presenter.route("**/poll/results/", hold_the_first)
    presenter.evaluate(
        """() => {
          window.events = 0;
          document.getElementById("live").addEventListener("voted", () => { events++; });
        }"""
    )
    voters[0].get_by_role("button", name="Yes").click()
    # Playwright handles requests during calls only.
    wait_until(lambda: presenter.evaluate("true") and held, what="the request")
    voters[1].get_by_role("button", name="No").click()
    presenter.wait_for_function("() => events === 2")

    [(route, response)] = held
    route.fulfill(response=response)

    expect(votes(presenter)).to_have_text(["1 50 %", "1 50 %"])


def test_the_last_choice_counts_when_the_first_is_still_being_sent(signed_in, stranger):
    ask(open_poll(signed_in("alice"), "/poll/"), "Undecided?", "A", "B", "C")
    voter = open_poll(stranger(), "/vote/")
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    voter.route("**/vote/", hold_the_first)
    for name in ("A", "B", "C"):
        voter.get_by_role("button", name=name, exact=True).click()
    wait_until(lambda: voter.evaluate("true") and held, what="the request")

    held[0].continue_()

    expect(votes(voter)).to_have_text(["0 0 %", "0 0 %", "1 100 %"])


def test_the_next_question_replaces_the_ballot_of_every_voter(signed_in, stranger):
    alice, bob = (open_poll(signed_in(name), "/poll/") for name in ("alice", "bob"))
    ask(alice, "First question", "Yes", "No")
    voter = open_poll(stranger(), "/vote/")
    expect(voter.get_by_role("heading", name="First question")).to_be_visible()

    ask(alice, "Second question", "Left", "Right")

    expect(voter.get_by_role("heading", name="Second question")).to_be_visible()
    expect(bob.locator("#question-title")).to_have_text("Second question")
    voter.get_by_role("button", name="Right").click()
    expect(votes(bob)).to_have_text(["0 0 %", "1 100 %"])


def test_a_closed_vote_takes_no_more_votes(signed_in, stranger):
    presenter = open_poll(signed_in("alice"), "/poll/")
    ask(presenter, "Closing soon", "Yes", "No")
    voter = open_poll(stranger(), "/vote/")

    presenter.get_by_role("button", name="Close the vote").click()

    expect(voter.get_by_role("button", name="Yes")).to_be_disabled()
    expect(voter.locator("#ballot")).to_contain_text("The vote is closed.")
    expect(presenter.get_by_role("button", name="Close the vote")).to_have_count(0)


def test_the_pages_of_the_poll_load_no_script_of_the_demo(stranger):
    voter = stranger()
    loaded = []
    voter.page.on("request", lambda request: loaded.append(request.url))
    open_poll(voter, "/vote/")

    scripts = [url.rpartition("/")[2] for url in loaded if url.endswith(".js")]
    assert sorted(scripts) == ["htmx.min.js", "hx-sse.min.js", "theme.js"]


def test_the_qr_code_is_labelled_with_the_address_of_the_ballot(signed_in, stranger):
    presenter = open_poll(signed_in("alice"), "/poll/")
    voter = stranger()

    code = presenter.get_by_role("img", name="QR code of")
    expect(code.locator("path")).to_be_visible()
    voter.page.goto(presenter.locator(".voters a").inner_text())

    expect(voter.page.get_by_role("heading", name="Vote")).to_be_visible()


# The dashboard


def test_the_dashboard_ticks_and_pauses_while_it_is_hidden(signed_in, demo):
    page = signed_in("alice").page
    page.goto(f"{demo.url}/operations/")
    expect(page.locator("#processes")).to_contain_text("1 process,")
    first = page.locator("#processes").inner_text()
    expect(page.locator("#processes")).not_to_have_text(first)
    connections = page.locator(".chart", has_text="Connections").locator("b")
    expect(connections).to_have_text(re.compile(r"^[1-9]\d*$"))

    with (
        contextlib.closing(demo.visitor().log_in("bob")) as bob,
        bob.topic(TOPIC) as it,
    ):

        def viewers() -> int:
            reply = it.ask(presence_stats={"channel": TOPIC})
            return reply["presence_stats"]["num_clients"]

        wait_until(lambda: viewers() == 2, what="the page's subscription")
        hide(page, hidden=True)
        wait_until(lambda: viewers() == 1, what="the end of the page's subscription")
        paused = page.locator("#processes").inner_text()
        hide(page, hidden=False)

        wait_until(lambda: viewers() == 2, what="the page's new subscription")
        expect(page.locator("#processes")).not_to_have_text(paused)


def hide(page: Page, *, hidden: bool) -> None:
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_the_charts_are_drawn_in_the_colours_of_the_theme(signed_in):
    alice = signed_in("alice", color_scheme="light")
    # The test reads pixels, and the page does not.
    alice.forgiven.append("willReadFrequently")
    page = alice.page
    page.goto(f"{alice.url}/operations/")
    expect(page.locator("canvas")).to_have_count(6)
    expect(page.locator("#processes")).to_contain_text("1 process,")
    # The darkest pixel left of the lines: that of a label of the axis.
    darkest = """() => {
      const canvas = document.querySelector("canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, 50, canvas.height);
      let darkest = 255;
      for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] > 200) darkest = Math.min(darkest, data[at]);
      }
      return darkest;
    }"""
    page.wait_for_function(f"() => ({darkest})() < 255")
    light = page.evaluate(darkest)

    page.locator("#theme").click()
    page.locator("#theme").click()

    page.wait_for_function(f"(light) => ({darkest})() > light", arg=light)


# The devices


@pytest.fixture(scope="module")
def fleet(demo) -> Iterator[None]:
    """The simulated devices, in a process of their own."""
    with demo.running("simulate", "--url", demo.url):
        yield


@pytest.mark.usefixtures("fleet")
def test_all_devices_report_and_their_values_change_on_the_page(signed_in, demo):
    page = signed_in("alice").page
    page.goto(f"{demo.url}/devices/")

    expect(page.locator("#reporting")).to_have_text("200", timeout=60_000)
    expect(page.locator("#sea circle.silent")).to_have_count(0)
    first = page.locator("#rows tr").first
    cell = first.locator("td").first
    before = cell.inner_text()
    assert re.fullmatch(r"\d+\.\d\d m", before)
    expect(cell).not_to_have_text(before)


@pytest.mark.usefixtures("fleet")
def test_alarms_are_shown_in_the_list_the_table_and_the_map(signed_in, demo):
    page = signed_in("alice").page
    page.goto(f"{demo.url}/devices/")

    alarm = page.locator("#alarms li").first
    # The storm and empty batteries cause some in every minute.
    expect(alarm).to_contain_text(re.compile("Buoy"), timeout=60_000)
    expect(page.locator("#sea circle.high")).not_to_have_count(0)
    expect(page.locator("#alarm-count")).to_have_text(re.compile("[1-9]"))
    page.reload()
    expect(page.locator("#alarm-count")).to_have_text(re.compile("[1-9]"))
