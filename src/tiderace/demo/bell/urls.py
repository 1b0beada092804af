"""The page of the notifications."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.bell import views

app_name = "bell"
urlpatterns = [
    path("notify/", views.send, name="send"),
    path("notify/task/", views.task, name="task"),
    path("notify/rollback/", views.rollback, name="rollback"),
    path("notify/command/", views.by_command, name="by-command"),
]
