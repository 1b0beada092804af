"""Every script of the topics' JavaScript guide, run in Chromium as printed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, WebSocket

from support.paths import ROOT
from support.servers.asgi_process import AsgiProcess

pytestmark = pytest.mark.browser

GUIDE = ROOT / "docs/guides/browser-client.md"
TEXT = GUIDE.read_text(encoding="utf-8")
SCRIPTS = [
    script
    for script in re.findall(r"^```js\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    if "node:test" not in script
]
BODY = re.search(r"<body>(.*?)</body>", TEXT, re.DOTALL)
HEAD = (
    '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">'
    '<script type="importmap">'
    '{"imports": {"tiderace": "/static/tiderace/tiderace.js", '
    '"tiderace/grow": "/static/tiderace/grow.js", '
    '"tiderace/stream": "/static/tiderace/stream.js"}}</script>'
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the site of topics, with the body of the guide's first page."""
    folder = tmp_path_factory.mktemp("guide")
    assert BODY
    (folder / "guide.html").write_text(HEAD + BODY[1], encoding="utf-8")
    with AsgiProcess(
        "uvicorn", "browser.topics_site:application", env={"PAGES": str(folder)}
    ) as server:
        yield server.http


class GuidePage:
    """A page with the guide's body, its received frames and its console output."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[str] = []
        self.errors: list[str] = []
        self.output: list[str] = []
        page.on("websocket", self._watch)
        page.on("pageerror", lambda error: self.errors.append(error.message))
        page.on(
            "console",
            lambda message: (
                self.output if message.type == "debug" else self.errors
            ).append(message.text),
        )

    def _watch(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: self.frames.append(str(frame)))

    def run(self, script: str) -> None:
        """Run a script and wait until it is connected and subscribed."""
        self.page.add_script_tag(type="module", content=script)
        self.wait_for('"connect":')
        if ".subscribe(" in script:
            self.wait_for('"subscribe":')

    def wait_for(self, text: str) -> None:
        for _ in range(500):
            if any(text in text_seen for text_seen in (*self.frames, *self.output)):
                return
            # Playwright dispatches events during calls only.
            self.page.evaluate("() => new Promise((done) => setTimeout(done, 20))")
        raise AssertionError(f"no {text} in {self.frames}, {self.errors}")


@pytest.fixture
def guide_page(page: Page, address: str) -> GuidePage:
    guide_page = GuidePage(page)
    page.goto(f"{address}/guide.html")
    return guide_page


def script_with(text: str) -> str:
    return next(script for script in SCRIPTS if text in script)


def test_the_guide_has_scripts_to_run() -> None:
    assert len(SCRIPTS) >= 8
    assert all('from "tiderace"' in script for script in SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_a_script_of_the_guide_runs_without_errors(
    guide_page: GuidePage, script: str
) -> None:
    guide_page.run(script)

    assert guide_page.errors == []


def test_text_typed_into_the_first_page_appears_in_it(guide_page: GuidePage) -> None:
    guide_page.run(SCRIPTS[0])

    guide_page.page.get_by_label("Message").fill("hello <b>there</b>")
    guide_page.page.get_by_label("Message").press("Enter")

    guide_page.page.get_by_text("hello <b>there</b>").wait_for()


def test_the_badge_of_the_guide_shows_connected(guide_page: GuidePage) -> None:
    guide_page.run(script_with("badge"))

    guide_page.page.get_by_role("status").get_by_text("Connected").wait_for()


def test_the_call_of_the_guide_returns(guide_page: GuidePage) -> None:
    guide_page.run(script_with('call("rename"'))

    guide_page.wait_for("Tea")


def test_the_list_of_the_guide_shows_the_members(guide_page: GuidePage) -> None:
    guide_page.run(script_with("presence: true"))

    guide_page.page.locator("#people li").wait_for()


def test_the_state_that_the_guide_loads_is_shown(
    guide_page: GuidePage, address: str
) -> None:
    guide_page.page.evaluate("() => fetch('/publish/room:lobby/loaded')")

    guide_page.run(script_with("getState"))

    guide_page.page.locator("#log li").last.get_by_text("loaded").wait_for()
