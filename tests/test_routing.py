"""Routers: by type, by path in any depth, by channel name; and refusals."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys

import pytest
import uvicorn
import uvloop
import websockets
from asgiref.testing import ApplicationCommunicator
from django.core.exceptions import ImproperlyConfigured
from django.http import Http404
from django.test import override_settings
from django.urls import include, path, re_path
from django.urls.exceptions import Resolver404
from django.urls.resolvers import LocalePrefixPattern, URLPattern
from django.utils import translation
from django.utils.functional import lazy

from tiderace.auth import AuthMiddlewareStack
from tiderace.consumer import AsyncConsumer
from tiderace.middleware import BaseMiddleware, ScopeMiddleware
from tiderace.routing import (
    ChannelNameRouter,
    NoRoute,
    ProtocolTypeRouter,
    URLRouter,
    get_application,
    get_default_application,
)
from tiderace.security.websocket import OriginValidator
from tiderace.topics import TopicsEndpoint


def app(name):
    """An application that answers with its name and the scope it was given."""

    async def application(scope, receive, send):
        return name, scope

    return application


async def ask(router, asked, **scope):
    """Call a router by hand, as tests of routes do: nobody to receive from."""
    return await router({"type": "websocket", "path": asked, **scope}, None, None)


async def name_for(router, asked, **scope):
    name, _ = await ask(router, asked, **scope)
    return name


async def route_for(router, asked, **scope):
    _, inner = await ask(router, asked, **scope)
    return inner["url_route"]


class Served(AsyncConsumer):
    """A consumer whose coroutine a test recognises."""

    async def __call__(self, scope, receive, send):
        return "served"


@pytest.mark.parametrize(
    ("served", "first"),
    [
        (Served.as_asgi(), Served.__call__),
        (AuthMiddlewareStack(Served.as_asgi()), ScopeMiddleware.__call__),
    ],
    ids=["alone", "with users"],
)
async def test_a_websocket_of_a_consumer_is_served_without_a_coroutine_of_the_router(
    served, first
):
    router = URLRouter([path("chat/", served)])
    scope = {"type": "websocket", "path": "/chat/", "headers": []}

    serving = router(scope, None, None)

    assert serving.cr_code is first.__code__
    assert await serving == "served"


# By type


async def test_each_type_has_its_application():
    router = ProtocolTypeRouter({"websocket": app("ws"), "http": app("http")})

    assert (await router({"type": "websocket"}, None, None))[0] == "ws"
    assert (await router({"type": "http"}, None, None))[0] == "http"


async def test_a_type_without_application_is_an_error():
    router = ProtocolTypeRouter({"http": app("http")})

    with pytest.raises(
        ValueError, match=r"^No application configured for scope type 'websocket'$"
    ):
        await router({"type": "websocket"}, None, None)


async def test_a_scope_without_a_type_is_a_key_error():
    with pytest.raises(KeyError):
        await ProtocolTypeRouter({})({}, None, None)


async def test_the_mapping_of_types_can_be_changed_later():
    mapping = {"http": app("http")}
    router = ProtocolTypeRouter(mapping)

    router.application_mapping["websocket"] = app("late")

    assert router.application_mapping is mapping
    assert (await router({"type": "websocket"}, None, None))[0] == "late"


# By path


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("/", "empty"),
        ("", "empty"),
        ("/chat/", "chat"),
        ("chat/", "chat"),
        ("//chat/", "chat"),
        ("/room/7/", "number"),
        ("/room/harbour/", "word"),
        ("/old/abc/", "regex"),
    ],
)
async def test_the_first_matching_route_serves(asked, name):
    router = URLRouter(
        [
            path("", app("empty")),
            path("chat/", app("chat")),
            path("room/<int:number>/", app("number")),
            path("room/<word>/", app("word")),
            re_path(r"^old/\w+/$", app("regex")),
        ]
    )

    assert await name_for(router, asked) == name


async def test_captured_values_are_in_the_scope():
    router = URLRouter([path("room/<word>/<int:page>/", app("room"))])

    assert await route_for(router, "/room/harbour/3/") == {
        "args": (),
        "kwargs": {"word": "harbour", "page": 3},
    }


async def test_unnamed_groups_of_a_regular_expression_are_args():
    router = URLRouter([re_path(r"^room/(\w+)/(\d+)/$", app("room"))])

    assert await route_for(router, "/room/harbour/3/") == {
        "args": ("harbour", "3"),
        "kwargs": {},
    }


async def test_named_groups_of_a_regular_expression_are_kwargs():
    router = URLRouter([re_path(r"^room/(?P<word>\w+)/$", app("room"))])

    route = await route_for(router, "/room/harbour/")

    assert route == {"args": (), "kwargs": {"word": "harbour"}}


async def test_default_kwargs_of_a_route_are_in_the_scope():
    router = URLRouter([path("room/<word>/", app("room"), kwargs={"page": 1})])

    route = await route_for(router, "/room/harbour/")

    assert route["kwargs"] == {"word": "harbour", "page": 1}


async def test_the_path_is_not_changed():
    router = URLRouter([path("chat/", app("chat"))])

    _, scope = await ask(router, "/chat/")

    assert scope["path"] == "/chat/"
    assert scope["path_remaining"] == ""


async def test_the_outer_scope_gets_no_route():
    router = URLRouter([path("chat/", app("chat"))])
    scope = {"type": "websocket", "path": "/chat/"}

    await router(scope, None, None)

    assert scope == {"type": "websocket", "path": "/chat/"}


async def test_a_scope_without_a_path_is_an_error():
    with pytest.raises(ValueError, match="No 'path' key in connection scope"):
        await URLRouter([])({"type": "websocket"}, None, None)


async def test_the_root_path_is_removed_before_matching():
    router = URLRouter([path("chat/", app("chat"))])

    assert await name_for(router, "/site/chat/", root_path="/site") == "chat"


@override_settings(FORCE_SCRIPT_NAME="/site")
@pytest.mark.parametrize("prefix", ["/site", ""], ids=["kept", "removed by a proxy"])
async def test_the_script_name_is_removed_before_matching(prefix):
    router = URLRouter([path("chat/", app("chat"))])

    assert await name_for(router, f"{prefix}/chat/") == "chat"


@override_settings(FORCE_SCRIPT_NAME="/site/")
async def test_a_path_that_only_begins_like_the_script_name_is_left_whole():
    router = URLRouter([path("sites/", app("sites"))])

    assert await name_for(router, "/sites/") == "sites"


async def test_a_path_outside_the_root_path_has_no_route():
    router = URLRouter([path("chat/", app("chat"))])

    with pytest.raises(ValueError, match="No route found for path '/chat/'"):
        await ask(router, "/chat/", root_path="/site")


async def test_without_a_route_a_call_by_hand_is_an_error():
    router = URLRouter([path("chat/", app("chat"))])

    with pytest.raises(ValueError, match=r"^No route found for path 'nowhere/'\.$"):
        await ask(router, "/nowhere/")


def test_the_router_uses_the_given_list_of_routes():
    routes = [path("chat/", app("chat"))]

    assert URLRouter(routes).routes is routes


async def test_a_route_added_later_is_served():
    router = URLRouter([])

    router.routes.append(path("late/", URLRouter([path("er/", app("later"))])))

    assert await name_for(router, "/late/er/") == "later"


def test_the_error_for_include_contains_the_alternative():
    with pytest.raises(ImproperlyConfigured, match="Use nested URLRouter instances"):
        URLRouter([path("chat/", include([path("x/", app("x"))]))])


def test_a_consumer_class_without_as_asgi_is_refused():
    class ChatConsumer:
        @classmethod
        def as_asgi(cls):
            return app("chat")

    with pytest.raises(ImproperlyConfigured) as error:
        URLRouter([path("ws/chat/", ChatConsumer)])

    assert "'ws/chat/'" in str(error.value)
    assert "write ChatConsumer.as_asgi()" in str(error.value)


def test_an_endpoint_instance_as_a_route_is_refused():
    with pytest.raises(ImproperlyConfigured) as error:
        URLRouter([path("connection/", TopicsEndpoint())])

    assert "'connection/' names an instance of TopicsEndpoint;" in str(error.value)
    assert "write TopicsEndpoint.as_asgi()" in str(error.value)


@pytest.mark.parametrize(
    ("route", "written"),
    [
        (path("/ws/chat/", app("x")), "write 'ws/chat/'"),
        (re_path(r"^/ws/chat/$", app("x")), "write '^ws/chat/$'"),
        (path("/ws/", URLRouter([path("a/", app("a"))])), "write 'ws/'"),
    ],
)
def test_a_route_that_begins_with_a_slash_is_refused(route, written):
    with pytest.raises(ImproperlyConfigured, match="begins with a slash") as error:
        URLRouter([route])

    assert written in str(error.value)


@pytest.mark.parametrize("pattern", [r"^/?ws/$", r"^/x|ws/$", r"/ws/"])
async def test_a_regular_expression_with_a_slash_that_can_match_is_accepted(pattern):
    router = URLRouter([re_path(pattern, app("ws"))])

    assert await name_for(router, "/x/ws/" if pattern[0] == "/" else "/ws/") == "ws"


def test_a_single_route_without_a_list_is_refused():
    with pytest.raises(ImproperlyConfigured, match=r"write a list.*\[path") as error:
        get_application(path("chat/", app("chat")), middleware=None)

    assert "single route" in str(error.value)
    assert "'chat/'" in str(error.value)


def test_a_pattern_that_cannot_precede_a_router_is_refused():
    route = URLPattern(LocalePrefixPattern(), URLRouter([]))

    with pytest.raises(ValueError, match="Unsupported pattern type"):
        URLRouter([route])


async def test_such_a_pattern_can_precede_an_application():
    router = URLRouter([URLPattern(LocalePrefixPattern(), app("chat"))])

    assert await name_for(router, "/en-us/") == "chat"


# Routers in routers


async def test_an_inner_router_sees_the_rest_of_the_path():
    router = URLRouter(
        [
            path("chat/", URLRouter([path("<room>/", app("room"))])),
            re_path(r"^game/", URLRouter([re_path(r"^(\d+)/$", app("game"))])),
        ]
    )

    assert await route_for(router, "/chat/harbour/") == {
        "args": (),
        "kwargs": {"room": "harbour"},
    }
    assert await route_for(router, "/game/7/") == {"args": ("7",), "kwargs": {}}


async def test_captured_values_of_nested_routers_are_merged():
    inner = URLRouter([re_path(r"^(\w+)/(?P<page>\d+)/$", app("x"), {"kind": "in"})])
    middle = URLRouter([path("<name>/", inner)])
    router = URLRouter([re_path(r"^(\w+)/", middle, {"kind": "out", "site": 1})])

    _, scope = await ask(router, "/a/b/c/4/")

    assert scope["url_route"]["args"] == ("a",)
    assert scope["url_route"]["kwargs"] == {
        "kind": "in",
        "site": 1,
        "name": "b",
        "page": "4",
    }


async def test_an_outer_router_continues_when_an_inner_one_has_no_route():
    router = URLRouter(
        [
            path("", URLRouter([path("a/", app("a"))])),
            path("b/", app("b")),
            path("", URLRouter([path("c/", app("c"))])),
        ]
    )

    assert await name_for(router, "/a/") == "a"
    assert await name_for(router, "/b/") == "b"
    assert await name_for(router, "/c/") == "c"


async def test_an_inner_router_without_a_route_raises_resolver404():
    router = URLRouter([path("a/", app("a"))])

    with pytest.raises(Resolver404) as error:
        await ask(router, "/x/b/", path_remaining="b/")

    assert isinstance(error.value, NoRoute)
    assert isinstance(error.value, Http404)


async def test_the_error_for_a_missing_route_contains_the_whole_path():
    router = URLRouter([path("a/", URLRouter([path("b/", app("b"))]))])

    with pytest.raises(ValueError, match="No route found for path 'a/c/'"):
        await ask(router, "/a/c/")


async def test_the_root_path_is_removed_once():
    router = URLRouter([path("a/", URLRouter([path("a/", app("deep"))]))])

    assert await name_for(router, "/a/a/a/", root_path="/a") == "deep"


async def test_a_resolver404_of_the_application_propagates():
    async def broken(scope, receive, send):
        raise Resolver404("from inside")

    outer = URLRouter(
        [path("a/", URLRouter([path("b/", broken)])), path("a/b/", app("other"))]
    )

    with pytest.raises(Resolver404, match="from inside"):
        await ask(outer, "/a/b/")


async def test_a_router_of_another_package_is_detected_by_its_attribute():
    class Foreign:
        _path_routing = True

        async def __call__(self, scope, receive, send):
            if scope["path_remaining"] != "here/":
                raise Resolver404
            return "foreign", scope

    router = URLRouter([path("f/", Foreign()), path("f/there/", app("ours"))])

    assert await name_for(router, "/f/here/") == "foreign"
    assert await name_for(router, "/f/there/") == "ours"


class Marked(BaseMiddleware):
    pass


@pytest.mark.parametrize(
    "wrap",
    [
        Marked,
        lambda inner: Marked(Marked(inner)),
        lambda inner: OriginValidator(inner, ["*"]),
    ],
)
async def test_middleware_between_two_routers_can_follow_a_path(wrap):
    router = URLRouter(
        [
            path("a/", wrap(URLRouter([path("<word>/", app("inner"))]))),
            path("a/b/c/", app("outer")),
        ]
    )

    assert await name_for(router, "/a/b/") == "inner"
    assert await name_for(router, "/a/b/c/") == "outer"


async def test_middleware_in_a_circle_is_no_router():
    circle = Marked(None)
    circle.inner = circle

    router = URLRouter([path("a/", circle)])

    with pytest.raises(ValueError, match="No route found"):
        await ask(router, "/a/b/")


async def test_two_routers_can_share_a_list_of_routes():
    inner = URLRouter([path("<word>/", app("inner"))])
    routes = [path("a/", inner)]
    pattern = routes[0].pattern

    first, second = URLRouter(routes), URLRouter(routes)

    assert await name_for(first, "/a/b/") == "inner"
    assert await name_for(second, "/a/b/") == "inner"
    assert routes[0].pattern is pattern


async def test_a_route_replaced_in_the_list_uses_its_own_pattern():
    inner = URLRouter([path("<word>/", app("inner"))])
    router = URLRouter([path("a/", inner)])

    router.routes[0].pattern = path("b/", inner).pattern

    assert await name_for(router, "/b/x/") == "inner"
    with pytest.raises(ValueError, match="No route found"):
        await ask(router, "/a/x/")


async def test_a_translated_route_is_matched_in_the_active_language():
    translated = lazy(
        lambda: "plausch/" if translation.get_language() == "de" else "chat/", str
    )
    router = URLRouter([path(translated(), URLRouter([path("x/", app("x"))]))])

    assert await name_for(router, "/chat/x/") == "x"
    with translation.override("de"):
        assert await name_for(router, "/plausch/x/") == "x"


# Refusals


def connection(kind, asked, **extra):
    return {
        "type": kind,
        "path": asked,
        "headers": [],
        "client": ("10.0.0.7", 5000),
        **extra,
    }


async def events_of(application, scope) -> list[dict]:
    """Return the events that a client gets which connects and waits for the end."""
    communicator = ApplicationCommunicator(application, scope)
    start = "http.request" if scope["type"] == "http" else "websocket.connect"
    await communicator.send_input({"type": start})
    await communicator.wait(timeout=1)
    events = []
    while not communicator.output_queue.empty():
        events.append(communicator.output_queue.get_nowait())
    return events


CHAT = [path("ws/chat/<room>/", app("chat"))]
DENIAL = {"websocket.http.response": {}}


async def test_a_websocket_without_a_route_gets_404_if_the_server_supports_it():
    scope = connection("websocket", "/ws/nowhere/", extensions=DENIAL)

    start, body = await events_of(URLRouter(CHAT), scope)

    assert start["type"] == "websocket.http.response.start"
    assert start["status"] == 404
    assert body == {"type": "websocket.http.response.body", "body": b"Not Found"}


@pytest.mark.parametrize("extensions", [{}, {"extensions": {}}, {"extensions": None}])
async def test_a_websocket_without_a_route_is_closed_on_other_servers(extensions):
    scope = connection("websocket", "/ws/nowhere/", **extensions)

    events = await events_of(URLRouter(CHAT), scope)

    assert events == [{"type": "websocket.close"}]


@pytest.mark.servers
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_under_uvicorn_a_refusal_is_one_line_in_the_log_too(loop, caplog):
    caplog.set_level(logging.INFO)
    config = uvicorn.Config(URLRouter(CHAT), log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    async def refuse_one():
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with websockets.connect(f"ws://127.0.0.1:{port}/ws/nowhere/"):
                raise AssertionError("accepted")
        except websockets.InvalidStatus as refusal:
            return refusal.response.status_code
        finally:
            server.should_exit = True
            await serving

    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        status = runner.run(refuse_one())

    assert status == 404
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in loud] == ["tiderace.routing"]


async def test_an_adapter_catches_a_missing_route_and_tries_another_router():
    first, second = URLRouter(CHAT), URLRouter([path("ws/news/", app("news"))])

    async def first_that_matches(scope, receive, send):
        try:
            return await first(scope, receive, send)
        except ValueError:
            return await second(scope, receive, send)

    application = ProtocolTypeRouter({"websocket": first_that_matches})

    assert await name_for(application, "/ws/news/") == "news"


async def test_an_exit_in_a_constructor_is_an_error_of_its_connection():
    class Exiting(AsyncConsumer):
        def __init__(self):
            sys.exit("not this way")

    application = ProtocolTypeRouter({"websocket": Exiting.as_asgi()})

    with pytest.raises(RuntimeError, match="not this way"):
        await application(connection("websocket", "/"), None, None)


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_protocol_router_answers_a_missing_route_with_404(kind, caplog):
    application = ProtocolTypeRouter({kind: Marked(URLRouter(CHAT))})

    start, _ = await events_of(
        application, connection(kind, "/ws/nowhere/", extensions=DENIAL)
    )

    assert start["status"] == 404
    (record,) = caplog.records
    assert record.name == "tiderace.routing"


async def test_a_disconnected_client_gets_no_response():
    communicator = ApplicationCommunicator(
        URLRouter(CHAT), connection("websocket", "/ws/nowhere/")
    )
    await communicator.send_input({"type": "websocket.disconnect", "code": 1006})

    await communicator.wait(timeout=1)

    assert await communicator.receive_nothing()


async def test_a_request_without_a_route_is_answered_404():
    start, body = await events_of(URLRouter(CHAT), connection("http", "/nowhere/"))

    assert (start["type"], start["status"]) == ("http.response.start", 404)
    assert body["body"] == b"Not Found"


async def test_a_path_outside_the_root_path_is_answered_404():
    scope = connection("http", "/ws/chat/x/", root_path="/site")

    start, _ = await events_of(URLRouter(CHAT), scope)

    assert start["status"] == 404


async def test_another_type_without_a_route_is_an_error():
    async def nothing(event):
        raise AssertionError("nobody listens")

    with pytest.raises(ValueError, match="No route found"):
        await URLRouter(CHAT)({"type": "mqtt", "path": "/x/"}, None, nothing)


async def log_line(caplog, routes, asked, kind="websocket") -> str:
    caplog.set_level(logging.DEBUG, logger="tiderace")
    await events_of(URLRouter(routes), connection(kind, asked))
    (record,) = caplog.records
    assert record.name == "tiderace.routing"
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    return record.getMessage()


async def test_a_refusal_is_one_line_with_the_path_and_the_routes(caplog):
    nested = path("api/", Marked(URLRouter([re_path(r"^v(\d)/$", app("v"))])))

    line = await log_line(caplog, [*CHAT, nested], "/ws/nowhere/")

    assert line == (
        "no route for websocket path '/ws/nowhere/' from 10.0.0.7:5000 "
        r"(declared: ws/chat/<room>/, api/v(\d)/$)"
    )


async def test_a_missing_slash_is_mentioned_in_the_log(caplog):
    line = await log_line(caplog, CHAT, "/ws/chat/harbour")

    assert "a route matches it with a slash at the end" in line


async def test_the_log_names_the_path_for_a_topic_client_at_another_path(caplog):
    routes = [*CHAT, path("ws/topics/", TopicsEndpoint.as_asgi())]

    line = await log_line(caplog, routes, "/connection/websocket")

    assert '; write {% tiderace_script topics="/ws/topics/" %} (declared' in line


async def test_a_client_of_topics_without_an_endpoint_is_mentioned_in_the_log(caplog):
    line = await log_line(caplog, CHAT, "/connection/websocket")

    assert 'add path("connection/", TopicsEndpoint.as_asgi()) to the routes' in line


async def test_a_router_without_routes_is_mentioned_in_the_log(caplog):
    assert "(declared: none)" in await log_line(caplog, [], "/x/", kind="http")


async def test_a_long_list_of_routes_is_shortened_in_the_log(caplog):
    routes = [path(f"room/{number}/", app("room")) for number in range(20)]

    line = await log_line(caplog, routes, "/x/")

    assert "room/7/ and 12 more)" in line
    assert "room/8/" not in line


async def test_a_client_cannot_add_a_second_line_to_the_log(caplog):
    line = await log_line(caplog, CHAT, "/x\nforged " + "x" * 10_000)

    assert "\n" not in line
    assert len(line) < 500


async def test_a_served_connection_is_not_logged(caplog):
    caplog.set_level(logging.DEBUG, logger="tiderace")

    await ask(URLRouter(CHAT), "/ws/chat/harbour/")

    assert caplog.records == []


# By channel


async def test_each_channel_has_its_application():
    mapping = {"thumbnails": app("thumbnails")}
    router = ChannelNameRouter(mapping)

    name, _ = await router({"type": "channel", "channel": "thumbnails"}, None, None)

    assert name == "thumbnails"
    assert router.application_mapping is mapping


async def test_a_channel_without_application_is_an_error():
    with pytest.raises(
        ValueError, match=r"^No application configured for channel name 'mail'$"
    ):
        await ChannelNameRouter({})({"type": "channel", "channel": "mail"}, None, None)


async def test_a_scope_without_a_channel_is_an_error():
    with pytest.raises(ValueError, match="without a 'channel' key"):
        await ChannelNameRouter({})({"type": "websocket"}, None, None)


# The application that the settings name


def test_the_application_that_the_settings_name_is_imported(settings):
    settings.ASGI_APPLICATION = "test_routing.CHAT"

    assert get_default_application() is CHAT


@pytest.mark.parametrize("value", [None, "no_dot"])
def test_a_missing_setting_is_improperly_configured(settings, value):
    settings.ASGI_APPLICATION = value

    with pytest.raises(ImproperlyConfigured, match="Cannot find ASGI_APPLICATION"):
        get_default_application()


def test_no_setting_at_all_is_improperly_configured(settings):
    del settings.ASGI_APPLICATION

    with pytest.raises(ImproperlyConfigured, match="Cannot find ASGI_APPLICATION"):
        get_default_application()


def test_a_missing_module_is_improperly_configured(settings):
    settings.ASGI_APPLICATION = "nowhere.application"

    with pytest.raises(
        ImproperlyConfigured, match="Cannot import ASGI_APPLICATION module 'nowhere'"
    ):
        get_default_application()


def test_a_missing_name_is_improperly_configured(settings):
    settings.ASGI_APPLICATION = "test_routing.application"

    with pytest.raises(
        ImproperlyConfigured,
        match="Cannot find 'application' in ASGI_APPLICATION module test_routing",
    ):
        get_default_application()
