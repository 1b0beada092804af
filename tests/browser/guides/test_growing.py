"""The guide to messages that grow, typed as printed, in several windows of Chromium."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from browser.guides.chat_windows import log_in
from browser.subscriptions import wait_for_subscription
from support.pages.blocks import blocks_in
from support.pages.typed_site import TypedSite

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

QUESTION = " ".join(f"word{number}" for number in range(25))
ANSWER = f"You have asked: {QUESTION} "
# Twenty seconds of an answer, which a test ends before.
LONG_QUESTION = " ".join(f"word{number}" for number in range(100))


@pytest.fixture
def site(typed_site) -> TypedSite:
    """The guide's site; its layer is a file, which outlasts the server."""
    typed_site.start_project("chat", "search")
    typed_site.add_settings(
        '\nINSTALLED_APPS = ["tiderace", "chat", "search", *INSTALLED_APPS]\n'
        'ASGI_APPLICATION = "mysite.asgi.application"\n'
        'LAYER = "tiderace.layers.database.DatabaseChannelLayer"\n'
        'CHANNEL_LAYERS = {"default": {"BACKEND": LAYER}}\n'
        'LOGIN_URL = "/admin/login/"\n'
    )
    for block in blocks_in("docs/tutorial/1-live-page.md"):
        if block.file == "mysite/asgi.py":
            typed_site.write(block)
    typed_site.read("docs/guides/growing-messages.md")
    typed_site.type_files()
    typed_site.run("python manage.py migrate")
    for user in ("alice", "bob"):
        typed_site.run(
            f"python manage.py createsuperuser --username {user} --email a@example.com"
        )
    typed_site.serve("python manage.py runserver")
    return typed_site


@pytest.fixture
def enter(site, new_context) -> Callable[[str], Page]:
    """Return a function that opens the room in a new window, as a user."""

    def go(user: str) -> Page:
        page = new_context().new_page()
        page.on("pageerror", lambda error: pytest.fail(error.message))
        page.goto(f"{site.url()}/admin/login/?next=/room/1/")
        log_in(page, user)
        expect(page.locator("#log")).to_be_attached()
        wait_for_subscription(page, "room:1")
        return page

    return go


def ask(page: Page, question: str = QUESTION) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")


def text(page: Page) -> str:
    return page.locator("article p").inner_text()


def test_an_answer_outlasts_a_reload_and_is_the_same_in_every_window(enter):
    page, other = enter("alice"), enter("bob")
    ask(page)
    article = page.locator("article")
    expect(article).to_have_attribute("data-state", "growing")
    expect(article.locator("p")).to_contain_text("word3")

    page.reload()
    expect(article.locator("p")).to_contain_text("You have asked: word0 word1 word2")
    late = enter("bob")
    expect(late.locator("article p")).to_contain_text("You have asked: word0 word1")

    for each in (page, other, late):
        expect(each.locator("article")).to_have_attribute("data-state", "finished")
        assert each.locator("article p").evaluate("part => part.textContent") == ANSWER


def test_the_button_stops_the_answer_of_its_user_alone(enter):
    page, other = enter("alice"), enter("bob")
    ask(page, LONG_QUESTION)
    expect(other.locator("article p")).to_contain_text("word1")

    refused = other.evaluate(
        """async () => {
          const { topics } = await import("tiderace");
          const { growing } = await import("tiderace/grow");
          const room = topics().subscribe("room:1");
          const message = await new Promise((found) => growing(room, found));
          return message.cancel().catch((error) => error.code);
        }"""
    )
    assert refused == 103
    page.get_by_role("button", name="Stop").click()

    for each in (page, other):
        expect(each.locator("article")).to_have_attribute("data-state", "cancelled")
        expect(each.get_by_role("button", name="Stop")).to_be_hidden()
    assert text(page) == text(other)
    assert "word99" not in text(page)


def test_an_answer_of_a_killed_server_is_marked_failed(site, enter):
    page = enter("alice")
    ask(page, LONG_QUESTION)
    expect(page.locator("article p")).to_contain_text("word2")

    site.kill()
    shown = text(page)
    site.serve("python manage.py runserver")

    expect(page.locator("article")).to_have_attribute(
        "data-state", "failed", timeout=40_000
    )
    assert text(page).startswith(shown)
    assert "word99" not in text(page)


def test_a_page_reads_a_streamed_call(enter):
    page = enter("alice")

    hits = page.evaluate(
        """async () => {
          const { topics } = await import("tiderace");
          const { stream } = await import("tiderace/stream");
          const hits = [];
          const search = topics().subscribe("search");
          for await (const hit of stream(search, "find", { text: "tea" })) hits.push(hit);
          return hits;
        }"""
    )

    assert hits == ["tea in drafts", "tea in archive"]
