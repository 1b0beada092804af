"""The settings of a Channels project: what is reported and rewritten."""

from __future__ import annotations

import pytest

from support.migration import report_of, rewritten

STATIC = '"django.contrib.staticfiles"'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('["channels"]', '["tiderace"]'),
        ("['daphne', 'channels', 'chat']", "['tiderace', 'chat']"),
        ('["channels.apps.ChannelsConfig", "x"]', '["tiderace", "x"]'),
        ('["chat", "channels"]', '["chat", "tiderace"]'),
        ('["tiderace", "channels", "chat"]', '["tiderace", "chat"]'),
        ('["tiderace", "chat", "channels"]', '["tiderace", "chat"]'),
        (f'["x", {STATIC}, "channels"]', f'["tiderace", "x", {STATIC}]'),
        (
            f'[\n    "x",\n    {STATIC},\n    "channels",  # sockets\n]',
            f'[\n    "tiderace",\n    "x",\n    {STATIC},\n]',
        ),
        (
            f'[\n    "daphne",\n    {STATIC},\n    "channels",\n    "chat",\n]',
            f'[\n    "tiderace",\n    {STATIC},\n    "chat",\n]',
        ),
        ("(\n    'channels',\n    'chat'\n)", "(\n    'tiderace',\n    'chat'\n)"),
    ],
)
def test_the_apps_of_channels_become_one(old, new, tmp_path):
    assert (
        rewritten(tmp_path, f"INSTALLED_APPS = {old}\n") == f"INSTALLED_APPS = {new}\n"
    )


@pytest.mark.parametrize(
    "form",
    [
        "THIRD_PARTY_APPS = [{}]",
        "INSTALLED_APPS += [{}]",
        "INSTALLED_APPS.append({})",
        "INSTALLED_APPS.insert(0, {})",
        "INSTALLED_APPS: list[str] = [{}]",
        "settings.configure(INSTALLED_APPS=[{}])",
    ],
)
def test_apps_are_found_in_every_usual_form(form, tmp_path):
    assert rewritten(tmp_path, form.format("'channels'")) == form.format("'tiderace'")


def layers(backend, config="{}"):
    entry = f'{{"BACKEND": "{backend}", "CONFIG": {config}}}'
    return f'CHANNEL_LAYERS = {{"default": {entry}}}'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "channels.layers.InMemoryChannelLayer",
            "tiderace.layers.InMemoryChannelLayer",
        ),
        (
            "channels_redis.core.RedisChannelLayer",
            "tiderace.layers.redis.RedisChannelLayer",
        ),
        (
            "channels_redis.pubsub.RedisPubSubChannelLayer",
            "tiderace.layers.redis.RedisPubSubChannelLayer",
        ),
    ],
)
def test_a_backend_is_rewritten(old, new, tmp_path):
    assert rewritten(tmp_path, layers(old)) == layers(new)


def test_the_redis_layer_changes_its_format(tmp_path):
    [line] = report_of(tmp_path, layers("channels_redis.core.RedisChannelLayer"))

    assert line.startswith("1 changes: CHANNEL_LAYERS['default']: ")
    assert "change all processes in one deploy" in line


@pytest.mark.parametrize(
    ("config", "verdict", "text"),
    [
        ('{"hosts": [("localhost", 6379)]}', "same", "hosts"),
        ('{"hosts": "redis://localhost"}', "unsupported", "hosts must be a list"),
        ('{"capacity": 1500}', "changes", "each channel has its own"),
        ('{"prefix": "x"}', "same", "prefix"),
        ('{"expirey": 5}', "unsupported", "did you mean 'expiry'?"),
        ("config()", "changes", "manage.py check reads its options"),
    ],
)
def test_each_option_of_a_layer_is_reported(config, verdict, text, tmp_path):
    settings = layers("channels_redis.core.RedisChannelLayer", config)

    line = report_of(tmp_path, settings)[-1]

    assert line.startswith(f"1 {verdict}: CHANNEL_LAYERS['default']['CONFIG']")
    assert text in line


def test_a_layer_of_a_third_party_stays(tmp_path):
    settings = layers("channels_postgres.core.PostgresChannelLayer", '{"NAME": "x"}')

    [line] = report_of(tmp_path, settings)

    assert "topics need a layer of Tiderace" in line
    assert rewritten(tmp_path, settings) == settings


@pytest.mark.parametrize(
    "backend",
    [
        "tiderace.layers.InMemoryChannelLayer",
        "tiderace.layers.database.DatabaseChannelLayer",
    ],
)
def test_a_layer_of_tiderace_is_not_reported(backend, tmp_path):
    assert not report_of(tmp_path, layers(backend))


def test_routing_in_a_layer_is_of_channels_1(tmp_path):
    settings = 'CHANNEL_LAYERS = {"default": {"ROUTING": "x.y"}}'

    assert "Channels 1" in report_of(tmp_path, settings)[0]


def test_the_application_is_the_same(tmp_path):
    settings = 'ASGI_APPLICATION = "mysite.asgi.application"'

    assert report_of(tmp_path, settings) == ["1 same: ASGI_APPLICATION"]
