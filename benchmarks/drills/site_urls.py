"""The views of the drills' site."""

from __future__ import annotations

from django.contrib.auth.models import Group
from django.http import HttpResponse
from django.urls import path


def save(request, number, outcome):
    """Save a row and publish its number; then fail, if wanted, which undoes both."""
    from tiderace.topics import publish

    Group.objects.create(name=str(number))
    publish("stream:rows", {"n": number})
    if outcome == "fails":
        raise RuntimeError("the drill: after the publish")
    return HttpResponse("saved")


urlpatterns = [path("save/<int:number>/<slug:outcome>/", save)]
