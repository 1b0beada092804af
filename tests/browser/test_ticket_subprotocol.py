"""A ticket as a subprotocol in a real browser, which is strict about the answer."""

from __future__ import annotations

import json

import pytest

from support.servers.asgi_process import AsgiProcess

pytestmark = pytest.mark.browser

OPEN = """
async ([url, protocols]) => {
    const socket = new WebSocket(url, protocols);
    return await new Promise((resolve) => {
        socket.onopen = () => socket.send("?");
        socket.onmessage = (event) => resolve([socket.protocol, event.data]);
        socket.onclose = (event) => resolve(["closed", String(event.code)]);
    });
}
"""


@pytest.fixture(scope="module")
def site():
    with AsgiProcess("uvicorn", "sites.ticket_site:application") as process:
        yield process


def test_a_browser_connects_with_a_ticket_beside_our_subprotocol(site, new_context):
    page = new_context().new_page()

    chosen, answer = page.evaluate(
        OPEN, [site.ws, ["tiderace", "tiderace.ticket.hush-good"]]
    )

    assert chosen == "tiderace"
    assert "hush" not in answer
    assert json.loads(answer)["user"] == "ada"


def test_a_browser_drops_a_connection_that_names_none_of_its_subprotocols(
    site, new_context
):
    """Why ours has to be offered too, and why the log says so."""
    page = new_context().new_page()

    said = page.evaluate(OPEN, [site.ws, ["tiderace.ticket.hush-good"]])

    assert said == ["closed", "1006"]
    assert "drop the connection" in site.output()
    assert "hush" not in site.output()
