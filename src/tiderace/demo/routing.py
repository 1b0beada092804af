"""The WebSocket routes of the demo: the chat's, and that of the topics."""

from __future__ import annotations

from django.urls import path, re_path

from tiderace.demo.board.topics import Endpoint
from tiderace.demo.chat.consumers import NoticeConsumer, RoomConsumer
from tiderace.demo.chat.urls import SLUG

websocket_urlpatterns = [
    re_path(rf"^ws/chat/{SLUG}/$", RoomConsumer.as_asgi()),
    path("ws/notices/", NoticeConsumer.as_asgi()),
    path("connection/", Endpoint.as_asgi()),
]
