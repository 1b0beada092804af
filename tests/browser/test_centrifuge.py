"""Another client of the protocol, npm's centrifuge, in Chromium.

On a page of another origin than the server's, as a site's own page may be; and on a
page of the demo's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Page

from conformance.process import ConformanceProcess
from support.demo_process import DemoProcess
from support.sdk_javascript import PACKAGE, SCENARIOS, names

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

TRANSPORTS = ["websocket", "http_stream", "sse"]
FILES = {
    "/": ("text/html", SCENARIOS.parent / "page.html"),
    "/centrifuge.js": ("text/javascript", PACKAGE / "dist/centrifuge.js"),
    "/scenarios.mjs": ("text/javascript", SCENARIOS),
}
PLAY = """
async ([http, transport, group, scenarios]) => {
  const module = await import(scenarios);
  const [endpoint, more] = module.way(http, transport);
  const make = (options) => new Centrifuge(endpoint, { ...more, ...options });
  const api = (method, params) => window.api(method, params);
  // A browser has six connections to a server, and over HTTP a client takes one.
  const atOnce = transport === "websocket" ? Infinity : 1;
  return module.play(module[group], () => new module.World({ make, api }), atOnce);
}
"""

Results = dict[str, str | None]
NewContext = Callable[..., Any]


class Pages(BaseHTTPRequestHandler):
    """The package's own file, the scenarios, and a page for them."""

    def do_GET(self) -> None:
        kind, file = FILES.get(self.path, (None, None))
        if file is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("content-type", str(kind))
        # The demo's page may fetch it too.
        self.send_header("access-control-allow-origin", "*")
        self.end_headers()
        self.wfile.write(file.read_bytes())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """The address of the page."""
    if not PACKAGE.exists():
        pytest.skip(f"{PACKAGE} is not there; run npm ci in clients/js")
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[ConformanceProcess]:
    with ConformanceProcess() as process:
        yield process


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with DemoProcess(tmp_path_factory.mktemp("demo")) as process:
        yield process


@pytest.fixture(scope="module", params=TRANSPORTS)
def played(
    browser: Any,
    pages: str,
    server: ConformanceProcess,
    request: pytest.FixtureRequest,
) -> Iterator[Results]:
    """What became of each scenario on a page of another origin."""
    context = browser.new_context()
    page: Page = context.new_page()
    page.expose_function("api", lambda method, params: server.call(method, **params))
    page.goto(pages)
    arguments = [server.http, request.param, "scenarios", "/scenarios.mjs"]
    yield page.evaluate(PLAY, arguments)
    context.close()


@pytest.fixture(scope="module", params=TRANSPORTS)
def played_on_the_demo(
    browser: Any, pages: str, demo: DemoProcess, request: pytest.FixtureRequest
) -> Iterator[Results]:
    """What became of each scenario on a page of the demo's."""
    # The demo lets no script of others in; that it may come in is not its promise.
    context = browser.new_context(bypass_csp=True)
    page: Page = context.new_page()
    page.goto(f"{demo.url}/login/")
    page.add_script_tag(url=f"{pages}/centrifuge.js")
    arguments = [demo.url, request.param, "onTheDemo", f"{pages}/scenarios.mjs"]
    yield page.evaluate(PLAY, arguments)
    context.close()


@pytest.mark.parametrize("name", names("scenarios"))
def test_on_a_page_of_another_origin(played: Results, name: str) -> None:
    assert played[name] is None, played[name]


@pytest.mark.parametrize("name", names("onTheDemo"))
def test_on_a_page_of_the_demo(played_on_the_demo: Results, name: str) -> None:
    assert played_on_the_demo[name] is None, played_on_the_demo[name]
