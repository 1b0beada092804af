"""The site behind the live-server tests: views, consumers and the ASGI application."""

from __future__ import annotations

import json

from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

from tiderace.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from tiderace.routing import ProtocolTypeRouter, URLRouter

GREETING = "hello"


def hello(request):
    return HttpResponse(GREETING)


def users(request):
    return HttpResponse(",".join(User.objects.values_list("username", flat=True)))


class Echo(AsyncWebsocketConsumer):
    """Sends back what it gets."""

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)


class Register(WebsocketConsumer):
    """Makes a user of every name it gets, and answers with all of them."""

    def receive(self, text_data=None, bytes_data=None):
        User.objects.create(username=text_data)
        names = User.objects.order_by("username").values_list("username", flat=True)
        self.send(text_data=json.dumps(list(names)))


class Users(AsyncWebsocketConsumer):
    """Sends all user names at once."""

    async def connect(self):
        await self.accept()
        names = [user.username async for user in User.objects.order_by("username")]
        await self.send(text_data=json.dumps(names))


urlpatterns = [path("hello/", hello), path("users/", users)]

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [
                path("ws/echo/", Echo.as_asgi()),
                path("ws/register/", Register.as_asgi()),
                path("ws/users/", Users.as_asgi()),
            ]
        ),
    }
)
