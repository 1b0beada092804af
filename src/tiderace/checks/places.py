"""System checks of what stands in a place where it has no effect."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 (Django's name)
from django.urls import get_resolver

from tiderace.checks import check

# Folders below that of the project in which its apps are: apps, or packages of apps.
_APPS = ("*/topics.py", "*/*/topics.py")


@check()
def check_url_patterns() -> Iterator[CheckMessage]:
    """Refuse consumers and endpoints in Django's URLs, which serve requests alone."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return
    try:
        patterns = get_resolver().url_patterns
    except Exception:
        return  # what the import of urls.py raises, Django's own check reports
    for route, cls in _asgi_classes(patterns):
        yield Error(
            f"The URL pattern {route!r} has {cls.__name__}.as_asgi(), which Django's "
            "URLs cannot call.",
            hint="Move it to the routes in asgi.py: get_application([path(…)]).",
            id="tiderace.E036",
        )


@check()
def check_topics_modules() -> Iterator[CheckMessage]:
    """Warn of ``topics.py`` files of the project that Django's start does not import."""
    imported = {getattr(each, "__file__", None) for each in [*sys.modules.values()]}
    folder = _project_folder()
    if folder is None:
        return
    for pattern in _APPS:
        for file in sorted(folder.glob(pattern)):
            is_module = (file.parent / "__init__.py").exists()
            if is_module and str(file) not in imported and _declares_topics(file):
                package = ".".join(file.parent.relative_to(folder).parts)
                yield Warning(
                    f"{file} declares topics and is not imported: {package!r} is no "
                    "app in INSTALLED_APPS.",
                    hint=f'List "{package}" there, or move the topics to an app.',
                    id="tiderace.W037",
                )


def _asgi_classes(
    patterns: Iterable[Any], prefix: str = ""
) -> Iterator[tuple[str, type]]:
    """Yield route and class of the patterns with a consumer or an endpoint."""
    for each in patterns:
        route = f"{prefix}{each.pattern}"
        callback = getattr(each, "callback", None)
        for attribute in ("consumer_class", "endpoint_class"):
            if cls := getattr(callback, attribute, None):
                yield route, cls
        yield from _asgi_classes(getattr(each, "url_patterns", ()), route)


def _project_folder() -> Path | None:
    """Return the folder of the package that has the settings."""
    # None with settings of settings.configure().
    package = (settings.SETTINGS_MODULE or "").partition(".")[0]
    spec = importlib.util.find_spec(package) if package else None
    return Path(spec.origin).parents[1] if spec and spec.origin else None


def _declares_topics(file: Path) -> bool:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return "tiderace" in text and "Topic)" in text
