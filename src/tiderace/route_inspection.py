"""What stands at the end of routes, behind middleware, and what of it takes HTTP.

It knows routes and middleware by the shape that they have in every router, and topics
endpoints by what they say of themselves; it makes no router.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.urls import URLPattern
from django.urls.resolvers import RegexPattern, RoutePattern

from tiderace.asgi import ASGIApp, Receive, Scope, Send
from tiderace.security.websocket import OriginValidator

__all__ = ["TopicsFirst", "leads_to_topics", "open_ended", "unwrap_middleware"]

# What middleware calls the app it wraps: Channels', the origin check's, Starlette's.
_INNER = ("inner", "application", "app")
# How deep middleware may be stacked before it is taken for a circle.
_MAX_WRAPPERS = 32


class TopicsFirst:
    """Serves HTTP: what topics endpoints take by their routes, the rest by ``pages``.

    Args:
        urls: the routes of WebSockets, endpoints among them.
        routes: what serves them, middleware included.
        origins: which pages may use them; the endpoints ask it.
        pages: the application for all the rest.
    """

    def __init__(
        self,
        urls: Sequence[URLPattern],
        routes: ASGIApp,
        origins: OriginValidator,
        pages: ASGIApp,
    ) -> None:
        self._endpoints = _endpoints(urls)
        self._routes = routes
        self._origins = origins
        self.application = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the request, and return what the application returns."""
        path = scope["path"].removeprefix(scope.get("root_path") or "").lstrip("/")
        if not any(_leads(chain, path) for chain in self._endpoints):
            return await self.application(scope, receive, send)
        asked: Scope = {**scope, "tiderace.origins": self._origins}
        return await self._routes(asked, receive, send)


def leads_to_topics(urls: Iterable[URLPattern]) -> bool:
    """Whether a topics endpoint is among the routes, or behind one of them."""
    return bool(_endpoints(urls))


def _endpoints(urls: Iterable[URLPattern]) -> list[list[Any]]:
    """For each topics endpoint the patterns that lead to it, and then its class."""
    chains: list[list[Any]] = []
    for route in urls:
        for layer in unwrap_middleware(route.callback):
            endpoint = getattr(layer, "endpoint_class", None)
            inner = _endpoints(_routes_of(layer))
            ends = [[endpoint]] if endpoint is not None else inner
            chains += [[open_ended(route.pattern), *end] for end in ends]
    return chains


def _routes_of(router: Any) -> list[URLPattern]:
    """A router's routes that are Django's; other frameworks' routers have others."""
    routes = getattr(router, "routes", None)
    if not isinstance(routes, list | tuple):
        return []
    return [route for route in routes if isinstance(route, URLPattern)]


def _leads(chain: list[Any], path: str) -> bool:
    """Whether HTTP to ``path`` is the business of the endpoint at the chain's end."""
    for pattern in chain[:-1]:
        match = pattern.match(path)
        if not match:
            return False
        path = match[0].lstrip("/")
    return bool(chain[-1].serves_http(path))


def open_ended(pattern: Any) -> Any:
    """A pattern that need not match to the end.

    Raises:
        ValueError: for another kind than ``path()`` and ``re_path()`` make.
    """
    if isinstance(pattern, RegexPattern):
        source = pattern._regex  # type: ignore[attr-defined]  # noqa: SLF001
    elif isinstance(pattern, RoutePattern):
        source = pattern._route  # type: ignore[attr-defined]  # noqa: SLF001
    else:
        raise ValueError(f"Unsupported pattern type: {type(pattern)}")
    return type(pattern)(source, pattern.name, is_endpoint=False)


def unwrap_middleware(application: Any) -> Iterator[Any]:
    """The application and, from outside inwards, what its middleware wraps."""
    for _ in range(_MAX_WRAPPERS):
        if application is None:
            return
        yield application
        names = (name for name in _INNER if hasattr(application, name))
        application = getattr(application, next(names, ""), None)
