"""A site whose page has parts in ``{% live %}``; tests set the HTML of the parts.

``/set?board=…`` sets the HTML of a part and publishes to its topic, ``/status?code=…``
the status of the next responses. Its policy allows no inline script and no strings that
become HTML.
"""

from __future__ import annotations

import asyncio
from typing import Any

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="of a test, not a secret",
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF="browser.live_element_site",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.staticfiles",
        "tiderace",
    ],
    STATIC_URL="/static/",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "context_processors": ["django.template.context_processors.request"]
            },
        }
    ],
    CHANNEL_LAYERS={"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}},
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)
django.setup()

from asgiref.sync import sync_to_async  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.shortcuts import redirect  # noqa: E402
from django.template import RequestContext, Template  # noqa: E402
from django.urls import path  # noqa: E402

from tiderace.routing import get_application  # noqa: E402
from tiderace.topics import (  # noqa: E402
    AllowAny,
    History,
    Topic,
    TopicsEndpoint,
    apublish,
)

POLICY = (
    "default-src 'self'; script-src 'self'; base-uri 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
PAGE = Template(
    """<!doctype html><meta charset="utf-8"><title>Live</title>
{% load tiderace %}{% tiderace_script %}<link rel="icon" href="/icon">
{% live "board" every=0 %}{{ board|safe }}{% endlive %}
{% live "slow" every=1 %}{{ slow|safe }}{% endlive %}
{% live "board" "plain" id="both" every=0 %}<p>{{ visitor }}</p>{% endlive %}"""
)
parts: dict[str, Any] = {"board": "<p id='first'>first</p>", "slow": ""}
state: dict[str, Any] = {"code": 200, "requests": 0, "gate": None}


class Board(Topic):
    pattern = "<slug:name>"
    history = History(size=3, ttl=60)
    permission_classes = [AllowAny]


class Plain(Topic):
    """A topic without a history."""

    pattern = "plain"
    permission_classes = [AllowAny]


async def page(request: HttpRequest) -> HttpResponse:
    if "Tiderace-Live" in request.headers:
        state["requests"] += 1
        if state["gate"] is not None:
            await state["gate"].wait()
        if state["code"] == 302:
            return redirect("/login")
        if state["code"] != 200:
            return HttpResponse(status=state["code"])
    visitor = request.COOKIES.get("visitor", "nobody")
    context = RequestContext(request, {**parts, "visitor": visitor})
    response = HttpResponse(await sync_to_async(PAGE.render)(context))
    if "loose" not in request.GET:
        response["Content-Security-Policy"] = POLICY
    return response


async def set_parts(request: HttpRequest) -> HttpResponse:
    for name, html in request.GET.items():
        parts[name] = html
        await apublish(name, "<b id='published'>data</b>")
    return HttpResponse()


async def set_status(request: HttpRequest) -> HttpResponse:
    state["code"] = int(request.GET["code"])
    return HttpResponse()


async def hold(request: HttpRequest) -> HttpResponse:
    """Let requests for parts wait, until it is called again."""
    if state["gate"] is None:
        state["gate"] = asyncio.Event()
    else:
        state["gate"].set()
        state["gate"] = None
    return HttpResponse()


async def count(request: HttpRequest) -> HttpResponse:
    return JsonResponse(state["requests"], safe=False)


async def login(request: HttpRequest) -> HttpResponse:
    return HttpResponse("<p>log in</p>")


urlpatterns = [
    path("", page),
    path("set", set_parts),
    path("status", set_status),
    path("hold", hold),
    path("count", count),
    path("login", login),
    path("icon", lambda request: HttpResponse(status=204)),
]
routes = [path("connection/", TopicsEndpoint.as_asgi())]
application = get_application(routes)
application.application_mapping["http"] = ASGIStaticFilesHandler(
    application.application_mapping["http"]
)
