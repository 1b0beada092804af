"""The chat's pages."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.chat import views

app_name = "chat"
urlpatterns = [
    path("chat/", views.lobby, name="lobby"),
    path("pictures/", views.upload, name="upload"),
    path("pictures/<int:pk>/", views.picture, name="picture"),
    path("chat/<slug:slug>/", views.room, name="room"),
]
