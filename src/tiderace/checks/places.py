"""System checks of consumers and topics in modules where they have no effect."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 (Django's name)
from django.urls import get_resolver

from tiderace.checks import check

# Modules of apps and of packages of apps, below the folder of the project.
_MODULES = ("*/*.py", "*/*/*.py")
# How similar a module's name has to be to "topics", from 0 to 1: "topic" is 0.91.
_SIMILAR = 0.83


@check()
def check_url_patterns() -> Iterator[CheckMessage]:
    """Refuse consumers and endpoints in Django's URLs, which serve requests alone."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return
    try:
        patterns = get_resolver().url_patterns
    except Exception:
        return  # Django's own check reports what the import of urls.py raises
    for route, cls in _asgi_classes(patterns):
        yield Error(
            f"The URL pattern {route!r} has {cls.__name__}.as_asgi(), which Django's "
            "URLs cannot call.",
            hint="Move it to the routes in asgi.py: get_application([path(…)]).",
            id="tiderace.E036",
        )


@check()
def check_topics_modules() -> Iterator[CheckMessage]:
    """Warn of modules with topics of the project that Django's start does not import.

    A module counts if its name is ``topics`` or resembles it.
    """
    folder = _project_folder()
    if folder is None:
        return
    imported = {getattr(each, "__file__", None) for each in [*sys.modules.values()]}
    installed = {config.name for config in apps.get_app_configs()}
    for file in sorted(file for each in _MODULES for file in folder.glob(each)):
        if (
            str(file) in imported
            or not _resembles_topics(file.stem)
            or not (file.parent / "__init__.py").exists()
            or not _declares_topics(file)
        ):
            continue
        package = ".".join(file.parent.relative_to(folder).parts)
        if package in installed:
            why = "only modules of the name topics.py are."
            hint = f"Rename it to topics.py, or import it in the app {package!r}."
        else:
            why = f"{package!r} is no app in INSTALLED_APPS."
            hint = f'List "{package}" there, or move the topics to an app.'
        yield Warning(
            f"{file} declares topics and is not imported: {why}",
            hint=hint,
            id="tiderace.W037",
        )


def _resembles_topics(name: str) -> bool:
    return SequenceMatcher(None, name.lower(), "topics").ratio() > _SIMILAR


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
