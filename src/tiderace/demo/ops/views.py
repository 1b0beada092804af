"""The page of the dashboard; its charts are drawn from the topic."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from tiderace.demo.ops.topics import METRICS


@login_required
def page(request: HttpRequest) -> HttpResponse:
    """Show the charts."""
    return render(request, "ops/page.html", {"config": {"topic": METRICS}})
