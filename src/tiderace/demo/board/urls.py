"""The board's page."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.board import views

app_name = "board"
urlpatterns = [path("board/", views.board, name="board")]
