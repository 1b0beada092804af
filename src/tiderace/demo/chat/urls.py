"""The chat's pages."""

from __future__ import annotations

from django.urls import path, re_path

from tiderace.demo.chat import views

SLUG = r"(?P<slug>[A-Za-z0-9_-]{1,50})"

app_name = "chat"
urlpatterns = [
    path("chat/", views.lobby, name="lobby"),
    re_path(rf"^chat/{SLUG}/$", views.room, name="room"),
    path("notify/", views.notify, name="notify"),
    path("notify/command/", views.notify_by_command, name="notify-by-command"),
]
