"""Routes a connection to the application that serves it: by type, path or channel.

A project's ``asgi.py`` is two lines::

    from tiderace.routing import get_application

    application = get_application(
        "chat.routing.websocket_urlpatterns", settings="mysite.settings"
    )

The routers under it can be put together by hand as well, in any depth::

    application = ProtocolTypeRouter({
        "http": get_asgi_application(),
        "websocket": AuthMiddlewareStack(URLRouter([
            path("ws/chat/<room>/", ChatConsumer.as_asgi()),
        ])),
    })
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import django
from asgiref.sync import markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern
from django.urls.exceptions import Resolver404
from django.urls.resolvers import URLResolver

from tiderace import metrics
from tiderace.application_parts import (
    Pages,
    TopicsFirst,
    find_routes,
    imported,
    log_missing_app,
    require_auth_apps,
    require_settings,
)
from tiderace.asgi import (
    ASGIApp,
    Receive,
    Scope,
    Send,
    abort_if_stalled,
    client_address,
    hide_commands,
    log_fields,
    mark_application,
    path_below_prefix,
    refuse,
)
from tiderace.auth import AuthMiddlewareStack
from tiderace.health import Health
from tiderace.middleware import socket_thread
from tiderace.route_inspection import (
    is_router,
    open_ended,
    require_no_leading_slash,
    serves_every_websocket,
    topics_endpoints,
    unwrap_middleware,
)
from tiderace.runtime.control_socket import process_control_socket
from tiderace.runtime.drain import process_drain, refuse_websocket
from tiderace.runtime.lifespan import on_shutdown, on_startup, process_lifespan
from tiderace.runtime.tasks import as_error
from tiderace.security.websocket import AllowedHostsOriginValidator, OriginValidator

__all__ = [
    "ChannelNameRouter",
    "NoRoute",
    "ProtocolTypeRouter",
    "URLRouter",
    "get_application",
    "get_default_application",
]

logger = logging.getLogger("tiderace.routing")

# The ends of the paths at which tiderace.js looks for topics.
_TRANSPORTS = ("/websocket", "/http_stream", "/sse")

# Characters of a client's path, and routes, that a log line shows.
_SHOWN_PATH = 200
_SHOWN_ROUTES = 8


on_startup(process_control_socket.open)
on_shutdown(process_control_socket.close)


# Set by a ProtocolTypeRouter, which answers a NoRoute.
_ANSWERS_NO_ROUTE = "tiderace.answers_no_route"


class NoRoute(Resolver404, ValueError):
    """A ``URLRouter`` inside another router has no route; the outer one tries its next.

    Raised before the connection is touched: an adapter that catches the error, in
    Channels a ``ValueError``, may pass the connection to another application.

    Args:
        message: the text of the error.
        answer: refuses the connection with 404; None inside another ``URLRouter``.
    """

    def __init__(self, message: str, answer: Callable[[], Any] | None = None) -> None:
        super().__init__(message)
        self.answer = answer


class ProtocolTypeRouter:
    """Serves a connection by the application for the type of its scope.

    The type ``lifespan`` is answered by Tiderace itself, which closes the channel
    layers when the server stops, unless the mapping has an application for it. While
    the process drains, WebSockets are refused with 503. A path for which a
    ``URLRouter`` in it has no route is answered with 404.

    Args:
        application_mapping: scope type (``http``, ``websocket``, ``channel``,
            ``lifespan``) to application. The dict itself is kept and may be changed
            later.
    """

    def __init__(self, application_mapping: dict[str, Any]) -> None:
        self.application_mapping = application_mapping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection, and return what the application returns.

        Raises:
            ValueError: there is no application for the scope's type.
        """
        kind = scope["type"]
        if kind == "websocket" and process_drain.draining:
            return await refuse_websocket(scope, receive, send)
        application = self.application_mapping.get(kind)
        if application is None:
            if kind != "lifespan":
                raise ValueError(f"No application configured for scope type {kind!r}")
            application = process_lifespan
        if _ANSWERS_NO_ROUTE in scope:
            return await application(scope, receive, send)
        hide_commands(scope)
        # Change the scope itself, not a copy: the server logs from it.
        scope[_ANSWERS_NO_ROUTE] = True
        try:
            async with socket_thread(scope):
                serving = application(scope, receive, send)
                del scope  # of which the application has copied what it needs
                return await serving
        except NoRoute as error:
            if error.answer is None:
                raise
            return await error.answer()
        except SystemExit as raised:
            # Raised by middleware or a consumer's constructor; HandlerCaller handles those
            # of handlers.
            raise as_error(raised) from raised
        finally:
            if kind == "http":
                abort_if_stalled(send)


