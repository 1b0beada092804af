"""The WebSocket routes of the chat."""

from __future__ import annotations

from django.urls import path, re_path

from tiderace.demo.chat.consumers import NoticeConsumer, RoomConsumer
from tiderace.demo.chat.urls import SLUG

__all__ = ["websocket_urlpatterns"]

websocket_urlpatterns = [
    re_path(rf"^ws/chat/{SLUG}/$", RoomConsumer.as_asgi()),
    path("ws/notices/", NoticeConsumer.as_asgi()),
]
