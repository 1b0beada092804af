"""The URLs of the demo."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from tiderace.demo.source import source

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="chat:lobby")),
    path("admin/", admin.site.urls),
    path("source/<slug:app>/", source, name="source"),
    path("", include("tiderace.demo.people.urls")),
    path("", include("tiderace.demo.bell.urls")),
    path("", include("tiderace.demo.chat.urls")),
    path("", include("tiderace.demo.board.urls")),
    path("", include("tiderace.demo.poll.urls")),
    path("", include("tiderace.demo.answers.urls")),
    path("", include("tiderace.demo.ops.urls")),
    path("", include("tiderace.demo.devices.urls")),
    path("", include("tiderace.demo.breakit.urls")),
]
