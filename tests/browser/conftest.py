"""A real Chromium for the tests in this folder.

Playwright's sync API keeps an event loop running in the thread of the tests for as
long as it is started. So it is started per module, not per session: asynchronous tests
of other modules need a thread without a running loop. Tests in this folder are plain
functions.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    Playwright,
    sync_playwright,
)

from browser.demo.windows import Visitor
from support.pages.typed_site import TypedSite
from support.servers.demo_process import PASSWORDS, DemoProcess

CHROMIUM_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT = 15_000  # milliseconds


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of the browser: ``$CHROME``, else the first one in ``PATH``."""
    names = [os.environ["CHROME"]] if os.environ.get("CHROME") else CHROMIUM_NAMES
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no browser: none of {', '.join(names)} was found; set CHROME")


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Start Playwright's driver, and permit Django queries in its thread."""
    with pytest.MonkeyPatch.context() as patch:
        # Django refuses queries in a thread with a running loop.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        with sync_playwright() as driver:
            yield driver


@pytest.fixture(scope="module")
def launch(playwright: Playwright, chromium: str) -> Iterator[Callable[..., Browser]]:
    """Return a function that starts a Chromium; it is closed after the module.

    ``launch("--some-switch", ignore_default_args=[...])``: the named arguments are
    those of Playwright's ``launch``.
    """
    browsers: list[Browser] = []

    def start(*arguments: str, **options: Any) -> Browser:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[*CHROMIUM_ARGUMENTS, *arguments], **options
        )
        browsers.append(browser)
        return browser

    yield start
    for browser in browsers:
        browser.close()


@pytest.fixture(scope="module")
def browser(launch: Callable[..., Browser]) -> Browser:
    """Start one Chromium for all tests of a module."""
    return launch()


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Return a function that creates contexts, each with its own cookies.

    Its arguments are Playwright's. Every context is closed after the test.
    """
    contexts: list[BrowserContext] = []

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    """Return a page in a new context."""
    return new_context().new_page()


@pytest.fixture
def typed_site(tmp_path: Path) -> Iterator[TypedSite]:
    """Return an empty folder into which pages of the documentation are typed."""
    with TypedSite(tmp_path) as site:
        yield site


# The demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with DemoProcess(tmp_path_factory.mktemp("demo")) as process:
        yield process
        assert "Traceback" not in process.output()


@pytest.fixture(scope="session")
def cookies(demo: DemoProcess) -> Callable[[str], list[dict[str, str]]]:
    """Log each user in once; hashing a password takes its time."""
    kept: dict[str, list[dict[str, str]]] = {}

    def of(name: str) -> list[dict[str, str]]:
        if name not in kept:
            visitor = demo.visitor()
            if name in PASSWORDS:
                visitor.log_in(name)
            else:
                visitor.enter_as_guest(name)
            kept[name] = [
                {"name": key, "value": value, "url": demo.url}
                for key, value in visitor.http.cookies.items()
            ]
            visitor.close()
        return kept[name]

    return of


@pytest.fixture
def stranger(
    demo: DemoProcess, new_context: Callable[..., BrowserContext]
) -> Iterator[Callable[..., Visitor]]:
    """Make visitors who are not signed in; their consoles must stay silent."""
    visitors: list[Visitor] = []

    def make(**options: object) -> Visitor:
        visitors.append(Visitor(new_context(**options), demo.url))
        return visitors[-1]

    yield make
    assert [said for visitor in visitors for said in visitor.unforgiven()] == []


@pytest.fixture
def signed_in(
    stranger: Callable[..., Visitor],
    cookies: Callable[[str], list[dict[str, str]]],
) -> Callable[..., Visitor]:
    """Make visitors who have signed in before: users by name, others as guests."""

    def make(name: str, **options: object) -> Visitor:
        visitor = stranger(**options)
        visitor.context.add_cookies(cookies(name))  # type: ignore[arg-type]
        return visitor

    return make
