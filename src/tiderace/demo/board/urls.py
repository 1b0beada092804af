"""The board's page."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.board import views

__all__ = ["app_name", "urlpatterns"]

app_name = "board"
urlpatterns = [path("board/", views.board, name="board")]
