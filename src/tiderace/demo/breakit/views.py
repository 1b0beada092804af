"""The page with the buttons; the counting is the page's own."""

from __future__ import annotations

import secrets

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from tiderace.demo.breakit import faults


@login_required
def page(request: HttpRequest) -> HttpResponse:
    """Show the buttons; each load of the page is an experiment of its own."""
    topic = f"breakit:{request.user.pk}:{secrets.token_hex(4)}"
    context = {"config": {"topic": topic}, "available": faults.available()}
    return render(request, "breakit/page.html", context)
