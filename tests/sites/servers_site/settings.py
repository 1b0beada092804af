"""Settings as a Channels project writes them: the in-memory layer, no database."""

SECRET_KEY = "tests-only"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
INSTALLED_APPS = ["daphne", "channels"]
ROOT_URLCONF = "sites.servers_site.urls"
ASGI_APPLICATION = "sites.servers_site.asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
