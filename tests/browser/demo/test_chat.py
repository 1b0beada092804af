"""The demo's chat in a real Chromium: two visitors, one server, and what goes wrong.

Every page is watched: an error on its console, a refused resource or a dialog
fails the test that opened it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import (
    Locator,
    Page,
    WebSocket,
    WebSocketRoute,
    expect,
)

from browser.demo.windows import badge
from support.clients.npm_packages import script_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def field(page: Page) -> Locator:
    return page.get_by_role("textbox", name=re.compile("Message as"))


def say(page: Page, text: str) -> None:
    field(page).fill(text)
    field(page).press("Enter")


def texts(page: Page) -> Locator:
    """The messages that the server has stored, in the order shown."""
    return page.locator(".message:not(.waiting) .text")


def events(page: Page) -> Locator:
    return page.locator(".event")


def scroll_to_top(page: Page) -> None:
    """Scroll the messages back, and wait until the page has handled that."""
    page.locator("#log").evaluate(
        """(log) => new Promise((done) => {
          log.addEventListener("scroll", () => done(), { once: true });
          log.scrollTo(0, 0);
        })"""
    )


def test_messages_go_both_ways_between_two_windows(signed_in):
    alice = signed_in("alice").enter("talk")
    bob = signed_in("bob").enter("talk")

    say(alice, "Is anybody here?")
    expect(texts(bob)).to_have_text(["Is anybody here?"])
    say(bob, "I am.")

    expect(texts(alice)).to_have_text(["Is anybody here?", "I am."])


def test_the_others_see_a_person_join_and_leave(signed_in):
    alice = signed_in("alice").enter("doors")
    bob = signed_in("bob")

    bob.enter("doors")
    expect(events(alice)).to_have_text(["bob joined"])
    expect(alice.locator("#people li")).to_have_text(["ALalice (you)", "BObob"])
    bob.page.close()

    expect(events(alice)).to_have_text(["bob joined", "bob left"])
    expect(alice.locator("#people li")).to_have_text(["ALalice (you)"])


def test_a_reload_is_not_announced_as_leaving(signed_in):
    alice = signed_in("alice").enter("revolving")
    bob = signed_in("bob").enter("revolving")
    expect(events(alice)).to_have_text(["bob joined"])

    bob.reload()
    expect(badge(bob)).to_have_text("Connected")
    say(bob, "back")
    expect(texts(alice)).to_have_text(["back"])

    expect(events(alice)).to_have_text(["bob joined"])


def test_own_messages_differ_in_label_and_side(signed_in):
    alice = signed_in("alice").enter("sides")
    bob = signed_in("bob").enter("sides")

    say(alice, "mine")
    expect(texts(bob)).to_have_text(["mine"])

    expect(alice.locator(".message.mine .who b")).to_have_text("You")
    expect(bob.locator(".message .who b")).to_have_text("alice")
    expect(bob.locator(".message.mine")).to_have_count(0)


def test_typing_is_shown_until_the_message_arrives(signed_in):
    alice = signed_in("alice").enter("typing")
    bob = signed_in("bob").enter("typing")

    field(bob).press_sequentially("so")
    expect(alice.locator("#typing")).to_have_text("bob is typing…")
    expect(bob.locator("#typing")).to_have_text("")
    field(bob).press("Enter")

    expect(texts(alice)).to_have_text(["so"])
    expect(alice.locator("#typing")).to_have_text("")


def test_typing_of_a_silent_window_expires(signed_in):
    alice = signed_in("alice")
    alice.page.clock.install()
    alice.enter("silent")
    bob = signed_in("bob").enter("silent")

    field(bob).press_sequentially("never finish")
    expect(alice.page.locator("#typing")).to_have_text("bob is typing…")
    alice.page.clock.run_for(5_500)

    expect(alice.page.locator("#typing")).to_have_text("")


def test_a_reload_keeps_the_messages(signed_in):
    alice = signed_in("alice").enter("kept")
    for text in ("one", "two\nlines", "three"):
        say(alice, text)
    expect(texts(alice)).to_have_count(3)

    alice.reload()

    expect(texts(alice)).to_have_text(["one", "two\nlines", "three"])
    expect(alice.locator(".message.mine")).to_have_count(3)


def test_both_windows_reconnect_after_a_killed_server_and_send_nothing_twice(
    signed_in, demo
):
    alice, bob = signed_in("alice"), signed_in("bob")
    for visitor in (alice, bob):
        # After some attempts the client also tries its transports over HTTP.
        visitor.forgiven.append(
            "ERR_CONNECTION_REFUSED|Failed to fetch|WebSocket connection"
        )
        visitor.enter("outage")
    say(alice.page, "before")
    expect(texts(bob.page)).to_have_text(["before"])

    demo.kill()
    for visitor in (alice, bob):
        expect(badge(visitor.page)).not_to_have_text("Connected")
    say(alice.page, "first meanwhile")
    say(alice.page, "second meanwhile")
    say(bob.page, "me too")
    expect(alice.page.locator(".waiting .fate span").first).to_have_text(
        "Will be sent when the connection is back"
    )
    demo.start()

    for visitor in (alice, bob):
        expect(badge(visitor.page)).to_have_text("Connected")
        expect(visitor.page.locator(".waiting")).to_have_count(0)
        expect(texts(visitor.page)).to_have_count(4)
    shown = texts(bob.page).all_inner_texts()
    assert texts(alice.page).all_inner_texts() == shown
    assert sorted(shown) == ["before", "first meanwhile", "me too", "second meanwhile"]
    assert shown.index("first meanwhile") < shown.index("second meanwhile")
    alice.page.reload()
    assert texts(alice.page).all_inner_texts() == shown


def test_a_message_stored_before_a_reload_is_shown_once_and_as_sent(signed_in):
    """The answers do not arrive before the page is left."""
    alice, bob = signed_in("alice"), signed_in("bob")
    is_deaf = False

    def forward(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        server.on_message(lambda frame: None if is_deaf else socket.send(frame))

    alice.page.route_web_socket(re.compile("/connection/"), forward)
    for visitor in (alice, bob):
        visitor.enter("stored")
    is_deaf = True
    say(alice.page, "stored")
    expect(texts(bob.page)).to_have_text(["stored"])
    expect(alice.page.locator(".waiting .text")).to_have_text(["stored"])
    is_deaf = False
    alice.page.reload()

    expect(badge(alice.page)).to_have_text("Connected")
    expect(texts(alice.page)).to_have_text(["stored"])
    expect(alice.page.locator(".waiting")).to_have_count(0)


def test_unsent_messages_survive_a_reload_of_the_page(signed_in):
    """The network is gone for the topics only, so that the page can be loaded."""
    alice = signed_in("alice")
    alice.forgiven.append("ERR_FAILED|Failed to fetch|WebSocket connection")
    cut = True
    alice.page.route(
        "**/connection/**", lambda route: route.abort() if cut else route.continue_()
    )
    alice.page.route_web_socket(
        re.compile("/connection/"),
        lambda socket: socket.close(code=1013) if cut else socket.connect_to_server(),
    )
    alice.page.goto(f"{alice.url}/chat/patience/")
    say(alice.page, "typed in a tunnel")
    alice.page.reload()
    expect(alice.page.locator(".waiting .text")).to_have_text("typed in a tunnel")

    cut = False

    expect(texts(alice.page)).to_have_text(["typed in a tunnel"])
    expect(alice.page.locator(".waiting")).to_have_count(0)


def test_a_window_that_was_disconnected_gets_the_missed_messages_in_order(signed_in):
    sockets: list[WebSocketRoute] = []
    cut = False

    def gate(socket: WebSocketRoute) -> None:
        if cut:
            socket.close(code=1013)
        else:
            socket.connect_to_server()
            sockets.append(socket)

    bob = signed_in("bob")
    bob.page.route_web_socket(re.compile("/connection/"), gate)
    bob.enter("away")
    alice = signed_in("alice").enter("away")
    say(alice, "seen")
    expect(texts(bob.page)).to_have_text(["seen"])

    cut = True
    sockets[-1].close(code=1012)
    expect(badge(bob.page)).not_to_have_text("Connected")
    for number in range(5):
        say(alice, f"missed {number}")
    expect(texts(alice)).to_have_count(6)
    cut = False

    said = ["seen", *(f"missed {number}" for number in range(5))]
    expect(texts(bob.page)).to_have_text(said)


def test_a_burst_beyond_the_rate_arrives_completely_and_in_order(signed_in):
    alice = signed_in("alice").enter("burst")
    bob = signed_in("bob").enter("burst")
    said = [f"line {number}" for number in range(30)]

    alice.evaluate(
        """(said) => {
          for (const text of said) {
            document.getElementById("text").value = text;
            document.getElementById("composer").requestSubmit();
          }
        }""",
        said,
    )

    expect(texts(bob)).to_have_text(said)
    expect(texts(alice)).to_have_text(said)


def test_a_text_that_is_too_long_stays_in_the_field_with_an_error(signed_in):
    page = signed_in("alice").enter("lengthy")

    say(page, "x" * 2003)
    said = field(page).evaluate("field => field.validationMessage")
    expect(field(page)).to_have_value("x" * 2003)
    say(page, "y" * 2000)

    assert said == "Too long by 3 characters"
    expect(texts(page)).to_have_text(["y" * 2000])


PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "</p></li></ol><h1>out</h1>",
    "<template><script>alert(1)</script></template>",
    "{{ 7|add:7 }} {% now 'Y' %} ${alert(1)}",
    "javascript:alert(1)",
    "<a href='javascript:alert(1)'>click</a>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "</script><script>alert(1)</script>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<style>*{display:none}</style>",
]


def test_markup_in_messages_is_shown_as_text_live_and_after_a_reload(signed_in):
    alice = signed_in("alice").enter("markup")
    bob = signed_in("bob").enter("markup")
    for payload in PAYLOADS:
        say(alice, payload)
    expect(texts(bob)).to_have_text(PAYLOADS)

    for page in (alice, bob):
        assert page.locator("#messages .text *").count() == 0
    bob.reload()

    expect(texts(bob)).to_have_text(PAYLOADS)
    assert bob.locator("#messages .text *").count() == 0
    assert bob.locator("h1").all_inner_texts() == ["Markup"]


def test_markup_in_names_is_shown_as_text(signed_in):
    name = "<b onclick=alert()>x</b>"
    guest = signed_in(name)
    alice = signed_in("alice").enter("names")

    guest.enter("names")
    say(guest.page, "hello")

    expect(events(alice)).to_have_text([f"{name} joined"])
    expect(alice.locator(".message .who b")).to_have_text(name)
    expect(alice.locator("#people li")).to_have_text(
        [f"<B{name}, guest", "ALalice (you)"]
    )


def test_a_user_logs_in_with_name_and_password(stranger):
    visitor = stranger()
    page = visitor.page
    page.goto(f"{visitor.url}/chat/general/")
    page.get_by_text("Type name and password").click()

    page.get_by_label("User name").fill("carol")
    page.get_by_label("Password").fill("carol-tide")
    page.get_by_role("button", name="Log in", exact=True).click()

    expect(page.get_by_role("heading", name="General")).to_be_visible()
    expect(badge(page)).to_have_text("Connected")
    expect(page.locator(".me")).to_have_text("carol")


def test_a_wrong_password_shows_an_error(stranger):
    visitor = stranger()
    page = visitor.page
    page.goto(f"{visitor.url}/login/")
    page.get_by_text("Type name and password").click()

    page.get_by_label("User name").fill("carol")
    page.get_by_label("Password").fill("guess")
    page.get_by_role("button", name="Log in", exact=True).click()

    expect(page.get_by_role("alert")).to_contain_text("do not match")


def test_a_guest_signs_in_under_a_name_and_is_marked_as_guest(stranger, signed_in):
    alice = signed_in("alice").enter("guests")
    visitor = stranger()
    visitor.page.goto(f"{visitor.url}/chat/guests/")

    visitor.page.get_by_label("Your name").fill("Mia")
    visitor.page.get_by_role("button", name="Enter").click()
    expect(badge(visitor.page)).to_have_text("Connected")
    say(visitor.page, "Hi")

    expect(texts(alice)).to_have_text(["Hi"])
    expect(alice.locator(".message .tag").first).to_have_text("guest")


def test_a_guest_with_the_name_of_a_user_sees_an_error(stranger):
    visitor = stranger()
    visitor.forgiven.append("status of 422")
    page = visitor.page
    page.goto(f"{visitor.url}/login/")

    page.get_by_label("Your name").fill("Alice")
    page.get_by_role("button", name="Enter").click()

    expect(page.get_by_text("That name belongs to a user")).to_be_visible()


def test_logging_out_ends_the_same_browsers_other_windows(stranger):
    visitor = stranger()
    visitor.page.goto(f"{visitor.url}/login/")
    visitor.page.get_by_label("Your name").fill("Noa")
    visitor.page.get_by_role("button", name="Enter").click()
    room = visitor.enter("leaving")
    opened: list[WebSocket] = []
    room.on("websocket", lambda socket: opened.append(socket))
    lobby = visitor.context.new_page()
    lobby.goto(f"{visitor.url}/chat/")

    lobby.get_by_role("button", name="Log out").click()
    expect(lobby.get_by_role("heading", name="Come in")).to_be_visible()

    expect(badge(room)).to_have_text("Disconnected")
    expect(room.get_by_role("alert").filter(has_text="signed out")).to_be_visible()
    room.get_by_role("link", name="Sign in again").click()
    expect(room.get_by_role("heading", name="Come in")).to_be_visible()
    assert len(opened) <= 1, "the page went on connecting"


# The bell


def bell(page: Page) -> Locator:
    return page.locator("#bell")


def test_a_notification_rings_on_every_page_and_in_every_tab(signed_in):
    alice, bob = signed_in("alice"), signed_in("bob")
    room = bob.enter("left-hand")
    lobby = bob.context.new_page()
    lobby.goto(f"{bob.url}/chat/")
    expect(badge(lobby)).to_have_text("Connected")
    other = signed_in("carol").enter("left-hand")

    alice.page.goto(f"{alice.url}/notify/")
    alice.page.get_by_label("Notice").fill(PAYLOADS[1])
    alice.page.get_by_label("For").select_option(label="bob")
    alice.page.get_by_role("button", name="Send").click()
    for page in (room, lobby):
        expect(bell(page)).to_have_accessible_name("Notifications: 1 unread")
    bell(lobby).click()

    expect(lobby.locator("#notifications li")).to_have_text(f"alice {PAYLOADS[1]}")
    for page in (room, lobby):
        expect(bell(page)).to_have_accessible_name("Notifications: none unread")
    expect(bell(other)).to_have_accessible_name("Notifications: none unread")


def test_notifications_of_the_time_away_are_counted_on_return(signed_in, demo):
    carol = signed_in("carol")
    page = carol.enter("away-bell")
    carol.forgiven.append("ERR_INTERNET_DISCONNECTED|Failed to fetch")
    carol.context.set_offline(True)
    expect(badge(page)).not_to_have_text("Connected")
    for number in range(2):
        done = demo.manage(
            "notify", f"news {number}", "--user", "carol", "--url", demo.url
        )
        assert done.stdout == "Sent to carol.\n", done.stderr

    carol.context.set_offline(False)

    expect(bell(page)).to_have_accessible_name("Notifications: 2 unread")
    page.reload()
    expect(bell(page)).to_have_accessible_name("Notifications: 2 unread")


# More of the chat


def test_a_banner_says_how_many_messages_were_recovered(signed_in):
    alice, bob = signed_in("alice").enter("banner"), signed_in("bob")
    page = bob.enter("banner")
    bob.forgiven.append("ERR_INTERNET_DISCONNECTED|Failed to fetch")
    bob.context.set_offline(True)
    expect(badge(page)).not_to_have_text("Connected")
    for number in range(3):
        say(alice, f"missed {number}")
    expect(texts(alice)).to_have_count(3)
    bob.context.set_offline(False)

    expect(page.locator("#recovered")).to_have_text(
        "Connection is back: 3 messages recovered"
    )
    expect(texts(page)).to_have_text(["missed 0", "missed 1", "missed 2"])


def test_two_tabs_are_one_person(signed_in):
    alice, bob = signed_in("alice").enter("tabs"), signed_in("bob")
    bob.enter("tabs")
    second = bob.context.new_page()
    second.goto(f"{bob.url}/chat/tabs/")
    expect(badge(second)).to_have_text("Connected")
    expect(second.locator("#people li")).to_have_count(2)

    second.close()
    say(bob.page, "still here")

    expect(texts(alice)).to_have_text(["still here"])
    expect(alice.locator("#people li")).to_have_text(["ALalice (you)", "BObob"])
    expect(events(alice)).to_have_text(["bob joined"])


def test_a_message_is_edited_reacted_to_and_deleted_in_every_window(signed_in):
    alice, bob = signed_in("alice").enter("edit"), signed_in("bob").enter("edit")
    say(alice, "teh **tide**")
    expect(bob.locator(".text strong")).to_have_text("tide")
    message = alice.locator(".message")

    message.hover()
    message.get_by_role("button", name="Edit").click()
    say(alice, "the tide")
    expect(texts(bob)).to_have_text(["the tide"])
    expect(bob.locator(".edited")).to_be_visible()
    bob.locator(".message").hover()
    expect(bob.get_by_role("button", name="Delete")).to_be_hidden()
    bob.get_by_role("button", name="React with 🎉").click()
    expect(alice.locator(".reaction")).to_have_text("🎉 1")
    message.hover()
    message.get_by_role("button", name="Delete").click()

    expect(texts(bob)).to_have_count(0)


def test_a_picture_is_shown_in_every_window_with_the_same_bytes(signed_in, tmp_path):
    alice, bob = signed_in("alice").enter("picture"), signed_in("bob").enter("picture")
    picture = tmp_path / "shot.png"
    alice.screenshot(path=picture)

    alice.locator("#picture").set_input_files(picture)

    image = bob.locator(".text img")
    expect(image).to_have_js_property("complete", True)
    address = image.evaluate("image => image.naturalWidth && image.src")
    assert bob.request.get(address).body() == picture.read_bytes()


def test_the_answer_to_a_command_survives_a_reload_until_it_is_stopped(signed_in):
    alice, bob = signed_in("alice").enter("answers"), signed_in("bob").enter("answers")
    growing = alice.locator(".answer .text")
    say(alice, "/tide Fox Island days 14")
    for page in (alice, bob):
        expect(page.locator(".answer .text")).to_contain_text("Fox Island")
    before = growing.inner_text()

    alice.reload()

    expect(growing).to_contain_text(before)
    shown = growing.inner_text()
    expect(growing).not_to_have_text(shown)
    expect(bob.get_by_role("button", name="Stop")).to_be_hidden()
    alice.get_by_role("button", name="Stop").click()
    for page in (alice, bob):
        expect(texts(page)).to_have_count(2)
        expect(texts(page).nth(1)).to_contain_text("Fox Island")
    assert texts(alice).all_inner_texts() == texts(bob).all_inner_texts()


def test_a_finished_answer_is_a_message_of_the_room(signed_in):
    alice, bob = (
        signed_in("alice").enter("finished"),
        signed_in("bob").enter("finished"),
    )
    say(alice, "/tide")

    for page in (alice, bob):
        stored = texts(page).nth(1)
        expect(stored).to_contain_text("the text so far is still there.")
        expect(stored.locator("strong")).to_have_count(4)
        expect(page.locator(".answer")).to_have_count(0)


def test_scrolling_back_loads_earlier_messages(signed_in):
    alice = signed_in("alice").enter("deep")
    for number in range(50):
        say(alice, f"line {number}")
    expect(texts(alice)).to_have_count(50)
    bob = signed_in("bob", viewport={"width": 500, "height": 500}).enter("deep")
    expect(texts(bob)).to_have_count(40)

    scroll_to_top(bob)

    expect(texts(bob)).to_have_count(50)
    expect(texts(bob).first).to_have_text("line 0")
    assert bob.locator("#log").evaluate("log => log.scrollTop") > 0


def test_the_list_of_rooms_counts_what_is_unread_and_mentions(signed_in):
    bob = signed_in("bob")
    bob.enter("counted")
    alice = signed_in("alice").enter("counted")
    say(alice, "seen")
    expect(texts(bob.page)).to_have_text(["seen"])
    # A connection's commands are carried out in order: the read mark is stored too.
    say(bob.page, "yes")
    expect(texts(bob.page)).to_have_text(["seen", "yes"])
    bob.page.goto(f"{bob.url}/chat/")
    expect(badge(bob.page)).to_have_text("Connected")
    room = bob.page.locator('[data-room="counted"]')

    say(alice, "news for @bob")

    expect(room.locator('[data-count="unread"]')).to_have_text("1")
    expect(room.locator('[data-count="mentions"]')).to_have_text("@1")
    bob.page.reload()
    expect(room.locator('[data-count="unread"]')).to_have_text("1")


def test_a_room_that_may_not_be_entered_says_so(signed_in):
    page = signed_in("alice").page
    page.goto(f"{signed_in('alice').url}/chat/bridge/")

    expect(page.get_by_role("alert").filter(has_text="only staff may")).to_be_visible()
    expect(field(page)).to_be_disabled()


def test_a_refused_message_can_be_sent_again(signed_in):
    alice = signed_in("alice").enter("refused")
    alice.evaluate("sessionStorage.clear()")
    alice.evaluate(
        """() => sessionStorage.setItem(
          `unsent:${JSON.parse(document.getElementById("room-config").textContent).me.id}:refused`,
          JSON.stringify([{ client_id: "aaaaaaaaaa", text: "x".repeat(2001) }]))"""
    )
    alice.reload()

    expect(alice.locator(".fate")).to_contain_text("Not sent: the message has 2001")
    alice.get_by_role("button", name="Try again").click()
    expect(alice.locator(".fate")).to_contain_text("Not sent")


def test_scrolled_history_does_not_move_and_a_badge_counts_new_messages(signed_in):
    alice = signed_in("alice").enter("reading")
    bob = signed_in("bob", viewport={"width": 500, "height": 420}).enter("reading")
    for number in range(12):
        say(alice, f"line {number}\nand more")
    expect(texts(bob)).to_have_count(12)
    scroll_to_top(bob)

    for number in range(3):
        say(alice, f"news {number}")
    pill = bob.get_by_role("button", name="3 new messages")
    expect(pill).to_be_visible()
    assert bob.locator("#log").evaluate("log => log.scrollTop") == 0
    pill.click()

    expect(pill).to_be_hidden()
    expect(texts(bob).last).to_be_in_viewport()
    expect(field(bob)).to_be_focused()


def test_messages_that_arrive_while_earlier_ones_are_loaded_are_counted(signed_in):
    alice = signed_in("alice").enter("loading")
    for number in range(12):
        say(alice, f"line {number}\nand more")
    expect(texts(alice)).to_have_count(12)
    bob = signed_in("bob", viewport={"width": 500, "height": 420})
    replies: list[str] = []
    send: list[Callable[[str], None]] = []
    is_held = False

    def forward(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        send.append(socket.send)
        server.on_message(
            lambda frame: (
                replies.append(frame)
                if is_held and '"rpc"' in frame
                else socket.send(frame)
            )
        )

    bob.page.route_web_socket(re.compile("/connection/"), forward)
    bob.enter("loading")
    is_held = True
    scroll_to_top(bob.page)
    say(alice, "news")
    expect(bob.page.get_by_role("button", name="1 new message")).to_be_visible()

    is_held = False
    for reply in replies:
        send[-1](reply)
    say(alice, "more news")

    expect(bob.page.get_by_role("button", name="2 new messages")).to_be_visible()


def test_the_demo_can_be_used_with_the_keyboard(stranger):
    visitor = stranger()
    page = visitor.page
    page.goto(f"{visitor.url}/chat/keys/")

    def tab_to(role: str, name: str) -> None:
        target = page.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
        for _ in range(30):
            if target.evaluate("element => element === document.activeElement"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"no way to {name} by keyboard")

    tab_to("textbox", "Your name")
    page.keyboard.type("Kim")
    page.keyboard.press("Enter")
    expect(field(page)).to_be_enabled()
    tab_to("textbox", "Message as Kim")
    page.keyboard.type("first")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second")
    page.keyboard.press("Enter")
    expect(texts(page)).to_have_text(["first\nsecond"])
    page.keyboard.type("still here")
    page.keyboard.press("Enter")
    expect(texts(page)).to_have_count(2)

    tab_to("button", "Log out")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Come in")).to_be_visible()


def test_screen_readers_announce_messages_and_the_connection_state(signed_in):
    page = signed_in("alice").enter("spoken")

    expect(page.get_by_role("log", name="Messages")).to_have_attribute(
        "aria-live", "polite"
    )
    expect(page.get_by_role("status").filter(has_text="Connected")).to_be_visible()


def test_the_chosen_colours_survive_a_reload(signed_in):
    page = signed_in("alice", color_scheme="light").enter("colours")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)

    toggle = page.locator("#theme")
    toggle.click()
    toggle.click()
    expect(toggle).to_have_accessible_name("Colours: dark")
    page.reload()

    assert page.evaluate(ground) != light
    expect(toggle).to_have_accessible_name("Colours: dark")


# Every visible text against what is painted behind it, by WCAG 2's formula; large
# text may have 3:1, the rest needs 4.5:1. Returned are those that have less.
FAINT = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parse(colour).map((c) => {
      const s = c / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parse(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const element = text.parentElement;
    if (!text.data.trim() || !element.checkVisibility()) continue;
    if (["SCRIPT", "NOSCRIPT", "OPTION"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const pair = [light(style.color), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) faint.push(`${text.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return faint;
}"""

