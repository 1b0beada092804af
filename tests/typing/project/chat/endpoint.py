"""An endpoint with hooks, plain and async."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AnonymousUser, User

from tiderace.asgi import Scope
from tiderace.topics import Refuse, TopicsEndpoint, rpc


class Endpoint(TopicsEndpoint):
    allowed_origins = ["https://example.com"]

    def user_info(self, user: User | AnonymousUser, scope: Scope) -> dict[str, str]:
        return {"name": user.get_username()}

    async def on_connect(self, user: User | AnonymousUser, data: Any) -> dict[str, int]:
        if user.is_anonymous:
            raise Refuse("log in first", code=401)
        return {"unread": 3}

    def on_message(self, user: User, data: Any) -> None: ...

    async def on_api_call(self, method: str, params: Any) -> Any:
        return await super().on_api_call(method, params)

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b


class SecondEndpoint(Endpoint):
    async def on_connect(self, user: User | AnonymousUser, data: Any) -> dict[str, int]:
        return {**await super().on_connect(user, data), "more": 1}
