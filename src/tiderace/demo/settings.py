"""Settings of the demo site.

Environment variables change it: ``TIDERACE_DEMO_DATA`` is the path of the
SQLite file (default ``demo.sqlite3`` in the current directory),
``TIDERACE_DEMO_HOSTS`` a comma-separated list of host names besides
the loopback addresses; ``TIDERACE_DEMO_DEBUG=1`` enables Django's debug pages, whose
inline styles the CSP blocks; ``TIDERACE_DEMO_BOTS=0`` keeps the bots silent;
``TIDERACE_DEMO_LAYER=database`` lets processes share a SQLite file, and
``TIDERACE_DEMO_REDIS`` a Redis server at that URL.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tiderace.demo.secret_key import load_or_create_secret_key

HERE = Path(__file__).parent
DATA = Path(os.environ.get("TIDERACE_DEMO_DATA") or "demo.sqlite3").resolve()

SECRET_KEY = load_or_create_secret_key(DATA.with_name(f"{DATA.name}-key"))
DEBUG = os.environ.get("TIDERACE_DEMO_DEBUG") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"] + [
    host for host in os.environ.get("TIDERACE_DEMO_HOSTS", "").split(",") if host
]

INSTALLED_APPS = [
    "tiderace",  # first, so that its runserver is the one that is found
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "tiderace.demo.people",
    "tiderace.demo.bell",
    "tiderace.demo.chat",
    "tiderace.demo.board",
    "tiderace.demo.poll",
    "tiderace.demo.answers",
    "tiderace.demo.ops",
    "tiderace.demo.devices",
    "tiderace.demo.breakit",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "tiderace.demo.csp.content_security_policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "tiderace.demo.urls"
ASGI_APPLICATION = "tiderace.demo.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [HERE / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "tiderace.demo.people.person.as_context",
                "tiderace.demo.bell.context.bell",
                "tiderace.demo.source.as_context",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA,
        "OPTIONS": {
            "timeout": 20,
            # A writer that waits for its turn at BEGIN cannot be told later
            # that the database is locked; readers never wait for a writer.
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Reports that may wait for the worker that stores them.
_CONFIG: dict[str, Any] = {"channel_capacity": {"telemetry": 5_000}}
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "tiderace.layers.InMemoryChannelLayer",
        "CONFIG": _CONFIG,
    }
}
if os.environ.get("TIDERACE_DEMO_LAYER") == "database":
    CHANNEL_LAYERS["default"]["BACKEND"] = (
        "tiderace.layers.database.DatabaseChannelLayer"
    )
elif _redis := os.environ.get("TIDERACE_DEMO_REDIS"):
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
        "CONFIG": {**_CONFIG, "hosts": [_redis], "prefix": "tiderace-demo"},
    }

# Pages that were away during a flood of 10,000 messages recover it in one go.
TIDERACE = {"TOPICS": {"RECOVERED": 12_000}}

BOTS = os.environ.get("TIDERACE_DEMO_BOTS") != "0"

LOGIN_URL = "people:login"
LOGIN_REDIRECT_URL = "chat:lobby"
SESSION_COOKIE_NAME = "tiderace_demo_session"
CSRF_COOKIE_NAME = "tiderace_demo_csrf"

STATIC_URL = "static/"
STATICFILES_DIRS = [HERE / "static"]

TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    # Django mails errors to ADMINS when DEBUG is off; a demo's admin sits at its terminal.
    "loggers": {
        "django": {"handlers": ["console"], "level": "ERROR", "propagate": False}
    },
}
