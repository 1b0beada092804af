"""The topics that the suites expect, by what their names begin with."""

from __future__ import annotations

from django.urls import register_converter
from django.urls.converters import get_converters

from tiderace.topics import (
    AllowAny,
    BasePermission,
    History,
    IsAuthenticated,
    Presence,
    Topic,
)


class PlainConverter:
    """A name without a namespace."""

    regex = "[^:#]+"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


if "plain" not in get_converters():
    register_converter(PlainConverter, "plain")


class Open(Topic):
    """Anybody may do anything here."""

    permission_classes = [AllowAny]
    publish_rate = None
    user_rate = None
    # Some suites publish without having subscribed.
    subscribers_only = False
    whispers = True

    async def can_publish(self, user):
        return True


class Default(Open):
    pattern = "<plain:name>"
    history = History(size=100, ttl=300)
    presence = Presence.PER_CONNECTION
    push_joins = True
    delta = True


class Delta(Open):
    pattern = "delta:<plain:name>"
    history = History(size=100, ttl=300)
    delta = True


class Small(Open):
    pattern = "smallhistory:<plain:name>"
    history = History(size=2, ttl=300)


class Latest(Open):
    pattern = "latest:<plain:name>"
    history = History(size=2, ttl=300)
    rewind = 1


class Recovery(Open):
    pattern = "recovery:<plain:name>"
    history = History(size=100, ttl=300)


class NoHistory(Open):
    pattern = "nohistory:<plain:name>"
    presence = Presence.PER_CONNECTION


class Bytes(Open):
    pattern = "bytes:<plain:name>"
    history = History(size=100, ttl=300)
    message = bytes
    whispers = False


class Inbox(Open):
    pattern = "inbox:<plain:name>"
    history = History(size=100, ttl=300)

    async def can_read_history(self, user):
        return False


class IsOwner(BasePermission):
    """Only the user after whom a personal topic is called."""

    def has_permission(self, user, topic, action):
        return str(user.pk) in topic.kwargs["users"].split(",")


class Personal(Open):
    pattern = "#<str:users>"
    permission_classes = [IsAuthenticated & IsOwner]
    history = History(size=100, ttl=300)
    presence = Presence.PER_CONNECTION
    push_joins = True

    @classmethod
    def topics_for(cls, user):
        return [f"#{user.pk}"] if user.is_authenticated else []
