"""Settings of a project whose code is only checked, never run."""

from __future__ import annotations

SECRET_KEY = "for type checkers only"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "tiderace",
    "chat",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}}
