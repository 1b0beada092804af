"""Finds the WebSocket routes of an ASGI application by looking through its layers.

It knows the shapes that routers and middleware have (``application_mapping``,
``routes``, ``inner``, ``application``); it imports none of them and calls nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.contrib.admindocs.utils import (
    remove_non_capturing_groups,
    replace_metacharacters,
    replace_named_groups,
    replace_unnamed_groups,
)
from django.core.handlers.asgi import ASGIHandler
from django.urls.resolvers import RegexPattern

__all__ = ["Route", "unguarded_routes", "websocket_routes"]

# What middleware calls the application it wraps.
_INNER = ("inner", "application", "app")
# A wrapper of a wrapper of … more often than this is a circle.
_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Route:
    """One WebSocket route: its path as ``/ws/chat/<room>/`` and who answers there."""

    path: str
    target: str


def websocket_routes(application: Any) -> list[Route] | None:
    """The WebSocket routes of ``application``, in the order in which they are tried.

    An empty list means that it serves no WebSockets; None that it cannot be told,
    since a wrapper hides what it wraps or the sockets are not routed by URL.
    """
    router = _unwrap(application, "application_mapping")
    if router is None:
        return [] if _is_plain_django(application) else None
    if "websocket" not in router.application_mapping:
        return []
    urls = _unwrap(router.application_mapping["websocket"], "routes")
    return None if urls is None else list(_walk(urls, "/", 0))


def unguarded_routes(application: Any, guards: Callable[[Any], bool]) -> list[Route]:
    """The WebSocket routes on whose way no wrapper is one that ``guards`` knows.

    Nothing where it cannot be told, as with ``websocket_routes``.
    """
    router = _unguarded(application, "application_mapping", guards)
    if router is None:
        return []
    sockets = router.application_mapping.get("websocket")
    urls = _unguarded(sockets, "routes", guards)
    return [] if urls is None else list(_walk(urls, "/", 0, guards))


def _unguarded(application: Any, attribute: str, guards: Callable[[Any], bool]) -> Any:
    """What ``_unwrap`` finds, or None when a wrapper on the way to it guards it."""
    for _ in range(_DEPTH):
        if application is None or guards(application):
            return None
        if hasattr(application, attribute):
            return application
        application = _inner(application)
    return None


def _unwrap(application: Any, attribute: str) -> Any:
    """The innermost-but-first wrapped application that has ``attribute``, or None."""
    for _ in range(_DEPTH):
        if hasattr(application, attribute):
            return application
        application = _inner(application)
        if application is None:
            return None
    return None


def _inner(application: Any) -> Any:
    for name in _INNER:
        inner = getattr(application, name, None)
        if callable(inner):
            return inner
    return None


def _is_plain_django(application: Any) -> bool:
    for _ in range(_DEPTH):
        if application is None:
            return False
        # Staticfiles' handler is one of Django's too, around another one.
        if isinstance(application, ASGIHandler) and _inner(application) is None:
            return True
        application = _inner(application)
    return False


def _walk(
    urls: Any,
    prefix: str,
    depth: int,
    guards: Callable[[Any], bool] = lambda application: False,
) -> Iterator[Route]:
    """The routes below ``urls``, without those behind something that ``guards``."""
    for route in urls.routes:
        path = prefix + _readable(route.pattern)
        callback = getattr(route, "callback", None)
        if _is_guarded(callback, guards):
            continue
        nested = _unwrap(callback, "routes") if depth < _DEPTH else None
        if nested is None:
            yield Route(path, _name(callback))
        else:
            yield from _walk(nested, path, depth + 1, guards)


def _is_guarded(application: Any, guards: Callable[[Any], bool]) -> bool:
    for _ in range(_DEPTH):
        if application is None:
            return False
        if guards(application):
            return True
        application = _inner(application)
    return False


def _readable(pattern: Any) -> str:
    """A pattern without the grammar of regular expressions, as far as that goes."""
    text = str(pattern)
    if isinstance(pattern, RegexPattern):
        text = remove_non_capturing_groups(text)
        text = replace_named_groups(text)
        text = replace_unnamed_groups(text)
        text = replace_metacharacters(text)
    return text.lstrip("/")


def _name(callback: Any) -> str:
    """The dotted name of a consumer or application, without the wrappers' names."""
    for _ in range(_DEPTH):
        target = getattr(callback, "consumer_class", None)
        if target is None:
            target = getattr(callback, "endpoint_class", None)
        if target is not None:
            return f"{target.__module__}.{target.__qualname__}"
        inner = _inner(callback)
        if inner is None:
            break
        callback = inner
    if not hasattr(callback, "__qualname__"):
        callback = type(callback)
    return f"{callback.__module__}.{callback.__qualname__}"
