"""Topics with every hook, plain and async, with the user model of the project."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import assert_type

import msgspec
from django.contrib.auth.models import AnonymousUser, User

from chat.models import Message
from tiderace.topics import (
    AllowAny,
    BasePermission,
    HasPerm,
    History,
    IsAuthenticated,
    IsStaff,
    Presence,
    Refuse,
    Topic,
    rpc,
)
from tiderace.topics.models import changes_of


class Draft(msgspec.Struct):
    text: str


class Line(msgspec.Struct):
    text: str
    by: str


class Room(Topic):
    pattern = "room:<slug:name>"
    history = History(size=100, ttl=3600)
    presence = Presence.PER_USER
    presence_grace = 5
    permission_classes = [IsAuthenticated & (HasPerm("chat.view") | IsStaff)]
    message = Draft
    publication = Line | changes_of(Message)
    publish_rate = None
    user_rate = "10/s"

    async def can_subscribe(self, user: User) -> bool:
        return await user.groups.filter(name=self.kwargs["name"]).aexists()

    def can_publish(self, user: User) -> bool:
        return user.is_active

    def can_see_presence(self, user: User) -> bool:
        return True

    async def can_read_history(self, user: User) -> bool:
        return True

    async def on_publish(self, user: User, message: Draft) -> Line | None:
        if not message.text:
            raise Refuse("empty", code=422)
        return Line(message.text, user.get_username())

    def on_subscribe(self, user: User, data: object) -> dict[str, str]:
        return {"topic": self.topic}

    def user_joined(self, user_id: str) -> None: ...

    async def user_left(self, user_id: str) -> None: ...

    @classmethod
    def topics_for(cls, user: User | AnonymousUser) -> Iterable[str]:
        return ["room:lobby"] if user.is_authenticated else []

    @rpc
    async def rename(self, user: User, to: str, times: int = 1) -> list[str]:
        return [to] * times


class Inbox(Topic):
    pattern = "inbox:<int:pk>"
    history = None
    permission_classes = (AllowAny,)

    # Other names of the parameters, and the shorter form.
    async def can_subscribe(self, member: User) -> bool:
        return bool(member.pk == self.kwargs["pk"])

    async def on_subscribe(self, user: User) -> None: ...

    @classmethod
    async def topics_for(cls, user: User) -> list[str]:
        return [f"inbox:{user.pk}"]


class IsOwner(BasePermission):
    def has_permission(self, user: User, topic: Topic, action: str) -> bool:
        return bool(topic.kwargs["pk"] == user.pk)


room = Room("room:tea", {"name": "tea"})
renaming: Callable[[User, str], Awaitable[list[str]]] = room.rename
assert_type(room.topic, str)