class URLRouter:
    """Serves a connection by the first of ``routes`` that matches its path.

    The routes are Django's own ``path()`` and ``re_path()``, their views ASGI apps:
    ``Consumer.as_asgi()``, or another ``URLRouter`` (alone or inside middleware),
    which sees the rest of the path. The application finds the captured values in
    ``scope["url_route"]["kwargs"]``, together with those of the routers outside.

    Where no route matches, an HTTP request or WebSocket handshake is answered with
    404, in one line of the log. Servers without the WebSocket denial response
    extension make it a 403. Inside a ``ProtocolTypeRouter`` an adapter may catch
    ``NoRoute`` first, to try another router.

    Args:
        routes: the list itself is kept and may be changed later.

    Raises:
        ImproperlyConfigured: for ``include()``, for a consumer or topics endpoint that
            is missing its ``.as_asgi()``, and for a route that begins with a slash.
        ValueError: for a kind of pattern that cannot precede another router.
    """

    # Outer routers read this from a route's callback: it takes the rest of the path,
    # so the path() before it is a prefix.
    _path_routing = True

    def __init__(self, routes: list[URLPattern]) -> None:
        self.routes = routes
        # The pattern and application of each route, and the pattern to match with, by the
        # route's id(): before an inner router a prefix. The route itself is not changed,
        # since another router may have it as well.
        self._prefixes: dict[int, tuple[Any, Any, Any]] = {}
        # The routes whose application serves every WebSocket.
        self._ends: dict[int, bool] = {}
        for route in routes:
            self._check(route)
            self._pattern(route)
        mark_application(self)

    # No coroutine function: where an application serves, another would be 0.3 KB a socket.
    @markcoroutinefunction
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection, and return what the application returns.

        Raises:
            NoRoute: this router is inside another one, or in a
                ``ProtocolTypeRouter``, and has no route.
            ValueError: the scope has no path; or no route matches and the connection
                is neither HTTP nor WebSocket, or there is no ``send``.
        """
        outermost = "path_remaining" not in scope
        path = scope.get("path" if outermost else "path_remaining")
        if path is None:
            raise ValueError("No 'path' key in connection scope, cannot route URLs")
        if outermost:
            hide_commands(scope)
            path = path_below_prefix(scope)
            if path is None:
                return self._refuse(scope["path"], scope, receive, send)
        path = path.lstrip("/")
        for index, route in enumerate(self.routes):
            match = self._pattern(route).match(path)
            if not match:
                continue
            if self._ends[id(route)] and scope.get("type") == "websocket":
                return route.callback(_scope_of(scope, route, match), receive, send)
            return self._try(self.routes[index:], path, scope, receive, send)
        return self._try([], path, scope, receive, send)

    async def _try(
        self,
        routes: Iterable[URLPattern],
        path: str,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Any:
        for route in routes:
            match = self._pattern(route).match(path)
            if not match:
                continue
            try:
                inner = _scope_of(scope, route, match)
                return await route.callback(inner, receive, send)
            except NoRoute:
                continue
            except Resolver404:
                if not _is_foreign_router(route.callback):
                    raise
        if "path_remaining" in scope:
            raise NoRoute(f"No route found for path {path!r}.")
        return await self._refuse(path, scope, receive, send)

    def _check(self, route: Any) -> None:
        if isinstance(route, URLResolver):
            raise ImproperlyConfigured(
                f"{route}: include() is not supported in URLRouter. Use nested "
                "URLRouter instances instead."
            )
        require_no_leading_slash(getattr(route, "pattern", None))
        callback = getattr(route, "callback", None)
        if hasattr(callback, "as_asgi"):
            name = getattr(callback, "__name__", type(callback).__name__)
            kind = f"names the class {name}"
            if not isinstance(callback, type):
                kind = f"names an instance of {name}"
            raise ImproperlyConfigured(
                f"the route {str(route.pattern)!r} {kind}; write {name}.as_asgi() there"
            )

    def _pattern(self, route: URLPattern) -> Any:
        """Return the pattern to match with: a prefix where a router follows."""
        pattern, callback = route.pattern, route.callback
        known, served, matched = self._prefixes.get(id(route), (None, None, None))
        # Compared by identity, since routes of the list may be replaced later.
        if known is pattern and served is callback:
            return matched
        matched = open_ended(pattern) if is_router(callback) else pattern
        self._prefixes[id(route)] = (pattern, callback, matched)
        self._ends[id(route)] = serves_every_websocket(callback)
        return matched

    async def _refuse(
        self, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        kind = scope.get("type")
        # Called without a server, as in tests of routes: there is no client to answer.
        if send is None or kind not in ("http", "websocket"):
            raise ValueError(f"No route found for path {path!r}.")
        if _ANSWERS_NO_ROUTE in scope:
            answer = partial(self._deny, path, scope, receive, send)
            raise NoRoute(f"No route found for path {path!r}.", answer)
        await self._deny(path, scope, receive, send)

    async def _deny(
        self, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        metrics.ROUTES_NOT_FOUND.add()
        declared = list(_patterns(self))
        hint = ""
        if not path.endswith("/") and any(
            self._pattern(route).match(f"{path}/") for route in self.routes
        ):
            hint = "; a route matches it with a slash at the end"
        elif path.endswith(_TRANSPORTS):
            hint = self._advise_topics(path)
        more = len(declared) - _SHOWN_ROUTES
        asked = scope["path"]
        logger.warning(
            "no route for %s path %r from %s%s (declared: %s%s)",
            scope["type"],
            asked if len(asked) <= _SHOWN_PATH else f"{asked[:_SHOWN_PATH]}…",
            client_address(scope),
            hint,
            ", ".join(declared[:_SHOWN_ROUTES]) or "none",
            f" and {more} more" if more > 0 else "",
            extra=log_fields(scope, "no_route"),
        )
        await refuse(scope, receive, send, 404, "Not Found")

    def _advise_topics(self, path: str) -> str:
        """Return advice for a topic client that connects at a path without an endpoint."""
        for route in self.routes:
            if isinstance(route, URLPattern) and topics_endpoints([route]):
                return f'; write {{% tiderace_script topics="/{route.pattern}" %}}'
        if path.startswith("connection/"):
            return '; add path("connection/", TopicsEndpoint.as_asgi()) to the routes'
        return ""


class ChannelNameRouter:
    """Serves a worker's channel by the application for its name.

    Args:
        application_mapping: channel name to application; the dict itself is kept.
    """

    def __init__(self, application_mapping: dict[str, Any]) -> None:
        self.application_mapping = application_mapping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the channel, and return what the application returns.

        Raises:
            ValueError: the scope has no channel, or one without an application.
        """
        if "channel" not in scope:
            raise ValueError(
                "ChannelNameRouter got a scope without a 'channel' key. "
                "Did you make sure it's only being used for 'channel' type messages?"
            )
        name = scope["channel"]
        if name not in self.application_mapping:
            raise ValueError(f"No application configured for channel name {name!r}")
        return await self.application_mapping[name](scope, receive, send)


