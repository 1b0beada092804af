"""The tutorial, typed as printed into an empty folder, and looked at in Chromium."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from browser.guides.chat_windows import (
    lines,
    log_in,
    say,
    type_parts_before,
    wait_for_room,
    windows,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def test_part_1_ends_with_a_line_from_the_shell_in_the_page(typed_site, new_context):
    type_parts_before(typed_site, 1)
    typed_site.type_until("runserver")
    [page] = windows(new_context, f"{typed_site.url()}/chat/tea/", 1)
    wait_for_room(page)

    typed_site.type_until("shell")

    expect(lines(page)).to_have_text(["hello from the shell"])
    typed_site.type_rest()


def test_part_2_ends_with_two_windows_that_talk(typed_site, new_context):
    type_parts_before(typed_site, 2)
    typed_site.type_until("runserver")
    one, two = windows(new_context, f"{typed_site.url()}/chat/tea/", 2)
    wait_for_room(two)

    say(one, "hello <b>there</b>")

    for page in (one, two):
        expect(lines(page)).to_have_text(["hello <b>there</b>"])
    typed_site.type_rest()


def test_part_3_ends_with_windows_that_show_what_they_missed(typed_site, new_context):
    type_parts_before(typed_site, 3)
    typed_site.type_until("runserver")
    one, two = windows(new_context, f"{typed_site.url()}/chat/tea/", 2)
    wait_for_room(one)
    wait_for_room(two)
    say(one, "before")
    expect(lines(two)).to_have_text(["before"])

    typed_site.stop()
    for page in (one, two):
        expect(page.get_by_role("status")).to_have_text("waiting")
    say(one, "queued in the page")
    typed_site.type_until("shell")
    typed_site.type_until("runserver")

    for page in (one, two):
        expect(lines(page)).to_have_text(
            ["before", "nobody was here", "queued in the page"], timeout=30_000
        )
    [later] = windows(new_context, f"{typed_site.url()}/chat/tea/", 1)
    expect(lines(later)).to_have_count(3)
    typed_site.type_rest()


def test_part_4_ends_with_members_that_see_each_other(typed_site, new_context):
    type_parts_before(typed_site, 4)
    typed_site.type_until("runserver")
    room = f"{typed_site.url()}/chat/tea/"
    [alice], [bob] = windows(new_context, room, 1), windows(new_context, room, 1)

    log_in(alice, "alice")
    log_in(bob, "bob")

    members = [
        each.get_by_label("Members").get_by_role("listitem") for each in (alice, bob)
    ]
    for each in members:
        expect(each).to_have_count(2)
        assert sorted(each.all_inner_texts()) == ["alice", "bob"]
    say(alice, "hello")
    expect(lines(bob)).to_have_text(["alice: hello"])

    bob.close()
    expect(members[0]).to_have_text(["alice"], timeout=25_000)
    account = alice.context.new_page()
    account.goto(f"{typed_site.url()}/admin/")
    account.get_by_role("button", name="Log out").click()
    expect(alice.get_by_role("status")).to_have_text("closed", timeout=25_000)
    typed_site.type_rest()


def test_part_5_ends_with_tests_that_pass_under_both_runners(typed_site):
    type_parts_before(typed_site, 5)

    with_django = typed_site.type_until("manage.py test")
    with_pytest = typed_site.type_until("python -m pytest")
    typed_site.type_rest()

    assert "Ran 6 tests" in with_django
    assert "7 passed" in with_pytest


def test_part_6_ends_with_two_processes_of_which_one_is_restarted(
    typed_site, new_context
):
    type_parts_before(typed_site, 6)
    typed_site.type_until("--port 8001")
    typed_site.type_until("--port 8002")
    rooms = [f"{typed_site.url(port)}/chat/tea/" for port in (8001, 8002)]
    [one], [two] = (windows(new_context, room, 1) for room in rooms)
    log_in(one, "alice")
    log_in(two, "bob")
    for page in (one, two):
        wait_for_room(page)
    say(two, "before")
    expect(lines(one)).to_have_text(["bob: before"])

    typed_site.stop(8001)
    expect(one.get_by_role("status")).to_have_text("waiting")
    say(two, "meanwhile")
    typed_site.type_until("--port 8001")

    expect(lines(one)).to_have_text(["bob: before", "bob: meanwhile"], timeout=30_000)
    typed_site.type_rest()
