"""The devices' page, and where they report over HTTP."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.devices import views

app_name = "devices"
urlpatterns = [
    path("devices/", views.page, name="page"),
    path("devices/report/", views.report, name="report"),
]
