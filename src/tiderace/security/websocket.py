"""Checks the Origin header of WebSockets: which web pages may open one.

A refused socket reaches no session, no consumer and no layer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import ParseResult, urlparse

from asgiref.sync import markcoroutinefunction
from django.utils.http import is_same_domain

from tiderace import metrics
from tiderace.asgi import (
    ASGIApp,
    Receive,
    Scope,
    Send,
    mark_application,
    websocket_close,
)
from tiderace.security.origins import (
    WITHOUT_HOST,
    OriginProblem,
    allowed_hosts,
    header,
    log_refusal,
    parse,
    require_origins,
    shown,
    text_of,
)

__all__ = ["AllowedHostsOriginValidator", "OriginValidator", "WebsocketDenier"]

logger = logging.getLogger("tiderace.security")


class OriginValidator:
    """Serves WebSockets of the allowed origins with ``application``, refuses others.

    A browser sends the page's origin, and no script can change it, so this check keeps
    other sites from using a visitor's cookies. Other clients can send any origin: the
    check is no authentication.

    Args:
        application: the app for the sockets that pass.
        allowed_origins: ``"*"`` for all; ``"example.com"`` for a host with any scheme
            and port; ``".example.com"`` for it and its subdomains;
            ``"https://example.com:8443"`` for exactly that (without a port, the
            scheme's default); ``"capacitor://localhost"``, ``"chrome-extension://<id>"``
            and the like for apps; ``"file://"``; ``"null"`` for pages in files and
            sandboxes, of any site; a compiled regular expression that matches whole
            origins.
        allow_missing: whether a client without an Origin header passes. Apps on phones
            and servers send none, and they have no browser's cookies.

    Raises:
        ValueError: an entry of ``allowed_origins`` can match no origin.
    """

    setting = "the allowed_origins of OriginValidator"
    """The name of the list, for the log line about a refusal."""

    names_hosts = False
    """Whether the list holds hosts of this site, as opposed to origins."""

    def __init__(
        self,
        application: ASGIApp,
        allowed_origins: Iterable[str | re.Pattern[str]],
        *,
        allow_missing: bool = False,
    ) -> None:
        if isinstance(allowed_origins, Iterator):
            allowed_origins = list(allowed_origins)
        require_origins(allowed_origins)
        self.application = application
        self.allowed_origins = allowed_origins
        self.allow_missing = allow_missing
        mark_application(self)

    # No coroutine function: its coroutine would be 0.25 KB of each socket, and hold the
    # scope, which middleware inside copies.
    @markcoroutinefunction
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[Any]:
        """Serve or refuse the socket; a refusal is logged as a warning.

        Raises:
            ValueError: the scope is not that of a WebSocket.
        """
        if scope["type"] != "websocket":
            raise ValueError(
                "You cannot use OriginValidator on a non-WebSocket connection"
            )
        problem = self.origin_problem(header(scope, b"origin"))
        if problem is None:
            # A topics endpoint inside applies the same rule.
            scope["tiderace.origins"] = self
            return self.application(scope, receive, send)
        metrics.ORIGINS_REFUSED.add()
        log_refusal(logger, scope, problem)
        return WebsocketDenier()(scope, receive, send)

    def origin_problem(self, origin: str | None) -> OriginProblem | None:
        """Return why a socket with this Origin header is refused, or None."""
        if origin is None:
            if self.allow_missing or self.valid_origin(None):
                return None
            return OriginProblem(
                "it sent no Origin header, as browsers do",
                "for such clients pass allow_missing_origin=True to get_application(), or "
                "allow_missing=True to the validator",
            )
        if self.valid_origin(parse(origin)):
            return None
        allowed = ", ".join(map(str, self.allowed_origins)) or "nothing"
        return OriginProblem(
            f"its origin {shown(origin)} is not allowed",
            f"{self._advice(origin)} (allowed: {allowed})",
        )

    def _advice(self, origin: str) -> str:
        """Return the change of the settings that would allow an origin."""
        page = parse(origin)
        text = text_of(page)
        if page.scheme in ("http", "https") and page.hostname:
            return f"add the page's host to {self.setting}"
        if text not in WITHOUT_HOST and not page.hostname:
            return "no browser sends such an origin, so no setting allows it"
        where = self.setting
        if self.names_hosts:  # which has hosts of web pages alone
            where = "the origins of get_application(), beside those of the site"
        if text == "null":
            where += "; any sandboxed page has it, so authenticate clients by tokens"
        return f"add {shown(text)} to {where}"

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        """Return whether a socket with this origin, or None for no origin, passes."""
        if parsed_origin is None and "*" not in self.allowed_origins:
            return False
        return self.validate_origin(parsed_origin)

    def validate_origin(self, parsed_origin: ParseResult | None) -> bool:
        """Return whether any of the allowed origins covers this one."""
        return any(
            pattern == "*" or self.match_allowed_origin(parsed_origin, pattern)
            for pattern in self.allowed_origins
        )

    def match_allowed_origin(
        self, parsed_origin: ParseResult | None, pattern: str | re.Pattern[str]
    ) -> bool:
        """Return whether one allowed origin, which is not ``"*"``, covers this one."""
        if parsed_origin is None:
            return False
        text = text_of(parsed_origin)
        if isinstance(pattern, re.Pattern):
            return bool(text) and pattern.fullmatch(text) is not None
        if pattern in WITHOUT_HOST:
            return text == pattern
        if parsed_origin.hostname is None:
            return False
        allowed, host = _parsed(pattern)
        if not allowed.scheme:
            return is_same_domain(parsed_origin.hostname, host)
        return (
            allowed.scheme == parsed_origin.scheme
            and self.get_origin_port(allowed) == self.get_origin_port(parsed_origin)
            and is_same_domain(parsed_origin.hostname, allowed.hostname or "")
        )

    def get_origin_port(self, origin: ParseResult) -> int | None:
        """Return the port of an origin, by default its scheme's, or None."""
        if origin.port is not None:
            return origin.port
        return {"http": 80, "ws": 80, "https": 443, "wss": 443}.get(origin.scheme)


@lru_cache(maxsize=256)
def _parsed(pattern: str) -> tuple[ParseResult, str]:
    """Return an entry of a list of origins as an origin, and as a host."""
    return urlparse(pattern.lower()), urlparse(f"//{pattern}").hostname or pattern


class _AllowedHosts(OriginValidator):
    setting = "the setting ALLOWED_HOSTS"
    names_hosts = True

    # The base class refuses entries that cannot match; Django ignores them in this setting.
    def __init__(self, application: ASGIApp, *, allow_missing: bool) -> None:
        self.application = application
        self.allow_missing = allow_missing
        mark_application(self)

    @property
    def allowed_origins(self) -> list[str]:  # type: ignore[override]  # not to be set
        return allowed_hosts()

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        # As that of the base class, which would read the setting twice.
        allowed = allowed_hosts()
        if "*" in allowed:
            return True
        match = self.match_allowed_origin
        return any(match(parsed_origin, pattern) for pattern in allowed)


def AllowedHostsOriginValidator(  # noqa: N802 (Channels' name)
    application: ASGIApp, *, allow_missing: bool = False
) -> OriginValidator:
    """Let pages of the hosts in ``ALLOWED_HOSTS`` open WebSockets, and no others.

    The setting is read for each handshake, as Django reads it for each request, so that
    test runners and ``override_settings`` may change it. As in Django, an empty list with
    ``DEBUG`` means this machine.
    """
    return _AllowedHosts(application, allow_missing=allow_missing)


class WebsocketDenier:
    """An ASGI app that refuses each WebSocket, for which the server sends HTTP 403."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the handshake, unless the client has given up already."""
        event = await receive()
        if event["type"] == "websocket.connect":
            await send(websocket_close())

    @classmethod
    def as_asgi(cls) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """Return an instance, as a consumer's ``as_asgi`` returns an application."""
        return cls()
