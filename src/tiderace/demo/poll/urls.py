"""The pages of the poll, and their parts."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.poll import views

app_name = "poll"
urlpatterns = [
    path("poll/", views.present, name="present"),
    path("poll/results/", views.results, name="results"),
    path("poll/close/", views.close, name="close"),
    path("vote/", views.vote, name="vote"),
    path("vote/ballot/", views.ballot, name="ballot"),
]
