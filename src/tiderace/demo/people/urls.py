"""The sign-in pages."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.people import views

app_name = "people"
urlpatterns = [
    path("login/", views.Login.as_view(), name="login"),
    path("guest/", views.guest, name="guest"),
    path("logout/", views.logout, name="logout"),
]
