"""Where topics endpoints are served over HTTP: by ``get_application`` and by hand."""

from __future__ import annotations

import pytest
from django.urls import path, re_path

from support.clients.asgi_client import Client
from support.clients.stream_client import JSON, ORIGIN, StreamClient, request
from tiderace.auth import AuthMiddlewareStack
from tiderace.consumer import AsyncConsumer
from tiderace.routing import ProtocolTypeRouter, URLRouter, get_application
from tiderace.topics import TopicsEndpoint


async def pages(scope, receive, send):
    """Stands for Django."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"page {scope['path']}".encode()})


class Chat(AsyncConsumer):
    """Serves no HTTP."""


ENDPOINT = path("connection/", TopicsEndpoint.as_asgi())


def built(*routes, **options):
    return get_application(list(routes), http=pages, middleware=None, **options)


async def connects(app, **options) -> bool:
    async with StreamClient(app, **options) as client:
        return "connect" in client.connected


async def page(app, where, **scope):
    return (await request(app, "GET", where, **scope)).body.decode()


async def test_an_endpoint_among_the_routes_is_served_over_http():
    assert await connects(built(ENDPOINT))


async def test_an_endpoint_with_a_call_of_its_own_is_served_by_it():
    class Endpoint(TopicsEndpoint):
        async def __call__(self, scope, receive, send):
            await pages(scope, receive, send)

    assert await page(Endpoint.as_asgi(), "/connection/events") == (
        "page /connection/events"
    )


async def test_other_paths_are_djangos():
    app = built(path("ws/chat/", Chat.as_asgi()), ENDPOINT)

    for where in ("/", "/ws/chat/", "/connection/", "/connection/more", "/connection"):
        assert await page(app, where) == f"page {where}"


async def test_requests_go_straight_to_django_without_an_endpoint():
    app = built(path("ws/chat/", Chat.as_asgi()))

    assert app.application_mapping["http"] is pages


async def test_an_endpoint_in_an_inner_router_is_found():
    inner = URLRouter([path("chat/", Chat.as_asgi()), ENDPOINT])
    app = built(path("rt/<int:tenant>/", inner))

    answer = await request(app, "POST", "/rt/7/connection/emulation", body=b"{}")
    assert answer.status == 400
    assert await page(app, "/rt/7/chat/") == "page /rt/7/chat/"
    assert await page(app, "/rt/x/connection/sse") == "page /rt/x/connection/sse"


async def test_a_router_of_another_framework_is_left_alone():
    class Foreign:
        routes = [object()]

        async def __call__(self, scope, receive, send):
            raise AssertionError("it serves WebSockets")

    app = built(path("other/", Foreign()), ENDPOINT)

    assert await page(app, "/other/") == "page /other/"


async def test_an_endpoint_within_middleware_is_found():
    app = built(path("connection/", AuthMiddlewareStack(TopicsEndpoint.as_asgi())))

    assert await connects(app)


async def test_an_endpoint_at_the_root_leaves_other_pages_to_django():
    app = built(path("", TopicsEndpoint.as_asgi()))

    answer = await request(app, "POST", "/emulation", body=b"{}")
    assert answer.status == 400
    for where in ("/", "/about/", "/api/articles", "/blog/sse"):
        assert await page(app, where) == f"page {where}"


async def test_a_route_by_regular_expression_is_served_too():
    app = built(re_path(r"^c(?:onnection)?/", TopicsEndpoint.as_asgi()))

    assert await connects(app)


async def test_a_site_under_a_prefix_is_served():
    app = built(ENDPOINT)

    answer = await request(
        app, "POST", "/site/connection/emulation", body=b"{}", root_path="/site"
    )

    assert answer.status == 400


async def test_a_site_under_a_script_name_is_served(settings):
    settings.FORCE_SCRIPT_NAME = "/site"
    app = built(ENDPOINT)

    answer = await request(app, "POST", "/site/connection/emulation", body=b"{}")

    assert answer.status == 400


async def test_the_origins_are_those_of_the_websockets():
    app = built(ENDPOINT, origins=["https://partner.example"])
    partner = ((b"origin", b"https://partner.example"), JSON)

    assert await connects(app, headers=partner)
    assert (await request(app, "POST", "/connection/http_stream")).status == 403


async def test_clients_without_an_origin_may_be_allowed():
    assert await connects(built(ENDPOINT, allow_missing_origin=True), headers=(JSON,))


@pytest.mark.django_db(transaction=True)
async def test_the_session_of_the_request_identifies_the_user(
    client, django_user_model
):
    user = await django_user_model.objects.acreate(username="ada")
    await client.aforce_login(user)
    cookie = f"sessionid={client.cookies['sessionid'].value}".encode()
    seen = []

    class Endpoint(TopicsEndpoint):
        async def on_connect(self, user, data):
            seen.append(user.pk)

    app = get_application([path("connection/", Endpoint.as_asgi())], http=pages)
    async with StreamClient(app, headers=(ORIGIN, JSON, (b"cookie", cookie))) as stream:
        # A client without the cookie is anonymous.
        anonymous = await stream.post("{}")

    assert seen == [user.pk]
    assert anonymous.status == 404


async def test_an_endpoint_mounted_by_hand_is_a_route():
    app = ProtocolTypeRouter(
        {
            "http": URLRouter(
                [
                    path("connection/", AuthMiddlewareStack(TopicsEndpoint.as_asgi())),
                    re_path(r"", pages),
                ]
            )
        }
    )

    assert await connects(app)
    assert await page(app, "/connection/other") == "page /connection/other"
    assert await page(app, "/") == "page /"


async def test_an_unknown_path_is_not_found():
    app = URLRouter([ENDPOINT])

    assert (await request(app, "GET", "/connection/other")).status == 404


async def test_websockets_are_served_as_before():
    client = Client(
        built(ENDPOINT), path="/connection/websocket", headers=[ORIGIN], subprotocols=[]
    )

    await client.connect()
    await client.leave()
