"""The demo's answers in Chromium."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.demo.windows import CLIENT, Visitor
from browser.subscriptions import wait_for_subscription

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def open_answers(visitor: Visitor) -> Page:
    visitor.page.goto(f"{visitor.url}/answers/")
    wait_for_subscription(visitor.page, "answers", module=CLIENT)
    return visitor.page


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask").click()


def answer(page: Page, question: str) -> Locator:
    heading = page.get_by_role("heading", name=question)
    return page.get_by_role("article").filter(has=heading)


def test_an_answer_survives_a_reload_and_is_the_same_for_others(signed_in):
    alice, bob = open_answers(signed_in("alice")), open_answers(signed_in("bob"))

    ask(alice, "What survives?")
    for page in (alice, bob):
        expect(answer(page, "What survives?").locator(".text")).to_contain_text("POST")
    alice.reload()

    text = answer(alice, "What survives?").locator(".text")
    expect(text).to_contain_text("This text is not by a language model")
    for page in (alice, bob):
        said = answer(page, "What survives?").locator(".state")
        expect(said).to_have_text("alice: finished", timeout=30_000)
    ends = [
        answer(page, "What survives?").locator(".text").text_content()
        for page in (alice, bob)
    ]
    assert ends[0] == ends[1]
    assert str(ends[0]).endswith("🌊\n")


def test_only_the_person_who_has_asked_can_stop_an_answer(signed_in):
    alice, bob = open_answers(signed_in("alice")), open_answers(signed_in("bob"))
    ask(alice, "Who may stop it?")
    expect(answer(bob, "Who may stop it?").locator(".text")).to_contain_text("text")
    expect(answer(bob, "Who may stop it?").get_by_role("button")).to_be_hidden()

    answer(alice, "Who may stop it?").get_by_role("button", name="Stop").click()

    for page in (alice, bob):
        said = answer(page, "Who may stop it?").locator(".state")
        expect(said).to_have_text("alice: stopped")


def test_a_new_page_shows_the_answers_that_have_ended(signed_in):
    alice = open_answers(signed_in("alice"))
    ask(alice, "Is it kept?")
    answer(alice, "Is it kept?").get_by_role("button", name="Stop").click()
    expect(answer(alice, "Is it kept?").locator(".state")).to_have_text(
        "alice: stopped"
    )

    bob = open_answers(signed_in("bob"))

    expect(answer(bob, "Is it kept?").locator(".state")).to_have_text("alice: stopped")
