"""Tests of ``get_application()``, and of imports without settings."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import LazySettings, settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.http import StreamingHttpResponse
from django.test import override_settings
from django.urls import path

from support.paths import TESTS
from tiderace.auth import AuthMiddlewareStack
from tiderace.middleware import BaseMiddleware
from tiderace.routing import (
    ChannelNameRouter,
    ProtocolTypeRouter,
    URLRouter,
    get_application,
)
from tiderace.security.websocket import OriginValidator
from tiderace.testing import HttpCommunicator


async def echo_user(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept", "subprotocol": None})
    await send({"type": "websocket.send", "text": str(scope.get("user"))})


async def greet_over_http(scope, receive, send):
    return "http"


class Marking(BaseMiddleware):
    pass


websocket_urlpatterns = [path("ws/echo/", echo_user)]
more_urlpatterns = [path("ws/more/", echo_user)]
thumbnails = {"thumbnails": greet_over_http}
not_routes = 7
strange_routes = [echo_user]


async def connect(application, asked="/ws/echo/", origin="http://testserver"):
    headers = [(b"host", b"testserver")]
    if origin:
        headers.append((b"origin", origin.encode()))
    scope = {"type": "websocket", "path": asked, "headers": headers}
    communicator = ApplicationCommunicator(application, scope)
    await communicator.send_input({"type": "websocket.connect"})
    return communicator, await communicator.receive_output()


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that knows of no settings but those given."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "DJANGO_SETTINGS_MODULE"
    }
    roots = [environment.pop("PYTHONPATH", ""), str(TESTS), *sys.path]
    search = os.pathsep.join(root for root in roots if root)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=TESTS,
        env={**inherited, **environment, "PYTHONPATH": search},
    )


def test_the_entry_modules_can_be_imported_without_settings():
    code = """
import importlib
from django.conf import settings
from django.apps import apps
for name in ("db", "middleware", "sessions", "auth", "routing",
             "security.websocket", "runtime.lifespan", "dotted_path"):
    importlib.import_module(f"tiderace.{name}")
    assert not settings.configured, name
    assert not apps.ready, name
print("fine")
"""
    done = python(code)

    assert done.stdout == "fine\n", done.stderr


def test_an_asgi_file_can_import_everything_before_it_names_its_settings():
    code = """
