"""Finds the WebSocket routes and topics endpoints behind routers and middleware.

Routers and middleware are recognised by their attributes (``application_mapping``,
``routes``, ``inner``, ``application``, ``app``), whichever package they come from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.urls import URLPattern
from django.urls.resolvers import RegexPattern, RoutePattern

from tiderace.middleware import ScopeMiddleware

__all__ = [
    "Route",
    "is_router",
    "open_ended",
    "require_no_leading_slash",
    "serves_every_websocket",
    "serves_http",
    "topics_endpoints",
    "unwrap_middleware",
    "websocket_routes",
]

# Attributes of the wrapped application: in Channels, in the origin check, in Starlette.
_INNER = ("inner", "application", "app")
# The start of a regular expression that requires a slash there. With an alternative or
# a quantifier after it the slash may be absent, and without ^ be a later one.
_LEADING_SLASH = re.compile(r"\^\\?/(?![?*{])(?!.*\|)")
# A deeper stack of wrappers is treated as a cycle.
_MAX_WRAPPERS = 32


def topics_endpoints(urls: Iterable[URLPattern]) -> list[list[Any]]:
    """Return, for each topics endpoint, the patterns that lead to it and then its class."""
    chains: list[list[Any]] = []
    for route in urls:
        for layer in unwrap_middleware(route.callback):
            endpoint = getattr(layer, "endpoint_class", None)
            inner = topics_endpoints(_routes_of(layer))
            ends = [[endpoint]] if endpoint is not None else inner
            chains += [[open_ended(route.pattern), *end] for end in ends]
    return chains


def _routes_of(router: Any) -> list[URLPattern]:
    """Return the routes of a router that are Django's, not another framework's."""
    routes = getattr(router, "routes", None)
    if not isinstance(routes, list | tuple):
        return []
    return [route for route in routes if isinstance(route, URLPattern)]


def require_no_leading_slash(pattern: Any) -> None:
    """Return if a pattern does not begin with a slash.

    Raises:
        ImproperlyConfigured: if it does, so that it matches no path.
    """
    by_regex = isinstance(pattern, RegexPattern)
    source = getattr(pattern, "_regex" if by_regex else "_route", None)
    if not isinstance(source, str):  # such as a translated one, not yet evaluated
        return
    if _LEADING_SLASH.match(source) if by_regex else source.startswith("/"):
        raise ImproperlyConfigured(
            f"the route {source!r} begins with a slash, so it matches no path: paths are "
            "matched without their first slash; write "
            f"{source.replace('/', '', 1)!r}"
        )


def open_ended(pattern: Any) -> Any:
    """Return a copy of ``pattern`` that matches prefixes of a path.

    Raises:
        ValueError: for a pattern that neither ``path()`` nor ``re_path()`` makes.
    """
    if isinstance(pattern, RegexPattern):
        source = pattern._regex  # type: ignore[attr-defined]  # noqa: SLF001
    elif isinstance(pattern, RoutePattern):
        source = pattern._route  # type: ignore[attr-defined]  # noqa: SLF001
    else:
        raise ValueError(f"Unsupported pattern type: {type(pattern)}")
    return type(pattern)(source, pattern.name, is_endpoint=False)


def unwrap_middleware(application: Any) -> Iterator[Any]:
    """Iterate over an application and what it wraps, from outside inwards."""
    for _ in range(_MAX_WRAPPERS):
        if application is None:
            return
        yield application
        inner = (getattr(application, name, None) for name in _INNER)
        application = next((each for each in inner if callable(each)), None)


def is_router(application: Any) -> bool:
    """Return whether an application, or what it wraps, routes the rest of a path."""
    return any(
        getattr(layer, "_path_routing", False) is True
        for layer in unwrap_middleware(application)
    )


def serves_every_websocket(application: Any) -> bool:
    """Return whether an application surely has no routes for which it raises ``NoRoute``.

    That is a consumer or a topics endpoint, alone or in the middleware of sessions and
    users.
    """
    for layer in unwrap_middleware(application):
        if type(layer).__call__ is not ScopeMiddleware.__call__:
            return hasattr(layer, "consumer_class") or hasattr(layer, "endpoint_class")
    return False


def serves_http(application: Any, path: str) -> bool:
    """Return whether an HTTP request to ``path`` reaches something other than a page.

    That is a consumer, a topics endpoint or a probe, whichever is behind the routers and
    the middleware. Django's own application and one of an unknown kind serve pages.

    Args:
        application: the whole application, or what a router has for HTTP.
        path: below the site's prefix.
    """
    for layer in unwrap_middleware(application):
        if hasattr(layer, "application_mapping"):
            return serves_http(layer.application_mapping.get("http"), path)
        if endpoint := getattr(layer, "endpoint_class", None):
            return bool(endpoint.serves_http(path))
        if hasattr(layer, "consumer_class"):
            return True
        if answers := getattr(layer, "serves_http", None):
            if answers(path):
                return True
        elif routes := _routes_of(layer):
            return _route_serves_http(routes, path.lstrip("/"))
    return False


def _route_serves_http(routes: Iterable[URLPattern], path: str) -> bool:
    """Return whether the first of ``routes`` that takes ``path`` is not a page's."""
    for route in routes:
        layers = list(unwrap_middleware(route.callback))
        # A router passes on what none of its routes takes.
        is_router = any(getattr(layer, "_path_routing", False) for layer in layers)
        pattern = open_ended(route.pattern) if is_router else route.pattern
        if (match := pattern.match(path)) is None:
            continue
        if serves_http(route.callback, match[0]):
            return True
        if not is_router:
            return False
    return False


