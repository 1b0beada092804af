"""The npm client ``centrifuge`` in Chromium, on a page of another origin and on the demo's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Page

from conformance.process import ConformanceProcess
from support.clients.sdk_javascript import PACKAGE, SCENARIOS, names
from support.servers.demo_process import DemoProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

TRANSPORTS = ["websocket", "http_stream", "sse"]
FILES = {
    "/": ("text/html", SCENARIOS.parent / "page.html"),
    "/centrifuge.js": ("text/javascript", PACKAGE / "dist/centrifuge.js"),
    "/scenarios.mjs": ("text/javascript", SCENARIOS),
}
RUN = """
async ([http, transport, group, scenarios]) => {
  const module = await import(scenarios);
  const [url, more] = module.endpoint(http, transport);
  const createClient = (options) => new Centrifuge(url, { ...more, ...options });
  const api = (method, params) => window.api(method, params);
  const createContext = () => new module.ScenarioContext({ createClient, api });
  // A browser opens six connections to a server; over HTTP a client keeps one open.
  const concurrency = transport === "websocket" ? Infinity : 1;
  return module.run(module[group], createContext, concurrency);
}
"""

Results = dict[str, str | None]
NewContext = Callable[..., Any]


class PageHandler(BaseHTTPRequestHandler):
    """Serves the package, the scenarios and a page that loads them."""

    def do_GET(self) -> None:
        kind, file = FILES.get(self.path, (None, None))
        if file is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("content-type", str(kind))
        # The demo's page, of another origin, reads the response.
        self.send_header("access-control-allow-origin", "*")
        self.end_headers()
        self.wfile.write(file.read_bytes())

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """The URL of the page."""
    if not PACKAGE.exists():
        pytest.skip(f"{PACKAGE} does not exist; run npm ci in clients/js")
    with ThreadingHTTPServer(("127.0.0.1", 0), PageHandler) as site:
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
def results(
    browser: Any,
    pages: str,
    server: ConformanceProcess,
    request: pytest.FixtureRequest,
) -> Iterator[Results]:
    """The results on a page of another origin."""
    context = browser.new_context()
    page: Page = context.new_page()
    page.expose_function("api", lambda method, params: server.call(method, **params))
    page.goto(pages)
    arguments = [server.http, request.param, "scenarios", "/scenarios.mjs"]
    yield page.evaluate(RUN, arguments)
    context.close()


@pytest.fixture(scope="module", params=TRANSPORTS)
def demo_results(
    browser: Any, pages: str, demo: DemoProcess, request: pytest.FixtureRequest
) -> Iterator[Results]:
    """The results on a page of the demo."""
    # The demo's content security policy forbids scripts of other origins.
    context = browser.new_context(bypass_csp=True)
    visitor = demo.visitor().log_in("alice")
    context.add_cookies(
        [
            {"name": name, "value": value, "url": demo.url}
            for name, value in visitor.http.cookies.items()
        ]
    )
    visitor.close()
    page: Page = context.new_page()
    page.goto(f"{demo.url}/notify/")
    page.add_script_tag(url=f"{pages}/centrifuge.js")
    arguments = [demo.url, request.param, "demoScenarios", f"{pages}/scenarios.mjs"]
    yield page.evaluate(RUN, arguments)
    context.close()


@pytest.mark.parametrize("name", names("scenarios"))
def test_on_a_page_of_another_origin(results: Results, name: str) -> None:
    assert results[name] is None, results[name]


@pytest.mark.parametrize("name", names("demoScenarios"))
def test_on_a_page_of_the_demo(demo_results: Results, name: str) -> None:
    assert demo_results[name] is None, demo_results[name]
