"""The README, typed as printed, and the picture in it."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from browser.guides.chat_windows import (
    lines,
    say,
    type_parts_before,
    wait_for_room,
    windows,
)
from browser.subscriptions import wait_for_subscription

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def test_the_readme_ends_with_a_line_from_the_shell_in_the_page(typed_site, page):
    typed_site.read("README.md")
    typed_site.type_until("runserver")
    page.goto(typed_site.url())
    wait_for_subscription(page, "news:world")

    typed_site.type_until("shell")

    expect(page.locator("#news li")).to_have_text(["It works"])


# The picture: three rows, in each of which are the two windows.

WINDOW = {"width": 440, "height": 150}
WINDOW_STYLE = """
  body { margin: 0; padding: 14px 18px; font: 16px/1.45 system-ui, sans-serif; color: #1c2733 }
  #state { float: right; margin: 0; padding: 1px 10px; border-radius: 9px; background: #d8f3e3; font-size: 13px }
  #state:empty { display: none }
  body.away #state { background: #fde2d8 }
  ul { margin: 0; padding: 0; list-style: none }
  form { position: absolute; left: 18px; right: 18px; bottom: 14px; display: flex; gap: 8px }
  input { flex: 1; padding: 4px 8px; border: 1px solid #b8c2cc; border-radius: 4px; font: inherit }
  button { padding: 4px 12px; border: 0; border-radius: 4px; background: #1c5d8a; color: #fff; font: inherit }
"""
PICTURE_STYLE = """
  main { padding: 18px 22px 4px; width: 920px; background: #eef1f4; font: 17px/1.4 system-ui, sans-serif; color: #1c2733 }
  p { margin: 0 0 8px; font-weight: 600 }
  div { display: flex; justify-content: space-between; margin-bottom: 18px }
  img { width: 440px; border: 1px solid #b8c2cc; border-radius: 6px; background: #fff; display: block; padding: 4px 0 }
"""


def photograph(pages: list[Page]) -> str:
    """Return the windows as the HTML of one row."""
    shots = [base64.b64encode(page.screenshot()).decode() for page in pages]
    images = (f'<img src="data:image/png;base64,{shot}">' for shot in shots)
    return f"<div>{''.join(images)}</div>"


def test_the_picture_shows_two_windows_that_missed_nothing(
    typed_site, new_context, tmp_path
):
    """Written to ``$PICTURE`` if that is set; ``docs/images/nothing-lost.png`` is it."""
    type_parts_before(typed_site, 4)
    typed_site.serve("python manage.py runserver")
    room = f"{typed_site.url()}/chat/picture/"
    one, _ = pages = windows(new_context, room, 2)
    for window in pages:
        window.set_viewport_size(WINDOW)
        window.add_style_tag(content=WINDOW_STYLE)
        wait_for_room(window)
    say(one, "Shall we meet at four?")
    for window in pages:
        expect(lines(window)).to_have_count(1)
    rows = [f"<p>1. Two windows of a chat</p>{photograph(pages)}"]

    typed_site.kill()
    for window in pages:
        expect(window.get_by_role("status")).to_have_text("waiting")
        window.evaluate("document.body.className = 'away'")
    one.get_by_label("Message").fill("Then at five.")
    rows.append(
        "<p>2. The server is killed. A script publishes, and the left window sends</p>"
        + photograph(pages)
    )
    say(one, "Then at five.")
    typed_site.run(
        "python manage.py shell -c 'from tiderace.topics import publish; "
        'publish("room:picture", {"text": "The room is taken until five."})\''
    )
    typed_site.serve("python manage.py runserver")
    for window in pages:
        expect(lines(window)).to_have_text(
            [
                "Shall we meet at four?",
                "The room is taken until five.",
                "Then at five.",
            ],
            timeout=30_000,
        )
        expect(window.get_by_role("status")).to_have_text("open")
        window.evaluate("document.body.className = ''")
    rows.append(f"<p>3. The server is back, and nothing is lost</p>{photograph(pages)}")

    picture = new_context().new_page()
    picture.set_content(f"<style>{PICTURE_STYLE}</style><main>{''.join(rows)}</main>")
    path = Path(os.environ.get("PICTURE") or tmp_path / "picture.png")
    picture.locator("main").screenshot(path=path)

    assert path.stat().st_size < 100_000
