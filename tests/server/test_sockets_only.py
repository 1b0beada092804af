"""The sockets of a project without its pages, as ``tiderace_serve`` serves them."""

from __future__ import annotations

import logging

import pytest
from django.core.asgi import get_asgi_application
from django.test import override_settings
from django.urls import path, re_path

from tiderace.auth import AuthMiddlewareStack
from tiderace.generic.http import AsyncHttpConsumer
from tiderace.generic.websocket import AsyncWebsocketConsumer
from tiderace.health import Health
from tiderace.routing import ProtocolTypeRouter, URLRouter, get_application
from tiderace.server.sockets_only import SocketsOnly, default_application
from tiderace.testing import HttpCommunicator, WebsocketCommunicator
from tiderace.topics import TopicsEndpoint


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)


class Hello(AsyncHttpConsumer):
    async def handle(self, body):
        await self.send_response(200, b"hello")


websocket_urlpatterns = [
    path("ws/echo/", Echo.as_asgi()),
    path("connection/", TopicsEndpoint.as_asgi()),
]


def built():
    """An application as get_application() makes it, without users."""
    return get_application(websocket_urlpatterns, middleware=None, origins=["*"])


async def status(application, asked, method="GET"):
    request = HttpCommunicator(
        application, method, asked, headers=[(b"host", b"testserver")]
    )
    return (await request.get_response())["status"]


async def echo(application, asked):
    """Return the reply of the WebSocket at ``asked``, None if it is refused."""
    socket = WebsocketCommunicator(application, asked)
    connected, _ = await socket.connect()
    if not connected:
        return None
    await socket.send_to(text_data="hello")
    answer = await socket.receive_from()
    await socket.disconnect()
    return answer


@pytest.mark.parametrize("asked", ["/", "/admin/", "/connection/", "/ws/echo/"])
async def test_a_page_is_answered_with_404(asked):
    assert await status(SocketsOnly(built()), asked) == 404


async def test_a_websocket_is_served():
    assert await echo(SocketsOnly(built()), "/ws/echo/") == "hello"


async def test_the_http_transports_of_topics_are_served():
    # 400 is the endpoint's own answer to a request without commands.
    assert await status(SocketsOnly(built()), "/connection/sse") == 400


@pytest.mark.parametrize("probe", ["/healthz", "/readyz"])
async def test_probes_are_answered(probe):
    assert await status(SocketsOnly(built()), probe) == 200


async def test_probes_at_other_paths_of_the_project_are_answered():
    pages = Health(get_asgi_application(), live="/live", ready="/ready")

    assert (
        await status(SocketsOnly(ProtocolTypeRouter({"http": pages})), "/live") == 200
    )


def by_hand(*routes):
    pages = re_path(r"", get_asgi_application())
    return SocketsOnly(ProtocolTypeRouter({"http": URLRouter([*routes, pages])}))


async def test_a_consumer_among_the_http_routes_is_served():
    nested = AuthMiddlewareStack(URLRouter([path("hello/", Hello.as_asgi())]))
    application = by_hand(path("api/", nested))

    assert await status(application, "/api/hello/") == 200
    assert await status(application, "/api/other/") == 404


async def test_an_endpoint_among_the_http_routes_is_served():
    application = by_hand(path("connection/", TopicsEndpoint.as_asgi()))

    assert await status(application, "/connection/sse") == 400


async def test_a_consumer_behind_a_route_to_pages_is_not_reached():
    application = by_hand(
        re_path(r"^api/", get_asgi_application()), path("api/hello/", Hello.as_asgi())
    )

    assert await status(application, "/api/hello/") == 404


async def test_an_application_of_an_unknown_kind_serves_no_page():
    async def framework(scope, receive, send):
        raise AssertionError("it was called")

    application = SocketsOnly(ProtocolTypeRouter({"http": framework}))

    assert await status(application, "/") == 404


async def test_below_a_prefix_the_routes_are_the_same():
    application = SocketsOnly(built(), "/live")

    assert await echo(application, "/live/ws/echo/") == "hello"
    assert await status(application, "/live/connection/sse") == 400


async def test_outside_the_prefix_nothing_but_probes_is_served():
    application = SocketsOnly(built(), "/live")

    assert await echo(application, "/ws/echo/") is None
    assert await status(application, "/connection/sse") == 404
    assert await status(application, "/readyz") == 200


@override_settings(FORCE_SCRIPT_NAME="/shop")
@pytest.mark.parametrize("asked", ["/shop/live/ws/echo/", "/live/ws/echo/"])
async def test_the_prefix_is_below_that_of_the_site(asked):
    assert await echo(SocketsOnly(built(), "/live"), asked) == "hello"


@override_settings(DEBUG=True)
async def test_in_development_the_log_says_that_no_page_is_served(caplog):
    await status(SocketsOnly(built()), "/admin/")

    [record] = caplog.records
    assert (record.name, record.levelno) == ("tiderace.routing", logging.WARNING)
    assert "http path '/admin/'" in record.getMessage()
    assert "the site's own server has the pages" in record.getMessage()


@override_settings(DEBUG=False)
async def test_in_production_requests_for_pages_are_not_logged(caplog):
    await status(SocketsOnly(built()), "/admin/")

    assert not caplog.records


@override_settings(ASGI_APPLICATION="sites.live_site.application")
async def test_the_default_application_is_that_of_the_settings():
    application = default_application("/live")

    assert await echo(application, "/live/ws/echo/") == "hello"
    assert await status(application, "/hello/") == 404
