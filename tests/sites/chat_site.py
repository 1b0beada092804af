"""A chat with topics, a view that publishes, and sessions: what projects test."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpResponse
from django.urls import path

from tiderace.routing import get_application
from tiderace.topics import (
    History,
    IsAuthenticated,
    Latest,
    Presence,
    Refuse,
    Topic,
    TopicsEndpoint,
    publish,
    rpc,
)


class Room(Topic):
    pattern = "chat-site:<slug:name>"
    history = History(size=10, ttl=60)
    presence = Presence.PER_CONNECTION
    whispers = True

    def can_subscribe(self, user):
        # A query, in sync code: the test's own transaction must be the one it sees.
        return User.objects.filter(pk=user.pk, first_name="member").exists()

    def can_publish(self, user):
        return True

    def on_publish(self, user, message):
        if not message.get("text"):
            raise Refuse("a message needs a text", code=422)
        return {"text": message["text"], "by": user.username}

    def on_subscribe(self, user, data):
        return {"welcome": user.username, "said": data}

    @rpc
    def members(self) -> int:
        return User.objects.filter(first_name="member").count()

    @rpc
    def fail(self) -> None:
        raise LookupError("a bug in the method")


class Sensor(Topic):
    pattern = "chat-site-sensor:<slug:name>"
    permission_classes = [IsAuthenticated]
    deliver = Latest(rate="1/h")


class Users(Topic):
    pattern = "chat-site-users:<slug:name>"
    presence = Presence.PER_USER
    permission_classes = [IsAuthenticated]


class Inbox(Topic):
    pattern = "chat-site-inbox:<int:pk>"
    permission_classes = [IsAuthenticated]

    @classmethod
    def topics_for(cls, user):
        return [f"chat-site-inbox:{user.pk}"] if user.is_authenticated else []


class Endpoint(TopicsEndpoint):
    """With every hook."""

    def user_info(self, user, scope):
        return {"name": user.username}

    def on_connect(self, user, data):
        if data == "unwanted":
            raise Refuse("not today", code=450)
        return {"you": user.username, "sent": data}

    def on_message(self, user, data):
        User.objects.filter(pk=user.pk).update(last_name=data)

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b


def say(request, room):
    """Save and publish in one transaction; the text ``fail`` rolls it back."""
    text = request.POST["text"]
    with transaction.atomic():
        request.user.last_name = text
        request.user.save()
        publish(f"chat-site:{room}", {"text": text, "by": request.user.username})
        if text == "fail":
            raise ValueError(text)
    return HttpResponse("said")


urlpatterns = [path("rooms/<slug:room>/say/", say)]

application = get_application([path("connection/", Endpoint.as_asgi())])

TOPICS = (Room, Sensor, Users, Inbox)
