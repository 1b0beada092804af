"""Every script of the topics' JavaScript guide, run in Chromium as it is printed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, WebSocket

from support.asgi_process import AsgiProcess
from support.paths import ROOT

pytestmark = pytest.mark.browser

GUIDE = ROOT / "docs/guides/topics-js.md"
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
    '{"imports": {"tiderace": "/static/tiderace/tiderace.js"}}</script>'
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The site of the topics, with the body of the guide's first page."""
    folder = tmp_path_factory.mktemp("guide")
    assert BODY
    (folder / "guide.html").write_text(HEAD + BODY[1], encoding="utf-8")
    with AsgiProcess(
        "uvicorn", "browser.topics_site:application", env={"PAGES": str(folder)}
    ) as server:
        yield server.http


class Reader:
    """A page with the guide's body, and what its connections and console said."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[str] = []
        self.complaints: list[str] = []
        self.said: list[str] = []
        page.on("websocket", self._watch)
        page.on("pageerror", lambda error: self.complaints.append(error.message))
        page.on(
            "console",
            lambda message: (
                self.said if message.type == "debug" else self.complaints
            ).append(message.text),
        )

    def _watch(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: self.frames.append(str(frame)))

    def run(self, script: str) -> None:
        """Run a script, until its topic is subscribed to if it has one."""
        self.page.add_script_tag(type="module", content=script)
        self.wait_for('"connect":')
        if ".subscribe(" in script:
            self.wait_for('"subscribe":')

    def wait_for(self, text: str) -> None:
        for _ in range(500):
            if any(text in said for said in (*self.frames, *self.said)):
                return
            # Playwright hands out events while it is asked for something.
            self.page.evaluate("() => new Promise((done) => setTimeout(done, 20))")
        raise AssertionError(f"no {text} in {self.frames}, {self.complaints}")


@pytest.fixture
def reader(page: Page, address: str) -> Reader:
    reader = Reader(page)
    page.goto(f"{address}/guide.html")
    return reader


def script_with(text: str) -> str:
    return next(script for script in SCRIPTS if text in script)


def test_the_guide_has_scripts_to_run() -> None:
    assert len(SCRIPTS) >= 8
    assert all('from "tiderace"' in script for script in SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_a_script_of_the_guide_runs_without_a_complaint(
    reader: Reader, script: str
) -> None:
    reader.run(script)

    assert reader.complaints == []


def test_what_is_typed_into_the_first_page_appears_in_it(reader: Reader) -> None:
    reader.run(SCRIPTS[0])

    reader.page.get_by_label("Message").fill("hello <b>there</b>")
    reader.page.get_by_label("Message").press("Enter")

    reader.page.get_by_text("hello <b>there</b>").wait_for()


def test_the_badge_of_the_guide_says_that_it_is_connected(reader: Reader) -> None:
    reader.run(script_with("badge"))

    reader.page.get_by_role("status").get_by_text("Connected").wait_for()


def test_the_call_of_the_guide_is_answered(reader: Reader) -> None:
    reader.run(script_with('call("rename"'))

    reader.wait_for("Tea")


def test_the_list_of_the_guide_shows_who_is_there(reader: Reader) -> None:
    reader.run(script_with("presence: true"))

    reader.page.locator("#people li").wait_for()


def test_the_state_that_the_guide_loads_is_shown(reader: Reader, address: str) -> None:
    reader.page.evaluate("() => fetch('/say/room:lobby/loaded')")

    reader.run(script_with("getState"))

    reader.page.locator("#log li").last.get_by_text("loaded").wait_for()
