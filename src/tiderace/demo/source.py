"""The page that shows the source of an app of the demo, read from the running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.apps import apps
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

# In this order: the topic, the view, the models, then the scripts of the page.
_PATTERNS = (
    "topics.py",
    "models.py",
    "views.py",
    "*.py",
    "static/**/*.js",
    "templates/**/*.html",
)


def source(request: HttpRequest, app: str) -> HttpResponse:
    """Show the modules, scripts and templates of an app of the demo."""
    config = apps.app_configs.get(app)
    if config is None or not config.name.startswith("tiderace.demo."):
        raise Http404(f"the demo has no app {app!r}")
    folder = Path(config.path)
    files = dict.fromkeys(
        file for pattern in _PATTERNS for file in sorted(folder.glob(pattern))
    )
    page = {"app": app, "files": [_shown(folder, file) for file in files]}
    return render(request, "source.html", page)


def _shown(folder: Path, file: Path) -> dict[str, Any]:
    text = file.read_text(encoding="utf-8")
    name = file.relative_to(folder.parent).as_posix()
    return {"name": name, "text": text, "lines": text.count("\n")}


def as_context(request: HttpRequest) -> dict[str, Any]:
    """Context processor for ``source_app``, the app whose view shows the page."""
    match = request.resolver_match
    name = match.app_name if match else ""
    return {"source_app": name if name in apps.app_configs else None}
