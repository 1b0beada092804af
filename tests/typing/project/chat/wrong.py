"""Mistakes that a type checker finds: each comment would be an error without its mistake."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.urls import path

from tiderace.testing import TopicsClient
from tiderace.topics import Position, Topic, TopicsEndpoint, apublish, history, publish


class Room(Topic):
    history = 100  # type: ignore[assignment]
    presence = True  # type: ignore[assignment]
    pattern = ["room"]  # type: ignore[assignment]

    def can_subscribe(self, user: User, room: str) -> bool:  # type: ignore[override]
        return True

    async def can_publish(self, user: User) -> str:  # type: ignore[override]
        return "yes"

    def on_publish(self, message: Any) -> Any:  # type: ignore[override]
        return message

    def user_joined(self, user: User) -> None:  # type: ignore[override]
        ...

    @classmethod
    def topics_for(cls, user: User) -> int:  # type: ignore[override]
        return 1


class Endpoint(TopicsEndpoint):
    def on_connect(self, user: User) -> None:  # type: ignore[override]
        ...


routes = [path("connection/", TopicsEndpoint)]  # type: ignore[arg-type]


async def mistakes() -> None:
    position: Position = publish("room:tea", 1)  # type: ignore[assignment]
    publish(1, "room:tea")  # type: ignore[arg-type]
    publish("room:tea")  # type: ignore[call-arg]
    number: int = apublish("room:tea", 1)  # type: ignore[assignment]
    history("room:tea", limit="10")  # type: ignore[arg-type]
    TopicsClient(usr="alice")  # type: ignore[call-arg]
    print(position, number)
