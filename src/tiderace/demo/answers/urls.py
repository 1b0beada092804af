"""The page of the answers."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.answers import views

app_name = "answers"
urlpatterns = [
    path("answers/", views.page, name="page"),
    path("answers/ask/", views.ask, name="ask"),
]
