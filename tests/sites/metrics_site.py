"""A site of several processes whose metrics are scraped through one port."""

from __future__ import annotations

import os

import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

if not settings.configured:
    settings.configure(
        SECRET_KEY="tests-only",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["tiderace"],
        CHANNEL_LAYERS={"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}},
    )
    django.setup()

from django.core.asgi import get_asgi_application

from tiderace.layers import get_channel_layer
from tiderace.monitoring.prometheus import metrics_view


async def work(request):
    await get_channel_layer().group_send("nobody", {"type": "x"})
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("metrics", metrics_view), path("work", work)]
application = get_asgi_application()
