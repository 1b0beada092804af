"""A connection's handshake as a request, for permissions of Django REST Framework.

The framework is not imported.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import QueryDict

from tiderace.asgi import Scope

__all__ = ["HandshakeRequest"]


class HandshakeRequest(ASGIRequest):
    """The handshake of a connection, as Django's request without a body.

    Attributes:
        user: the connection's user.
        auth: ``scope["auth"]`` of an outer middleware, or None.
        session: that of ``SessionMiddleware`` if it is outside, or None.
        COOKIES: those of ``CookieMiddleware`` if it is outside.
        method: ``"POST"`` to publish, ``"GET"`` for all else.
        data: empty.
    """

    def __init__(self, scope: Scope, user: Any, method: str) -> None:
        query = bytes(scope.get("query_string") or b"").decode("latin1")
        # Dropped as in newer releases of Django: in META, "X_Remote_User" would be the
        # same as "X-Remote-User".
        headers = [each for each in scope.get("headers", ()) if b"_" not in each[0]]
        handshake = {"path": "", **scope, "method": method, "query_string": query}
        handshake["headers"] = headers
        super().__init__(handshake, BytesIO())
        self.user = user
        self.auth = scope.get("auth")
        self.session: Any = scope.get("session")
        self.COOKIES = dict(scope.get("cookies") or {})
        self.data: dict[str, Any] = {}

    @property
    def query_params(self) -> QueryDict:
        """``GET`` under Django REST Framework's name."""
        return self.GET
