"""Every guide, typed as printed into a new project, which then passes its checks and runs.

What a guide takes for granted is what the first part of the tutorial makes: the settings
and the topics endpoint, with the guide's apps. Pages of a guide are looked at in Chromium.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page, expect

from browser.guides.chat_windows import log_in
from browser.subscriptions import wait_for_subscription
from support.pages.blocks import PAGES, Block, blocks_in
from support.pages.typed_site import TypedSite
from support.paths import ROOT
from support.servers.brokers import Server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

# The guide's own keys are refused, since they are public; its server is not here.
KEYS = {
    "at least 32 random bytes, of your own": "4bYx1Zc8Qe7Rt2Wm9Lp3Ks6Hd5Gf0Jv",
    "the key before it, while tokens live": "8Nq2Vb7Xc1Zl4Mk9Jh3Gf6Ds5Aw0Er",
    "replace-this-key-0123": "4bYx1Zc8Qe7Rt2Wm9Lp3",
    "for development": "4bYx1Zc8Qe7Rt2Wm9Lp3Ks6Hd5Gf0Jv",
}
DOCUMENTED_SERVER = "redis://localhost:6379/0"


def files_of(page: str) -> list[Block]:
    """The files of the reader's project; those of the system begin with a slash."""
    return [block for block in blocks_in(page) if block.file and block.file[0] != "/"]


# Guides whose tests type them together with packages of npm.
WITH_PACKAGES = {"htmx.md", "react-vue-alpine.md"}
GUIDES = [
    name
    for page in PAGES
    if page.is_relative_to(ROOT / "docs/guides")
    and page.name not in WITH_PACKAGES
    and files_of(name := str(page.relative_to(ROOT)))
]


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """The server that the guides name."""
    with Server() as server:
        yield server.url


@pytest.fixture
def type_guide(tmp_path, broker) -> Iterator[Callable[[str], TypedSite]]:
    """Return a function that types a guide into a new project."""
    with TypedSite(tmp_path, {**KEYS, DOCUMENTED_SERVER: broker}) as site:

        def type_guide(page: str) -> TypedSite:
            files = files_of(page)
            folders = {
                block.file.partition("/")[0] for block in files if "/" in block.file
            }
            apps = sorted(folders - {"mysite"})
            site.start_project(*apps)
            # The guide's own settings come after these.
            settings = "".join(
                block.code for block in files if "settings" in block.file
            )
            missing = [app for app in apps if f'"{app}"' not in settings]
            if "INSTALLED_APPS" not in settings:
                missing.insert(0, "tiderace")
            site.add_settings(
                f"\nINSTALLED_APPS = [*{missing}, *INSTALLED_APPS]\n"
                'ASGI_APPLICATION = "mysite.asgi.application"\n'
                'LAYER = "tiderace.layers.database.DatabaseChannelLayer"\n'
                'CHANNEL_LAYERS = {"default": {"BACKEND": LAYER}}\n'
            )
            for block in blocks_in("docs/tutorial/1-live-page.md"):
                if block.file == "mysite/asgi.py":
                    site.write(block)
            for block in files:
                site.write(block)
            return site

        yield type_guide


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_makes_a_site_that_passes_its_checks_and_runs(page, type_guide):
    site = type_guide(page)

    site.run("python manage.py check --fail-level WARNING")
    site.run("python manage.py migrate")
    site.serve("python manage.py runserver")

    with urlopen(f"{site.url()}/admin/login/") as answer:
        assert answer.status == 200
    assert "Traceback" not in site.log()


@pytest.fixture
def errors(page: Page) -> list[str]:
    """The exceptions of the page and its failed requests."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on(
        "response",
        lambda answer: (
            found.append(f"{answer.url}: {answer.status}")
            if answer.status >= 400 and not answer.url.endswith("/favicon.ico")
            else None
        ),
    )
    return found


def publish(site: TypedSite, topic: str, data: object) -> None:
    site.run(
        "python manage.py shell -c "
        f'"from tiderace.topics import publish; publish({topic!r}, {data!r})"'
    )


def test_the_page_of_the_topics_guide_shows_publications(type_guide, page, errors):
    site = type_guide("docs/guides/topics.md")
    site.run("python manage.py migrate")
    site.run("python manage.py createsuperuser --username alice --email a@example.com")
    site.serve("python manage.py runserver")

    page.goto(f"{site.url()}/room/")
    log_in(page, "alice")
    expect(page.locator("#log")).to_be_attached()
    wait_for_subscription(page, "room:lobby")
    publish(site, "room:lobby", {"text": "hello"})

    expect(page.locator("#log")).to_have_text("hello")
    assert errors == []


def test_the_page_of_the_client_guide_talks_to_its_server(type_guide, page, errors):
    site = type_guide("docs/guides/browser-client.md")
    site.serve("python manage.py runserver")

    page.goto(f"{site.url()}/topic/")
    page.get_by_label("Message").fill("hello")
    page.get_by_label("Message").press("Enter")

    expect(page.locator("#log li")).to_have_text(["hello"])
    assert errors == []


def test_the_page_of_the_socket_guide_talks_to_its_server(type_guide, page, errors):
    site = type_guide("docs/guides/browser-socket.md")
    site.serve("python manage.py runserver")

    page.goto(f"{site.url()}/chat/")
    page.get_by_label("Message").fill("hello")
    page.get_by_label("Message").press("Enter")

    expect(page.locator("#log li")).to_have_text(["hello"])
    assert errors == []


def test_the_page_beside_a_wsgi_site_shows_what_is_announced(type_guide, page, errors):
    site = type_guide("docs/guides/keep-wsgi.md")
    site.serve("python manage.py runserver")

    page.goto(site.url())
    wait_for_subscription(page, "news")
    page.locator("input[name=text]").fill("hello")
    page.get_by_role("button").click()

    expect(page.locator("#news")).to_have_text("hello")
    assert errors == []


def test_a_signed_name_in_the_page_of_prices_receives_events(type_guide, page, errors):
    site = type_guide("docs/guides/http-transports.md")
    site.serve("python manage.py runserver")

    page.goto(f"{site.url()}/prices/")
    expect(page.locator("ul[data-open]")).to_be_attached()
    site.run(
        "python manage.py shell -c "
        '\'from prices.notify import price_changed; price_changed("tea", "4")\''
    )

    expect(page.locator("li")).to_have_text(["tea: 4"])
    assert errors == []
