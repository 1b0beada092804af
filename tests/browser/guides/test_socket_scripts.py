"""Every script of the JavaScript guide, run in Chromium as printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route

from support.paths import ROOT
from support.servers.asgi_process import AsgiProcess
from support.waiting import wait_until

pytestmark = pytest.mark.browser

GUIDE = ROOT / "docs/guides/browser-socket.md"
TEXT = GUIDE.read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```js\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
BODY = re.search(r"<body>(.*?)</body>", TEXT, re.DOTALL)
HEAD = (
    '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">'
    '<script type="importmap">'
    '{"imports": {"tiderace": "/static/tiderace/tiderace.js", '
    '"tiderace/grow": "/static/tiderace/grow.js", '
    '"tiderace/stream": "/static/tiderace/stream.js"}}</script>'
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guide")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The URL of the socket server, with the body of the guide's first page beside its log of events."""
    assert BODY
    (folder / "guide.html").write_text(HEAD + BODY[1], encoding="utf-8")
    with AsgiProcess(
        "uvicorn",
        "browser.socket_app:app",
        env={"EVENT_LOG": str(folder / "event_log"), "POLICY": ""},
    ) as server:
        yield server.http


@pytest.fixture
def guide(page: Page, address: str, folder: Path) -> Page:
    """The page of the guide without its scripts."""
    (folder / "event_log").write_text("", encoding="utf-8")

    def answer(route: Route) -> None:
        route.fulfill(json={"token": "abc"})

    page.route("**/ws-token/", answer)
    page.goto(f"{address}/guide.html")
    return page


def run(guide: Page, script: str) -> None:
    """Run a script of the guide until it has opened its socket."""
    # The tag is there before its script runs: what is clicked then is not listened to.
    with guide.expect_websocket():
        guide.add_script_tag(type="module", content=script)


def test_the_guide_has_scripts_to_run() -> None:
    assert len(SCRIPTS) >= 8


@pytest.mark.parametrize(
    "script",
    [script for script in SCRIPTS if 'from "tiderace"' in script],
    ids=lambda script: script.splitlines()[2][:30],
)
def test_a_script_of_the_guide_opens_its_socket_without_errors(
    guide: Page, folder: Path, script: str
) -> None:
    errors: list[str] = []
    guide.on("pageerror", lambda error: errors.append(error.message))
    guide.on("console", lambda message: errors.append(message.text))

    run(guide, script)

    wait_until(
        lambda: '"connect"' in (folder / "event_log").read_text(encoding="utf-8"),
        what="the connection",
    )
    assert errors == []


def test_text_typed_into_the_first_page_appears_in_it(guide: Page) -> None:
    run(guide, SCRIPTS[0])

    guide.get_by_label("Message").fill("hello <b>there</b>")
    guide.get_by_label("Message").press("Enter")

    guide.get_by_text("hello <b>there</b>").wait_for()


def test_the_badge_of_the_guide_shows_connected(guide: Page) -> None:
    run(guide, SCRIPTS[1])

    guide.get_by_role("status").get_by_text("Connected").wait_for()
