"""The probes of a process: ``/healthz`` for liveness, ``/readyz`` for readiness.

Before Django, where no middleware, host check or login affects them::

    application = get_application("chat.routing", settings="mysite.settings", health=True)

As Django views::

    urlpatterns = [path("", include("tiderace.health"))]
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.cache import never_cache

from tiderace.asgi import path_below_prefix
from tiderace.runtime.readiness import reasons_not_ready

if TYPE_CHECKING:
    from tiderace.asgi import ASGIApp, Receive, Scope, Send

__all__ = [
    "Health",
    "healthz",
    "readyz",
    "urlpatterns",
]


async def _live() -> tuple[int, dict[str, Any]]:
    # The answer itself shows that the event loop runs.
    return 200, {"alive": True}


async def _ready() -> tuple[int, dict[str, Any]]:
    reasons = await reasons_not_ready()
    return 503 if reasons else 200, {"ready": not reasons, "reasons": reasons}


@login_not_required
@never_cache
async def healthz(request: HttpRequest) -> JsonResponse:
    """Answer 200: the event loop runs."""
    status, body = await _live()
    return JsonResponse(body, status=status)


@login_not_required
@never_cache
async def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 when the process is ready for clients, else 503 with the reasons."""
    status, body = await _ready()
    return JsonResponse(body, status=status)


urlpatterns = [path("healthz", healthz), path("readyz", readyz)]


class Health:
    """An ASGI app that answers probes, and passes everything else on.

    Args:
        application: what gets the rest; HTTP or a whole router.
        live: the path that is answered with 200 while the event loop runs.
        ready: the path that is answered with 200 when the process is ready for clients,
            else with 503.
    """

    def __init__(
        self, application: ASGIApp, *, live: str = "/healthz", ready: str = "/readyz"
    ) -> None:
        self.application = application
        self._answers = {live: _live, ready: _ready}

    def serves_http(self, path: str) -> bool:
        """Return whether ``path``, below the site's prefix, is a probe's."""
        return path in self._answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Answer the probe, or return what the application returns."""
        answer = None
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            answer = self._answers.get(path_below_prefix(scope) or "")
        if answer is not None:
            status, body = await answer()
            return await _send_json(send, status, body)
        return await self.application(scope, receive, send)


async def _send_json(send: Send, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(data)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
