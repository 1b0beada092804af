"""Settings of the conformance server: a memory layer, tokens with the secret "secret"."""

from __future__ import annotations

import os

SECRET_KEY = "conformance, not a secret"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "tiderace",
    "conformance",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ASGI_APPLICATION = "conformance.asgi.application"
ROOT_URLCONF = "conformance.asgi"

if url := os.environ.get("REDIS_URL"):
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
            "CONFIG": {"hosts": [url], "prefix": f"conformance-{os.getpid()}"},
        }
    }
else:
    CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"},
    }

TIDERACE = {
    "TOKEN_KEYS": [
        {
            "algorithm": "HS256",
            "key": os.environ.get("CONFORMANCE_SECRET", "secret"),
        }
    ],
    "TOKEN_LEEWAY": 0.0,
    "TOPICS": {
        "USERS": "claims",
        "COMMANDS": "10000/s",
        "CONNECTS": None,
        "API_OPEN": True,
    },
}