class Route(msgspec.Struct, frozen=True):
    """A WebSocket route."""

    path: str
    """The path in readable form, such as ``/ws/chat/<room>/``."""
    target: str
    """The dotted name of the consumer, endpoint or application."""


def _no_guard(application: Any) -> bool:
    return False


def websocket_routes(
    application: Any, guards: Callable[[Any], bool] = _no_guard
) -> list[Route] | None:
    """Return the WebSocket routes of ``application`` in the order of their matching.

    Those behind a wrapper for which ``guards`` is true are left out. An empty list means
    that it serves no WebSockets; None that they are unknown, because a wrapper hides or
    guards what it wraps, or WebSockets are not routed by URL.
    """
    router = _find_with(application, "application_mapping", guards)
    if router is None:
        innermost = [None, *unwrap_middleware(application)][-1]
        return [] if isinstance(innermost, ASGIHandler) else None
    if "websocket" not in router.application_mapping:
        return []
    urls = _find_with(router.application_mapping["websocket"], "routes", guards)
    return None if urls is None else list(_walk(urls, "/", 0, guards))


def _find_with(application: Any, attribute: str, guards: Callable[[Any], bool]) -> Any:
    """Return the outermost wrapped application with ``attribute``; None behind a guard."""
    for layer in unwrap_middleware(application):
        if guards(layer):
            return None
        if hasattr(layer, attribute):
            return layer
    return None


def _walk(
    urls: Any, prefix: str, depth: int, guards: Callable[[Any], bool]
) -> Iterator[Route]:
    """Iterate over the routes below a router, without those behind a guard."""
    for route in urls.routes:
        path = prefix + _readable(route.pattern)
        callback = getattr(route, "callback", None)
        if any(guards(layer) for layer in unwrap_middleware(callback)):
            continue
        nested = None
        if depth < _MAX_WRAPPERS:
            nested = _find_with(callback, "routes", _no_guard)
        if nested is None:
            yield Route(path, _name(callback))
        else:
            yield from _walk(nested, path, depth + 1, guards)


def _readable(pattern: Any) -> str:
    """Return a pattern without the syntax of regular expressions, as far as possible."""
    from django.contrib.admindocs.utils import (
        remove_non_capturing_groups,
        replace_metacharacters,
        replace_named_groups,
        replace_unnamed_groups,
    )

    text = str(pattern)
    if isinstance(pattern, RegexPattern):
        text = remove_non_capturing_groups(text)
        text = replace_named_groups(text)
        text = replace_unnamed_groups(text)
        text = replace_metacharacters(text)
    return text.lstrip("/")


def _name(callback: Any) -> str:
    """Return the dotted name of a consumer or application, without its wrappers."""
    target = callback
    for layer in unwrap_middleware(callback):
        target = layer
        for attribute in ("consumer_class", "endpoint_class"):
            if (found := getattr(layer, attribute, None)) is not None:
                return f"{found.__module__}.{found.__qualname__}"
    if not hasattr(target, "__qualname__"):
        target = type(target)
    return f"{target.__module__}.{target.__qualname__}"
