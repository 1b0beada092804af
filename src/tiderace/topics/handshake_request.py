"""A connection's handshake with the attributes of a request.

For permissions of Django REST Framework, which is not imported.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from django.http import QueryDict
from django.http.request import HttpHeaders

from tiderace.asgi import Scope

__all__ = ["HandshakeRequest"]


class HandshakeRequest:
    """The handshake of a connection, with the attribute names of a Django request.

    Attributes:
        user: the connection's user.
        auth: ``scope["auth"]`` of an outer middleware, or None.
        method: ``"POST"`` to publish, ``"GET"`` for all else.
        path: of the handshake.
        data: empty.
    """

    def __init__(self, scope: Scope, user: Any, method: str) -> None:
        self.scope = scope
        self.user = user
        self.auth = scope.get("auth")
        self.method = method
        self.path: str = scope.get("path", "")
        self.data: dict[str, Any] = {}

    @cached_property
    def META(self) -> dict[str, Any]:  # noqa: N802 (Django's name)
        """Headers and addresses by their WSGI names."""
        meta: dict[str, Any] = {
            "REQUEST_METHOD": self.method,
            "QUERY_STRING": self._query,
            "PATH_INFO": self.path,
        }
        if client := self.scope.get("client"):
            meta["REMOTE_ADDR"], meta["REMOTE_PORT"] = client[0], client[1]
        if server := self.scope.get("server"):
            meta["SERVER_NAME"], meta["SERVER_PORT"] = server[0], str(server[1])
        for name, value in self.scope.get("headers", ()):
            # As in Django: it would have the key of the header with a hyphen, which a
            # proxy may set or remove.
            if b"_" in name:
                continue
            key = name.decode("latin1").upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = f"HTTP_{key}"
            text = value.decode("latin1")
            meta[key] = f"{meta[key]},{text}" if key in meta else text
        return meta

    @cached_property
    def headers(self) -> HttpHeaders:
        """The handshake's headers; names are case-insensitive."""
        return HttpHeaders(self.META)

    @cached_property
    def query_params(self) -> QueryDict:
        """The handshake's query string."""
        return QueryDict(self._query)

    @property
    def GET(self) -> QueryDict:  # noqa: N802 (Django's name)
        """``query_params`` under Django's name."""
        return self.query_params

    @property
    def COOKIES(self) -> dict[str, str]:  # noqa: N802 (Django's name)
        """The handshake's cookies, if ``CookieMiddleware`` is outside."""
        return dict(self.scope.get("cookies") or {})

    @property
    def session(self) -> Any:
        """The session, if ``SessionMiddleware`` is outside, or None."""
        return self.scope.get("session")

    @property
    def _query(self) -> str:
        return bytes(self.scope.get("query_string") or b"").decode("latin1")