def get_default_application() -> Any:
    """Import the application that the setting ``ASGI_APPLICATION`` names.

    Raises:
        ImproperlyConfigured: the setting, the module or the name does not exist.
    """
    try:
        path, name = settings.ASGI_APPLICATION.rsplit(".", 1)
    except (ValueError, AttributeError):
        raise ImproperlyConfigured("Cannot find ASGI_APPLICATION setting.") from None
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"Cannot import ASGI_APPLICATION module {path!r}: {error}"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise ImproperlyConfigured(
            f"Cannot find {name!r} in ASGI_APPLICATION module {path}"
        ) from None


def get_application(
    websocket: str | Sequence[str | URLPattern],
    *,
    settings: str | None = None,
    http: str | ASGIApp | None = None,
    channel: str | Mapping[str, ASGIApp] | None = None,
    middleware: str | Callable[[ASGIApp], ASGIApp] | None = AuthMiddlewareStack,
    origins: Iterable[str | re.Pattern[str]] | None = None,
    allow_missing_origin: bool = False,
    health: bool = False,
) -> ProtocolTypeRouter:
    """Build a project's ASGI application, with its parts in the right order.

    Django is set up first; the dotted paths are imported after that, so that ``asgi.py``
    needs no import which requires a configured Django. WebSockets pass the check of
    their origin, then sessions and users, then the routes; so does HTTP to the topics
    endpoints among the routes. All other HTTP goes to Django.

    Args:
        websocket: the routes: dotted path of a list of ``path()``s, or of a module
            that holds one as ``websocket_urlpatterns``; or several of them; or the
            routes themselves.
        settings: the settings module where the environment variable
            ``DJANGO_SETTINGS_MODULE`` names none.
        http: the application for HTTP, or its dotted path; by default Django's.
        channel: the consumers of ``manage.py runworker``, channel name to app, or
            the dotted path of such a dict.
        middleware: what wraps the routes, or its dotted path; None for nothing.
        origins: the origins that may open WebSockets, as ``OriginValidator`` takes
            them; by default the hosts in ``ALLOWED_HOSTS``.
        allow_missing_origin: whether clients without an Origin header may open
            WebSockets; browsers always send the header.
        health: whether ``/healthz`` and ``/readyz`` are answered before Django
            (``tiderace.health``).

    Raises:
        ImproperlyConfigured: there are no settings, a dotted path names nothing, or
            its object is not a list of routes.
        ValueError: an entry of ``origins`` can match no origin.
    """
    require_settings(settings)
    django.setup(set_prefix=False)
    log_missing_app()
    urls = find_routes(websocket)
    routes: ASGIApp = URLRouter(urls)
    wrap: Any = imported("middleware", middleware)
    if wrap is AuthMiddlewareStack:
        require_auth_apps()
    if wrap is not None:
        routes = wrap(routes)
    pages: Any = Pages() if http is None else imported("http", http)
    websockets = _validated(routes, origins, allow_missing_origin)
    if endpoints := topics_endpoints(urls):
        pages = TopicsFirst(endpoints, routes, websockets, pages)
    mapping: dict[str, Any] = {
        "http": Health(pages) if health else pages,
        "websocket": websockets,
    }
    if channel is not None:
        mapping["channel"] = ChannelNameRouter(imported("channel", channel))
    return ProtocolTypeRouter(mapping)