from tiderace.auth import AuthMiddlewareStack
from tiderace.routing import ProtocolTypeRouter, URLRouter
from tiderace.security.websocket import AllowedHostsOriginValidator
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.asgi import get_asgi_application
application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter([]))),
})
print("fine")
"""
    done = python(code)

    assert done.stdout == "fine\n", done.stderr


# What an asgi.py with models behind its routes looks like: the routes may only be
# imported once Django is set up.
ENTRY = """
from tiderace.routing import get_application
application = get_application({arguments})
from django.apps import apps
assert apps.ready
print("fine")
"""


def test_django_is_set_up_before_the_routes_are_imported(tmp_path):
    (tmp_path / "late_routes.py").write_text(
        "from django.contrib.auth.models import User\n"
        "from django.urls import path\n"
        "websocket_urlpatterns = [path('ws/', print)]\n"
    )
    code = ENTRY.format(arguments="'late_routes', settings='settings'")

    done = python(code, PYTHONPATH=str(tmp_path))

    assert done.stdout == "fine\n", done.stderr


def test_the_settings_of_the_environment_take_precedence_over_the_argument():
    code = ENTRY.format(arguments="[], settings='no_such_settings'")

    done = python(code, DJANGO_SETTINGS_MODULE="settings")

    assert done.stdout == "fine\n", done.stderr


def test_the_error_for_missing_settings_contains_the_remedy():
    done = python(ENTRY.format(arguments="[]"))

    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "found no Django settings" in last
    assert 'settings="<project>.settings"' in last
    assert "DJANGO_SETTINGS_MODULE" in last


def test_the_named_settings_apply_to_the_process(monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)

    get_application([], settings="settings")

    assert os.environ["DJANGO_SETTINGS_MODULE"] == "settings"


def test_settings_can_be_configured_without_a_module(monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)

    assert get_application([]).application_mapping["http"]


def exits(request):
    sys.exit(3)


async def exits_async(request):
    sys.exit(3)


def streams(request):
    async def parts():
        yield b"begun"
        sys.exit(3)

    return StreamingHttpResponse(parts())


urlpatterns = [
    path("exits/", exits),
    path("exits-async/", exits_async),
    path("streams/", streams),
]


@pytest.mark.django_db
@override_settings(ROOT_URLCONF=__name__)
@pytest.mark.parametrize("name", ["exits", "exits-async", "streams"])
async def test_sys_exit_in_a_view_ends_the_request_and_not_the_server(name):
    request = HttpCommunicator(get_application([]), "GET", f"/{name}/")

    with pytest.raises(RuntimeError, match=r"application code called sys.exit\(3\)"):
        await request.get_response()


def test_missing_settings_are_improperly_configured(monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    monkeypatch.setattr("tiderace.application_parts.settings", LazySettings())

    with pytest.raises(ImproperlyConfigured, match="found no Django settings"):
        get_application([])


def test_the_middleware_has_the_right_order():
    application = get_application("test_entry_point.websocket_urlpatterns")

    assert isinstance(application, ProtocolTypeRouter)
    mapping = application.application_mapping
    assert isinstance(mapping["http"], ASGIHandler)
    origins = mapping["websocket"]
    assert isinstance(origins, OriginValidator)
    users = origins.application.inner.inner
    assert type(users.inner) is URLRouter
    assert users.inner.routes == websocket_urlpatterns


@pytest.mark.django_db(transaction=True)
async def test_a_socket_is_served_with_its_user():
    communicator, event = await connect(
        get_application("test_entry_point.websocket_urlpatterns")
    )

    assert event["type"] == "websocket.accept"
    assert (await communicator.receive_output())["text"] == "AnonymousUser"


async def test_a_page_of_another_origin_is_refused():
    application = get_application("test_entry_point", middleware=None)

    _, event = await connect(application, origin="http://evil.test")

    assert event["type"] == "websocket.close"


async def test_an_unknown_path_is_refused():
    application = get_application("test_entry_point", middleware=None)

    _, event = await connect(application, "/ws/nowhere/")

    assert event["type"] == "websocket.close"


async def test_the_lifespan_is_answered():
    communicator = ApplicationCommunicator(get_application([]), {"type": "lifespan"})
    await communicator.send_input({"type": "lifespan.startup"})

    answer = await communicator.receive_output()

    assert answer == {"type": "lifespan.startup.complete"}


@pytest.mark.parametrize(
    "routes",
    [
        "test_entry_point",
        "test_entry_point.websocket_urlpatterns",
        ["test_entry_point.websocket_urlpatterns"],
        ("test_entry_point", "test_entry_point.more_urlpatterns"),
        websocket_urlpatterns,
        [*websocket_urlpatterns, "test_entry_point.more_urlpatterns"],
    ],
)
async def test_routes_are_a_module_a_list_or_several_of_them(routes):
    application = get_application(routes, middleware=None)

    _, event = await connect(application)

    assert event["type"] == "websocket.accept"


async def test_several_lists_are_tried_in_their_order():
    application = get_application(
        ["test_entry_point", "test_entry_point.more_urlpatterns"], middleware=None
    )

    _, event = await connect(application, "/ws/more/")

    assert event["type"] == "websocket.accept"


async def test_origins_can_be_given():
    application = get_application(
        "test_entry_point", middleware=None, origins=["http://page.test"]
    )

    _, theirs = await connect(application, origin="http://page.test")
    _, ours = await connect(application, origin="http://testserver")

    assert theirs["type"] == "websocket.accept"
    assert ours["type"] == "websocket.close"


async def test_the_refusal_of_an_origin_names_the_argument(caplog):
    application = get_application([], middleware=None, origins=[])

    await connect(application)

    assert "add the page's host to the origins of get_application()" in caplog.text


async def test_clients_without_an_origin_can_be_allowed():
    strict = get_application("test_entry_point", middleware=None)
    lenient = get_application(
        "test_entry_point", middleware=None, allow_missing_origin=True
    )

    _, refused = await connect(strict, origin="")
    _, accepted = await connect(lenient, origin="")

    assert refused["type"] == "websocket.close"
    assert accepted["type"] == "websocket.accept"


@pytest.mark.parametrize("middleware", [Marking, "test_entry_point.Marking"])
def test_middleware_can_wrap_the_routes(middleware):
    application = get_application("test_entry_point", middleware=middleware)

    wrapped = application.application_mapping["websocket"].application
    assert type(wrapped).__name__ == "Marking"
    assert isinstance(wrapped.inner, URLRouter)


@pytest.mark.parametrize("http", [greet_over_http, "test_entry_point.greet_over_http"])
async def test_another_application_can_serve_http(http):
    application = get_application([], http=http)

    assert await application({"type": "http"}, None, None) == "http"


@pytest.mark.parametrize("channel", [thumbnails, "test_entry_point.thumbnails"])
async def test_consumers_of_channels_can_be_given(channel):
    application = get_application([], channel=channel)

    scope = {"type": "channel", "channel": "thumbnails"}
    assert isinstance(application.application_mapping["channel"], ChannelNameRouter)
    assert await application(scope, None, None) == "http"


def test_without_channels_there_is_no_application_for_them():
    assert "channel" not in get_application([]).application_mapping


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        ("nowhere", "there is no module 'nowhere'"),
        ("nowhere.urls.websocket_urlpatterns", "there is no module 'nowhere'"),
        (
            "tiderace.nowhere.websocket_urlpatterns",
            "there is no module 'tiderace.nowhere'",
        ),
        (
            "test_entry_point.websocket_urlpattern",
            "no 'websocket_urlpattern'; did you mean 'websocket_urlpatterns'?",
        ),
        ("tiderace.dotted_path", "has no 'websocket_urlpatterns'"),
        ("test_entry_point.not_routes", "is of type int"),
        ("test_entry_point.strange_routes", "make it with path() or re_path()"),
        ([echo_user], "make it with path() or re_path()"),
    ],
)
def test_invalid_routes_are_improperly_configured(routes, words):
    with pytest.raises(ImproperlyConfigured) as error:
        get_application(routes)

    assert words in str(error.value)
    assert "websocket" in str(error.value)


@pytest.mark.parametrize(
    "given", ["broken_routes", "broken_routes.websocket_urlpatterns"]
)
def test_an_import_error_inside_the_routes_propagates(tmp_path, monkeypatch, given):
    (tmp_path / "broken_routes.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        get_application(given)


@pytest.mark.parametrize(
    ("installed", "engine", "missing"),
    [
        ([], "db", "'django.contrib.auth', 'django.contrib.contenttypes', "),
        (
            ["django.contrib.auth", "django.contrib.contenttypes"],
            "cached_db",
            "'django.contrib.sessions'",
        ),
    ],
)
def test_users_without_the_auth_app_are_improperly_configured(
    settings, installed, engine, missing
):
    settings.INSTALLED_APPS = installed
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"

    with pytest.raises(ImproperlyConfigured) as error:
        get_application("test_entry_point")

    assert f"INSTALLED_APPS lacks {missing}" in str(error.value)
    assert "middleware=None" in str(error.value)


def test_sessions_without_a_table_need_no_app(settings):
    settings.INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"

    application = get_application("test_entry_point")

    inner = application.application_mapping["websocket"].application
    assert type(inner) is type(AuthMiddlewareStack(None))


def test_without_users_no_app_is_needed(settings):
    settings.INSTALLED_APPS = []

    application = get_application("test_entry_point", middleware=None)

    inner = application.application_mapping["websocket"].application
    assert type(inner) is URLRouter


def test_an_app_that_is_missing_is_logged(caplog):
    apps = [each for each in settings.INSTALLED_APPS if each != "tiderace"]

    with override_settings(INSTALLED_APPS=apps):
        get_application([])

    assert 'INSTALLED_APPS lacks "tiderace"' in caplog.text


def test_an_app_that_is_installed_is_not_logged(caplog):
    get_application([])

    assert caplog.text == ""
