"""Settings as a Channels project writes them: the in-memory layer, no database.

``SERVERS_SITE_REDIS`` names a server for the layer, ``SERVERS_SITE_DEBUG`` turns DEBUG on.
"""

import os

SECRET_KEY = "tests-only"
DEBUG = bool(os.environ.get("SERVERS_SITE_DEBUG"))
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
INSTALLED_APPS = ["daphne", "channels"]
ROOT_URLCONF = "sites.servers_site.urls"
ASGI_APPLICATION = "sites.servers_site.asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
if redis := os.environ.get("SERVERS_SITE_REDIS"):
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [redis], "prefix": os.environ["SERVERS_SITE_PREFIX"]},
    }