def _validated(
    routes: ASGIApp,
    origins: Iterable[str | re.Pattern[str]] | None,
    allow_missing: bool,
) -> OriginValidator:
    if origins is None:
        return AllowedHostsOriginValidator(routes, allow_missing=allow_missing)
    validator = OriginValidator(routes, origins, allow_missing=allow_missing)
    validator.setting = "the origins of get_application()"
    return validator


def _scope_of(scope: Scope, route: URLPattern, match: Any) -> Scope:
    """Return the scope for the application of a route."""
    rest, args, kwargs = match
    outer = scope.get("url_route") or {}
    routed: Scope = {
        **scope,
        "path_remaining": rest,
        "url_route": {
            "args": tuple(outer.get("args", ())) + tuple(args),
            "kwargs": {**outer.get("kwargs", {}), **kwargs, **route.default_args},
        },
    }
    return routed


def _is_foreign_router(application: Any) -> bool:
    """Return whether a third-party router is there, whose Resolver404 means no route."""
    return is_router(application) and not any(
        isinstance(layer, URLRouter) for layer in unwrap_middleware(application)
    )


def _patterns(application: Any) -> Iterator[str]:
    """Yield the whole pattern of each route of a tree of routers."""
    for layer in unwrap_middleware(application):
        if isinstance(layer, URLRouter):
            for route in layer.routes:
                for rest in list(_patterns(route.callback)) or [""]:
                    yield f"{route.pattern}{rest.removeprefix('^')}"
            return
