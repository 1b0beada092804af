"""A topic as events in a real browser, which comes back after a deploy by itself."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.servers.asgi_process import AsgiProcess
from support.servers.brokers import Server
from support.servers.ports import free_port
from tiderace.json_compat import to_json
from tiderace.layers import Retention
from tiderace.layers.redis import RedisChannelLayer
from tiderace.topics.names import topic_group

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

KEEP = Retention(50, 60)

LISTEN = """(since) => {
  window.heard = [];
  window.opened = 0;
  const source = new EventSource(`/connection/events?topic=room:a&since=${since}`);
  source.onopen = () => { window.opened += 1; };
  source.onmessage = (event) => window.heard.push(event.data);
  source.addEventListener("price", (event) => window.heard.push(`price ${event.data}`));
  source.addEventListener("reset", () => window.heard.push("reset"));
}"""


@pytest.fixture
def broker():
    with Server() as server:
        yield server


def site(broker, port):
    options = {"redis": broker.url, "tiderace": {"DRAIN_SECONDS": 0}}
    env = {"TRANSPORTS_SITE": json.dumps(options)}
    return AsgiProcess(
        "uvicorn", "sites.transports_site:application", env=env, port=port
    )


def in_thread(function):
    """Call ``function`` in a thread without Playwright's running event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def say(broker, data, **tags):
    record = {"data": to_json(data), "tags": tags, "topic": "room:a"}

    def publish():
        layer = RedisChannelLayer(hosts=[broker.url], prefix="transports")
        layer.sync.stream_publish(topic_group("room:a"), record, keep=KEEP)

    in_thread(publish)


def position(broker):
    """Return the position of the topic, as a page carries it."""

    def read():
        layer = RedisChannelLayer(hosts=[broker.url], prefix="transports")
        return layer.sync.stream_read(topic_group("room:a"), keep=KEEP, limit=0)[0]

    top = in_thread(read)
    return f"{top.epoch}:{top.offset}"


def test_a_browser_gets_what_was_published_while_the_server_restarted(page, broker):
    port = free_port()
    with site(broker, port) as server:
        page.goto(f"{server.http}/")
        page.evaluate(LISTEN, position(broker))
        page.wait_for_function("window.opened === 1")
        say(broker, "<b>größer</b>\n<i>2</i>")
        page.wait_for_function("window.heard.length === 1")
        server.terminate()
    say(broker, {"missed": True})
    say(broker, 7, event="price")
    with site(broker, port):
        page.wait_for_function("window.heard.length === 3")

        assert page.evaluate("window.heard") == [
            "<b>größer</b>\n<i>2</i>",
            '{"missed":true}',
            "price 7",
        ]


def test_a_browser_without_an_event_yet_misses_nothing_either(page, broker):
    port = free_port()
    with site(broker, port) as server:
        page.goto(f"{server.http}/")
        page.evaluate(LISTEN, position(broker))
        page.wait_for_function("window.opened === 1")
        server.terminate()
    say(broker, 1)
    with site(broker, port):
        page.wait_for_function("window.heard.length === 1")

        assert page.evaluate("window.heard") == ["1"]
