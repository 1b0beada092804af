"""The parts of ``get_application()``: Django's application, and the checks of arguments."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE, settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern
from django.urls.resolvers import URLResolver

from tiderace import dotted_path
from tiderace.asgi import ASGIApp, Receive, Scope, Send, path_below_prefix
from tiderace.runtime.tasks import as_error
from tiderace.security.websocket import OriginValidator

logger = logging.getLogger("tiderace.server")

# The session engines that need the app `django.contrib.sessions`.
_ENGINES_WITH_A_TABLE = (
    "django.contrib.sessions.backends.db",
    "django.contrib.sessions.backends.cached_db",
)


class Pages(ASGIHandler):
    """Django's application, in which ``sys.exit()`` ends a request and not the server.

    It runs views in a task, and ``SystemExit`` in a task stops the event loop.
    """

    async def run_get_response(self, request: HttpRequest) -> HttpResponseBase:
        try:
            response = await super().run_get_response(request)
            log_missing_client(request.path, response.status_code)
            return response
        except SystemExit as raised:
            request.close()
            raise as_error(raised) from raised

    async def send_response(self, response: HttpResponseBase, send: Any) -> None:
        try:
            await super().send_response(response, send)
        except SystemExit as raised:
            await sync_to_async(response.close)()
            raise as_error(raised) from raised


_CLIENT = re.compile(r".*/tiderace/tiderace(\.\w+)?\.js")
_missing_client_logged = False


def log_missing_client(path: str, status: int) -> None:
    """Log, once, that the script of the browser client is not served.

    Args:
        path: of a request.
        status: of its response.
    """
    global _missing_client_logged
    if status != 404 or _missing_client_logged or not _CLIENT.fullmatch(path):
        return
    _missing_client_logged = True
    if not apps.is_installed("django.contrib.staticfiles"):
        advice = 'add "django.contrib.staticfiles" to INSTALLED_APPS'
    elif settings.DEBUG:
        advice = (
            "manage.py runserver serves static files, other servers do not: add "
            "WhiteNoise, or run collectstatic and let the web server serve STATIC_ROOT"
        )
    else:
        advice = (
            "run manage.py collectstatic, and let the web server or WhiteNoise serve "
            "STATIC_ROOT (runserver serves static files only while DEBUG is on)"
        )
    logger.warning(
        "the browser client %s is not served (404), so its pages cannot connect; %s",
        path,
        advice,
    )


class TopicsFirst:
    """Serves HTTP: requests to topics endpoints by the WebSocket routes, others by Django.

    Args:
        endpoints: the ``topics_endpoints`` among the WebSocket routes.
        routes: the application that serves them, middleware included.
        origins: passed on to the endpoints, which check the page's origin with it.
        pages: the application for all other requests.
    """

    def __init__(
        self,
        endpoints: list[list[Any]],
        routes: ASGIApp,
        origins: OriginValidator,
        pages: ASGIApp,
    ) -> None:
        self._endpoints = endpoints
        self._routes = routes
        self._origins = origins
        self.application = pages

    def serves_http(self, path: str) -> bool:
        """Return whether ``path``, below the site's prefix, is an endpoint's."""
        path = path.lstrip("/")
        return any(_leads(chain, path) for chain in self._endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the request, and return what the application returns."""
        if not self.serves_http(path_below_prefix(scope) or ""):
            return await self.application(scope, receive, send)
        asked: Scope = {**scope, "tiderace.origins": self._origins}
        return await self._routes(asked, receive, send)


def _leads(chain: list[Any], path: str) -> bool:
    """Return whether the endpoint at the end of ``chain`` serves HTTP at ``path``."""
    for pattern in chain[:-1]:
        match = pattern.match(path)
        if not match:
            return False
        path = match[0].lstrip("/")
    return bool(chain[-1].serves_http(path))


def require_settings(module: str | None) -> None:
    """Name ``module`` as the settings module where the environment names none.

    Raises:
        ImproperlyConfigured: there are no settings.
    """
    if module is not None:
        os.environ.setdefault(ENVIRONMENT_VARIABLE, module)
    if not (settings.configured or os.environ.get(ENVIRONMENT_VARIABLE)):
        raise ImproperlyConfigured(
            "get_application() found no Django settings: pass "
            'settings="<project>.settings", or set the environment variable '
            f"{ENVIRONMENT_VARIABLE} above the call"
        )


def log_missing_app() -> None:
    """Log that ``INSTALLED_APPS`` lacks the app, and what is missing without it."""
    if not (apps.is_installed("tiderace") or apps.is_installed("channels")):
        logger.warning(
            'INSTALLED_APPS lacks "tiderace": no module "topics" of an app is imported, '
            "and its runserver, system checks, template tags and static files are "
            'missing; list it before "django.contrib.staticfiles"'
        )


def require_auth_apps() -> None:
    """Check that the apps which ``AuthMiddlewareStack`` needs are installed.

    Raises:
        ImproperlyConfigured: one is missing.
    """
    needed = ["django.contrib.auth", "django.contrib.contenttypes"]
    if settings.SESSION_ENGINE in _ENGINES_WITH_A_TABLE:
        needed.append("django.contrib.sessions")
    missing = [name for name in needed if not apps.is_installed(name)]
    if missing:
        raise ImproperlyConfigured(
            "get_application() reads users from sessions, but INSTALLED_APPS lacks "
            f"{', '.join(map(repr, missing))}; add it, or pass middleware=None for "
            "WebSockets without users"
        )


def find_routes(given: str | Sequence[str | URLPattern]) -> list[URLPattern]:
    """Return the routes, those at dotted paths imported.

    Raises:
        ImproperlyConfigured: a path names nothing, or an object is no list of routes.
    """
    if isinstance(given, URLPattern | URLResolver):
        raise ImproperlyConfigured(
            f"get_application(): websocket is the single route {given!r}; write a list: "
            "get_application([path(...)])"
        )
    routes: list[URLPattern] = []
    for item in [given] if isinstance(given, str) else given:
        if not isinstance(item, str):
            routes.append(item)
            continue
        found = imported("websocket", item)
        if isinstance(found, ModuleType):
            found = dotted_path.attribute(
                "get_application(): websocket", found, "websocket_urlpatterns"
            )
        if not isinstance(found, Iterable):
            raise ImproperlyConfigured(
                f"get_application(): websocket names {item!r}, which is of type "
                f"{type(found).__name__}; it must be a list of path() routes"
            )
        routes.extend(found)
    for route in routes:
        if not isinstance(route, URLPattern | URLResolver):
            raise ImproperlyConfigured(
                f"get_application(): websocket has {route!r} among its routes; make "
                "it with path() or re_path()"
            )
    return routes


def imported(argument: str, given: Any) -> Any:
    """Import a dotted path; return anything else as it is."""
    if isinstance(given, str):
        return dotted_path.resolve(f"get_application(): {argument}", given)
    return given
