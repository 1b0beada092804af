"""The page that breaks things."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.breakit import views

app_name = "breakit"
urlpatterns = [path("break-it/", views.page, name="page")]
