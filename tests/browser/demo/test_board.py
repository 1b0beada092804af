"""The demo's board in Chromium: two people, one of them with the keyboard alone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.demo.windows import CLIENT, Visitor, badge
from browser.subscriptions import wait_for_subscription

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def board(visitor: Visitor) -> Page:
    """Open the board and wait for its topics."""
    visitor.page.goto(f"{visitor.url}/board/")
    expect(visitor.page.locator("#here li")).not_to_have_count(0)
    # What is whispered before is not sent again.
    wait_for_subscription(visitor.page, "pointers:main", module=CLIENT)
    return visitor.page


def note(page: Page, text: str) -> Locator:
    return page.locator(".note:not(.waiting)", has_text=text)


def column(page: Page, name: str) -> Locator:
    return page.locator(f'[data-column="{name}"]')


def hang_up(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.get_by_role("button", name="Hang it up").click()


def press(target: Locator, name: str) -> None:
    target.get_by_role("button", name=name, exact=True).click()


def test_a_note_is_added_moved_and_removed_in_every_window(signed_in):
    alice, bob = board(signed_in("alice")), board(signed_in("bob"))

    hang_up(alice, "Bring <b>tea</b>")
    expect(note(bob, "Bring <b>tea</b>").locator(".by")).to_have_text("alice")
    press(note(bob, "tea"), "Move on")
    expect(column(alice, "doing")).to_contain_text("tea")
    press(note(alice, "tea"), "Remove")

    expect(note(bob, "tea")).to_have_count(0)


def test_a_note_is_dragged_to_a_place_between_others(signed_in):
    alice, bob = board(signed_in("alice")), board(signed_in("bob"))
    for text in ("first of three", "second of three", "third of three"):
        hang_up(alice, text)
        press(note(alice, text), "Move on")
        expect(column(bob, "doing")).to_contain_text(text)
    hang_up(alice, "between them")
    expect(note(bob, "between them")).to_be_visible()

    note(alice, "between them").locator(".text").drag_to(
        note(alice, "second of three"), target_position={"x": 90, "y": 8}
    )

    for page in (bob, alice):
        texts = column(page, "doing").locator(
            ".text", has_text=re.compile("of three|them")
        )
        expect(texts).to_have_text(
            ["first of three", "between them", "second of three", "third of three"]
        )
    alice.reload()
    expect(texts).to_have_count(4)


def test_a_note_that_one_person_edits_is_locked_for_the_others(signed_in):
    alice, bob = board(signed_in("alice")), board(signed_in("bob"))
    hang_up(alice, "Half a thought")
    expect(note(bob, "Half a thought")).to_be_visible()

    press(note(alice, "Half a thought"), "Edit")
    locked = note(bob, "Half a thought")
    expect(locked.locator(".lock")).to_have_text("alice is editing")
    expect(locked.get_by_role("button", name="Edit")).to_be_disabled()
    # The lock is published before the editor's page has its answer.
    expect(note(alice, "Half a thought").get_by_role("textbox")).to_be_focused()
    alice.keyboard.press("ControlOrMeta+A")
    alice.keyboard.type("A whole one")
    alice.keyboard.press("Enter")

    changed = note(bob, "A whole one")
    expect(changed.get_by_role("button", name="Edit")).to_be_enabled()
    expect(changed.locator(".lock")).to_be_hidden()
    expect(
        note(alice, "A whole one").get_by_role("button", name="Edit")
    ).to_be_focused()


def test_the_lock_of_a_closed_tab_ends(signed_in):
    alice, bob = signed_in("Ida"), board(signed_in("bob"))
    hang_up(board(alice), "Left alone")
    press(note(alice.page, "Left alone"), "Edit")
    expect(note(bob, "Left alone").locator(".lock")).to_have_text("Ida is editing")

    alice.page.close()

    expect(note(bob, "Left alone").locator(".lock")).to_be_hidden(timeout=30_000)


def test_of_two_moves_at_once_the_last_one_is_shown_on_every_page(signed_in):
    alice, bob = board(signed_in("alice")), board(signed_in("bob"))
    hang_up(alice, "Tug of war")
    expect(note(bob, "Tug of war")).to_be_visible()
    to = """(name) => {
      const find = () => [...document.querySelectorAll(".note")].find((note) =>
        note.textContent.includes("Tug of war"));
      for (let turn = 0; turn < 10; turn++) find().querySelector(`[data-do=${name}]`).click();
    }"""

    alice.evaluate(to, "on")
    bob.evaluate(to, "back")
    for page in (alice, bob):
        hang_up(page, "end of the war")
    expect(note(alice, "end of the war")).to_have_count(2)
    expect(note(bob, "end of the war")).to_have_count(2)

    places = (
        "() => [...document.querySelectorAll('.note')].map((note) => note.dataset.id)"
    )
    assert alice.evaluate(places) == bob.evaluate(places)


def test_pointers_of_others_are_shown_over_the_same_note(signed_in):
    alice = board(signed_in("alice", viewport={"width": 1200, "height": 900}))
    bob = board(signed_in("bob", viewport={"width": 500, "height": 900}))
    hang_up(alice, "Look here")
    expect(note(bob, "Look here")).to_be_visible()

    note(alice, "Look here").hover(position={"x": 10, "y": 10})

    pointer = bob.locator(".pointer", has_text="alice")
    expect(pointer).to_be_visible()
    bob.wait_for_function(
        """() => {
          const [pointer, note] = [document.querySelector(".pointer"),
            [...document.querySelectorAll(".note")].find((each) => each.textContent.includes("Look here"))]
            .map((element) => element.getBoundingClientRect());
          return pointer.left >= note.left && pointer.left <= note.right
            && pointer.top >= note.top && pointer.top <= note.bottom;
        }"""
    )
    expect(alice.locator(".pointer", has_text="alice")).to_have_count(0)


def test_a_page_follows_the_person_who_invites(signed_in):
    alice = board(signed_in("alice"))
    bob = board(signed_in("bob", viewport={"width": 360, "height": 500}))
    hang_up(alice, "Far below")
    press(note(alice, "Far below"), "Move on")
    press(note(alice, "Far below"), "Move on")
    expect(column(bob, "done")).to_contain_text("Far below")

    alice.get_by_role("button", name="Follow me").click()
    bob.locator("#following").get_by_role("button", name="Follow alice").click()
    expect(bob.locator("#following")).to_contain_text("You follow alice.")
    note(alice, "Far below").hover()

    expect(note(bob, "Far below")).to_be_in_viewport()
    bob.locator("#here").get_by_role("button", name="Follow alice").click()
    expect(bob.locator("#following")).to_be_hidden()


def test_the_board_lists_the_people_by_name(signed_in):
    alice = board(signed_in("alice"))
    guest = board(signed_in("Grace"))

    expect(alice.locator("#here")).to_contain_text("alice (you)")
    for page, name in ((alice, "Grace"), (guest, "alice")):
        expect(page.get_by_role("button", name=f"Follow {name}")).to_be_visible()


def test_the_board_can_be_used_with_the_keyboard(signed_in):
    page, bob = board(signed_in("alice")), board(signed_in("bob"))
    page.locator("#text").focus()
    page.keyboard.type("By hand")
    page.keyboard.press("Enter")
    expect(note(bob, "By hand")).to_be_visible()
    expect(page.locator("#text")).to_be_focused()

    grip = note(page, "By hand").get_by_role("button", name="Move with the arrow keys")
    grip.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#news")).to_have_text(re.compile(r"Doing, \d+ of \d+"))
    expect(grip).to_be_focused()
    expect(column(bob, "doing")).to_contain_text("By hand")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(note(page, "By hand").get_by_role("textbox")).to_be_focused()
    page.keyboard.press("Escape")
    expect(note(page, "By hand").get_by_role("button", name="Edit")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect(note(page, "By hand")).to_have_count(0)
    assert page.evaluate("() => document.activeElement !== document.body")


def test_the_changes_of_others_are_announced(signed_in):
    page, bob = board(signed_in("alice")), board(signed_in("bob"))
    news = page.locator("#news")

    hang_up(bob, "Say it aloud")
    expect(news).to_have_text("bob added “Say it aloud” to To do")
    press(note(bob, "Say it aloud"), "Move on")
    expect(news).to_have_text("bob moved “Say it aloud” to Doing")
    press(note(bob, "Say it aloud"), "Remove")

    expect(news).to_have_text("bob removed “Say it aloud”")
    expect(news).to_have_role("status")


def test_a_window_that_was_offline_gets_the_missed_changes(signed_in):
    alice, bob = signed_in("alice"), board(signed_in("bob"))
    page = board(alice)
    alice.forgiven.append("ERR_INTERNET_DISCONNECTED|Failed to fetch")
    alice.context.set_offline(True)
    expect(badge(page)).not_to_have_text("Connected")
    hang_up(bob, "Said while you were away")
    expect(note(bob, "while you were away")).to_be_visible()
    alice.context.set_offline(False)

    expect(note(page, "while you were away")).to_be_visible()
    press(note(page, "while you were away"), "Remove")
    expect(note(bob, "while you were away")).to_have_count(0)


def test_a_note_typed_while_offline_is_kept_and_sent_once(signed_in):
    alice, bob = signed_in("alice"), board(signed_in("bob"))
    alice.forgiven.append("ERR_FAILED|Failed to fetch|WebSocket connection")
    cut = True
    alice.page.route(
        "**/connection/**", lambda route: route.abort() if cut else route.continue_()
    )
    alice.page.route_web_socket(
        re.compile("/connection/"),
        lambda socket: socket.close(code=1013) if cut else socket.connect_to_server(),
    )
    alice.page.goto(f"{alice.url}/board/")
    hang_up(alice.page, "Typed in a tunnel")
    expect(alice.page.locator(".waiting")).to_contain_text("Typed in a tunnel")
    alice.page.reload()
    expect(alice.page.locator(".waiting .text")).to_have_text("Typed in a tunnel")

    cut = False

    expect(note(bob, "Typed in a tunnel").locator(".by")).to_have_text("alice")
    expect(note(alice.page, "Typed in a tunnel")).to_have_count(1)
    expect(alice.page.locator(".waiting")).to_have_count(0)


def test_a_change_of_a_removed_note_shows_an_error(signed_in):
    page = board(signed_in("alice"))
    hang_up(page, "Twice removed")
    last = note(page, "Twice removed")
    last.evaluate("note => { note.dataset.id = 999999; }")
    press(page.locator('.note[data-id="999999"]'), "Remove")

    expect(page.locator("#wrong")).to_have_text("that note is gone")
