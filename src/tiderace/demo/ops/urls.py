"""The dashboard's page."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.ops import views

app_name = "ops"
urlpatterns = [path("operations/", views.page, name="page")]