# What a finger has to hit, smaller than 44 pixels in either direction. Links in a
# sentence are exempt, as in WCAG.
SMALL = """() => [...document.querySelectorAll("button, input, select, textarea, summary, a")]
  .filter((element) => element.checkVisibility() && element.type !== "hidden"
    && !element.closest("p, .text") && !element.matches(".skip, .unseen"))
  .map((element) => [element, element.getBoundingClientRect()])
  .filter(([, box]) => box.width < 44 || box.height < 44)
  .map(([element, box]) => `${element.outerHTML.slice(0, 80)} ${box.width}x${box.height}`)"""


# What axe-core finds serious. It is evaluated, since the policy refuses to load it.
AXE = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => `${id}: ${nodes[0].html.slice(0, 120)}`);
}"""

PAGES = [
    ("lobby", "/chat/"),
    ("notify", "/notify/"),
    ("board", "/board/"),
    ("poll", "/poll/"),
    ("vote", "/vote/"),
    ("answers", "/answers/"),
    ("devices", "/devices/"),
    ("operations", "/operations/"),
    ("break-it", "/break-it/"),
    ("source", "/source/people/"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_every_page_fits_the_window_and_can_be_read(
    signed_in, stranger, tmp_path, width, scheme
):
    """Leaves a picture of each page in the test's folder, or in ``$SCREENSHOTS``."""
    pictures = Path(os.environ.get("SCREENSHOTS", tmp_path))
    axe = script_of("axe-core/axe.min.js")
    window = {"viewport": {"width": width, "height": 760}, "color_scheme": scheme}
    alice, bob = signed_in("alice", **window), signed_in("bob")
    room = f"view-{width}-{scheme}"
    alice.enter(room)
    other = bob.enter(room)
    say(alice.page, "Is the new berth plan final? I would like to print it.")
    say(other, "Nearly: the tide tables for Thursday are missing.")
    say(other, "Long words break: " + "https://example.org/" + "a" * 90)
    expect(texts(alice.page)).to_have_count(3)
    pages = {"room": alice.page}
    for name, path in PAGES:
        pages[name] = alice.context.new_page()
        pages[name].goto(alice.url + path)
    pages["login"] = stranger(**window).page
    pages["login"].goto(f"{alice.url}/login/")
    pages["login"].get_by_text("Type name and password").click()
    field(other).press_sequentially("and")
    expect(alice.page.locator("#typing")).not_to_have_text("")

    for name, page in pages.items():
        page.bring_to_front()
        page.screenshot(path=pictures / f"{name}-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.evaluate(FAINT) == [], name
        assert page.evaluate(SMALL) == [], name
        page.evaluate(axe)
        assert page.evaluate(AXE) == [], name
