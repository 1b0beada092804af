"""Tests of the system checks."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest
from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks as django_checks
from django.core.management import get_commands
from django.core.management.base import BaseCommand
from django.test import override_settings
from django.urls import path

from tiderace.apps import TideraceConfig
from tiderace.checks import application as application_checks
from tiderace.checks import settings as settings_checks
from tiderace.compat.daphne.apps import DaphneConfig
from tiderace.compat.finder import AliasFinder
from tiderace.consumer import AsyncConsumer
from tiderace.layers import BaseChannelLayer
from tiderace.management.commands import runserver
from tiderace.routing import ProtocolTypeRouter, URLRouter, get_application
from tiderace.security.websocket import OriginValidator
from tiderace.topics import TopicsEndpoint

ROOT = Path(__file__).parents[1]
MEMORY = "tiderace.layers.InMemoryChannelLayer"


def ids(messages):
    return [message.id for message in messages]


def only(messages, identity: str):
    """The one message there is, which must have this id and a hint."""
    assert ids(messages) == [identity]
    assert messages[0].hint
    return messages[0]


# ASGI_APPLICATION


@override_settings(ASGI_APPLICATION=None, WSGI_APPLICATION=None)
def test_the_warning_for_a_missing_asgi_application_contains_the_line_to_add():
    warning = only(settings_checks.check_asgi_application(None), "tiderace.W001")

    assert 'ASGI_APPLICATION = "settings.asgi.application"' in warning.hint


@override_settings(ASGI_APPLICATION=None, WSGI_APPLICATION="shop.web.wsgi.application")
def test_the_suggested_asgi_application_is_beside_the_wsgi_one():
    [warning] = settings_checks.check_asgi_application(None)

    assert '"shop.web.asgi.application"' in warning.hint


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("application", "not a dotted path"),
        ("shop asgi.application", "not a dotted path"),
        ("sites.live_site:application", "not a dotted path"),
        ("no_such_shop.asgi.application", "no module 'no_such_shop'"),
        ("tiderace.nowhere.application", "no module 'tiderace.nowhere'"),
        (len, "not a string"),
    ],
)
def test_an_impossible_asgi_application_is_an_error(path, problem):
    with override_settings(ASGI_APPLICATION=path):
        error = only(settings_checks.check_asgi_application(None), "tiderace.E002")

    assert problem in error.msg


@override_settings(ASGI_APPLICATION="broken_on_import.application")
def test_the_check_does_not_import_the_asgi_application(tmp_path, monkeypatch):
    source = "raise SystemExit('imported')\napplication = None\n"
    (tmp_path / "broken_on_import.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    assert settings_checks.check_asgi_application(None) == []


@override_settings(ASGI_APPLICATION="harbour_asgi.aplication")
def test_a_misspelt_name_of_the_application_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "harbour_asgi.py").write_text("application = object()\n")
    monkeypatch.syspath_prepend(tmp_path)

    error = only(settings_checks.check_asgi_application(None), "tiderace.E002")

    assert (
        "harbour_asgi.py has no 'aplication'; do you mean 'application'?" in error.msg
    )


@pytest.mark.parametrize(
    "source",
    [
        "from elsewhere import application\n",
        "from elsewhere import app as application\n",
        "from elsewhere import *\n",
        "def application(scope, receive, send): ...\n",
        "async def application(scope, receive, send): ...\n",
        "if True:\n    application = None\n",
        "application: object = None\n",
        "globals()['application'] = None\n",
        "def __getattr__(name): ...\n",
        "not a module",
    ],
)
@override_settings(ASGI_APPLICATION="harbour_asgi.application")
def test_every_way_to_bind_the_application_is_accepted(source, tmp_path, monkeypatch):
    (tmp_path / "harbour_asgi.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    assert settings_checks.check_asgi_application(None) == []


@override_settings(ASGI_APPLICATION="typed_in.application")
def test_an_application_of_a_module_without_a_file_is_accepted(monkeypatch):
    """``__main__`` of a script is such a module."""
    monkeypatch.setitem(sys.modules, "typed_in", ModuleType("typed_in"))

    assert settings_checks.check_asgi_application(None) == []
    assert settings_checks.check_import_order(None) == []


# asgi.py


def check_asgi_source(source: str, tmp_path, monkeypatch):
    """Check an asgi.py with this source, of a project with the app ``shop``."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "__init__.py").touch()
    (tmp_path / "project" / "asgi.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    # Looking for project.asgi imports project, which another test may have done.
    monkeypatch.delitem(sys.modules, "project", raising=False)
    shop = [SimpleNamespace(name="shop"), SimpleNamespace(name="project")]
    with (
        override_settings(ASGI_APPLICATION="project.asgi.application"),
        mock.patch.object(apps, "get_app_configs", return_value=shop),
    ):
        return settings_checks.check_import_order(None)


@pytest.mark.parametrize(
    "early",
    [
        "from shop.routing import urls",
        "from shop import routing",
        "import shop.models",
        "from .routing import urls",
        "from . import routing",
    ],
)
def test_an_app_imported_before_the_setup_of_django_is_reported(
    early, tmp_path, monkeypatch
):
    source = f"import os\n{early}\napplication = get_asgi_application()\n"

    warning = only(check_asgi_source(source, tmp_path, monkeypatch), "tiderace.W003")

    assert "(line 2)" in warning.msg
    assert "AppRegistryNotReady" in warning.msg
    assert "get_application()" in warning.hint


@pytest.mark.parametrize(
    "source",
    [
        "django_app = get_asgi_application()\nfrom shop.routing import urls\n",
        "import django\ndjango.setup()\nimport shop.models\n",
        "from tiderace.routing import get_application\nget_application('shop.routing')\n",
        "from django.contrib.auth import get_user\napp = get_asgi_application()\n",
        "from shopping.routing import urls\napp = get_asgi_application()\n",
        "from shop.routing import urls\n",
        "this is not Python\n",
    ],
    ids=[
        "after",
        "after setup()",
        "by name",
        "Django's",
        "another's",
        "no call",
        "bad",
    ],
)
def test_other_asgi_files_are_accepted(source, tmp_path, monkeypatch):
    assert check_asgi_source(source, tmp_path, monkeypatch) == []


@pytest.mark.parametrize("path", [None, "nowhere.application", "math.application"])
def test_an_unreadable_asgi_file_is_accepted(path):
    with override_settings(ASGI_APPLICATION=path):
        assert settings_checks.check_import_order(None) == []


# CHANNEL_LAYERS


def check_layers(layers):
    with override_settings(CHANNEL_LAYERS=layers):
        return settings_checks.check_channel_layers(None)


def check_config(backend: str = MEMORY, **config):
    return check_layers({"default": {"BACKEND": backend, "CONFIG": config}})


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        (["default"], "is a list, not a dict"),
        ({"default": MEMORY}, "['default'] is a str, not a dict"),
        ({"default": {}}, "has no BACKEND"),
        ({"default": {"BACKEND": ""}}, "has no BACKEND"),
        ({"default": {"BACKEND": MEMORY, "ROUTING": "x"}}, "Channels 1"),
        ({"default": {"BACKEND": MEMORY, "CONFG": {}}}, "did you mean 'CONFIG'?"),
        ({"default": {"BACKEND": MEMORY, "CONFIG": []}}, "['CONFIG'] is a list"),
    ],
)
def test_layers_of_the_wrong_shape_are_errors(layers, problem):
    error = only(check_layers(layers), "tiderace.E004")

    assert problem in error.msg


@pytest.mark.parametrize("path", ["nowhere.Layer", "tiderace.layers.Nothing", "Layer"])
def test_a_backend_that_cannot_be_imported_is_an_error(path):
    error = only(check_config(path), "tiderace.E005")

    assert repr(path) in error.msg


def test_the_error_for_a_wrong_path_to_a_layer_of_tiderace_contains_the_right_one():
    error = only(check_config("tiderace.layers.RedisChannelLayer"), "tiderace.E005")

    assert "did you mean 'tiderace.layers.redis.RedisChannelLayer'?" in error.msg


def test_the_error_for_an_unknown_option_contains_the_nearest_one():
    error = only(check_config(capacty=5), "tiderace.E006")

    assert "option 'capacty' that InMemoryChannelLayer does not take" in error.msg
    assert "did you mean 'capacity'?" in error.msg
    assert "group_expiry" in error.hint


DATABASE = "tiderace.layers.database.DatabaseChannelLayer"


@pytest.mark.parametrize(
    ("backend", "option", "value"),
    [
        (MEMORY, "capacity", "100"),
        (MEMORY, "expiry", timedelta(seconds=5)),
        (DATABASE, "compress_above", "1024"),
        ("tiderace.layers.redis.RedisChannelLayer", "publish_timeout", "5"),
    ],
)
def test_an_option_that_is_no_number_is_an_error_with_its_value(backend, option, value):
    error = only(check_config(backend, **{option: value}), "tiderace.E006")

    assert f"['CONFIG'][{option!r}] is {value!r}, of type " in error.msg
    assert "Write a number" in error.hint


def test_the_error_for_an_unknown_database_names_those_that_exist():
    error = only(check_config(DATABASE, using="other"), "tiderace.E006")

    assert "['using'] is 'other', which is not in DATABASES" in error.msg
    assert "'default'" in error.hint


@pytest.mark.parametrize("name", ["RedisChannelLayer", "RedisPubSubChannelLayer"])
def test_a_parameter_inside_the_redis_layers_is_no_option(name):
    path = f"tiderace.layers.redis.{name}"

    error = only(check_config(path, serializer=None), "tiderace.E006")

    assert f"option 'serializer' that {name} does not take" in error.msg
    assert "group_capacity" in error.hint
    assert "brokers" not in error.hint


def test_options_for_tests_are_checked_too():
    entry = {"BACKEND": MEMORY, "TEST_CONFIG": {"expiri": 1}}

    error = only(check_layers({"default": entry}), "tiderace.E006")

    assert "['TEST_CONFIG']" in error.msg


class Careful(BaseChannelLayer):
    """A third-party layer: options of its own, the rest for the base."""

    def __init__(self, prefix="x", **kwargs):
        super().__init__(**kwargs)


class Greedy:
    """A layer that takes any option."""

    def __init__(self, **options):
        pass


def layer_function(**options):
    """A layer made by a function."""


@pytest.mark.parametrize(
    ("backend", "config"),
    [
        (MEMORY, {"capacity": 5, "expiry": 1, "channel_capacity": {}}),
        (MEMORY, {"capacity": 1e3, "expiry": Decimal("0.5")}),
        (DATABASE, {"using": "default", "compress_above": None, "prefix": "site"}),
        (f"{__name__}.Careful", {"prefix": "a", "expiry": 1}),
        (f"{__name__}.Greedy", {"anything": 1}),
        (f"{__name__}.layer_function", {"anything": 1}),
    ],
)
def test_options_of_the_backend_are_accepted(backend, config):
    assert check_config(backend, **config) == []


def test_an_option_unknown_to_all_bases_of_a_backend_is_an_error():
    assert ids(check_config(f"{__name__}.Careful", prefx="a")) == ["tiderace.E006"]


@pytest.mark.parametrize("layers", [{}, {"default": {"BACKEND": MEMORY}}])
def test_valid_layers_are_accepted(layers):
    assert check_layers(layers) == []


def test_every_invalid_layer_is_reported():
    assert ids(check_layers({"a": {}, "b": {}})) == ["tiderace.E004"] * 2


@override_settings()
def test_missing_layers_are_accepted():
    del settings.CHANNEL_LAYERS

    assert settings_checks.check_channel_layers(None) == []
    assert settings_checks.check_memory_layer(None) == []


# The layer in memory, --deploy


@override_settings(DEBUG=False)
def test_an_in_memory_layer_is_a_warning_in_production():
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": MEMORY}}):
        warning = only(settings_checks.check_memory_layer(None), "tiderace.W012")

    assert "'default' is in memory" in warning.msg


@pytest.mark.parametrize(
    ("debug", "backend"),
    [
        (True, MEMORY),
        (False, f"{__name__}.Careful"),
        (False, "nowhere.Layer"),
        (False, None),
    ],
)
def test_other_layers_and_development_are_accepted(debug, backend):
    layers = {"default": {"BACKEND": backend}, "broken": None}
    with override_settings(DEBUG=debug, CHANNEL_LAYERS=layers):
        assert settings_checks.check_memory_layer(None) == []


# runserver


def check_runserver_of(*installed: str, **found):
    """Check with these apps, or with what the look-up of commands is made to find."""
    with override_settings(INSTALLED_APPS=installed):
        if not found:
            return settings_checks.check_runserver(None)
        with (
            mock.patch.object(settings_checks, "get_commands", return_value=found),
            mock.patch.object(
                settings_checks, "load_command_class", return_value=found["command"]
            ),
        ):
            return settings_checks.check_runserver(None)


@pytest.fixture(autouse=True)
def fresh_commands():
    """Django remembers which app brings which command."""
    get_commands.cache_clear()
    yield
    get_commands.cache_clear()


def test_staticfiles_listed_before_tiderace_is_a_warning():
    warning = only(
        check_runserver_of("django.contrib.staticfiles", "tiderace"), "tiderace.W007"
    )

    assert "the one of 'django.contrib.staticfiles'" in warning.msg
    assert warning.hint == (
        "List \"tiderace\" before 'django.contrib.staticfiles' in INSTALLED_APPS."
    )


def test_staticfiles_listed_after_tiderace_is_accepted():
    assert check_runserver_of("tiderace", "django.contrib.staticfiles") == []


def test_a_runserver_that_subclasses_ours_is_accepted():
    class Wrapped(runserver.Command):
        pass

    assert check_runserver_of("tiderace", runserver="other", command=Wrapped()) == []


def test_another_runserver_is_reported_with_its_app():
    found = check_runserver_of("tiderace", runserver="other", command=BaseCommand())

    assert "'other'" in only(found, "tiderace.W007").msg


def test_daphnes_runserver_is_accepted():
    assert check_runserver_of(runserver="daphne", command=BaseCommand()) == []


def test_a_command_object_is_accepted():
    assert check_runserver_of(runserver=runserver.Command(), command=None) == []


# daphne


def test_the_real_daphne_as_an_app_is_a_warning():
    real = AppConfig("daphne", mock.Mock(__path__=["/tmp/daphne"]))
    with mock.patch.object(apps, "get_app_config", return_value=real):
        warning = only(settings_checks.check_daphne(None), "tiderace.W008")

    assert 'Remove "daphne"' in warning.hint


def test_without_daphne_there_is_no_warning():
    assert settings_checks.check_daphne(None) == []


def test_the_stand_in_for_daphne_is_accepted():
    ours = DaphneConfig("daphne", mock.Mock())
    with mock.patch.object(apps, "get_app_config", return_value=ours):
        assert settings_checks.check_daphne(None) == []


# TIDERACE


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"SYNC_THREAD": 3}, "did you mean 'SYNC_THREADS'?"),
        ({"SYNC_THREADS": "three"}, "TIDERACE['SYNC_THREADS'] is 'three': "),
        ({"SYNC_THREADS": 0}, "use 1 or more"),
        (["SYNC_THREADS"], "TIDERACE is a list, not a dict"),
    ],
)
def test_an_invalid_tiderace_setting_is_an_error(values, problem):
    with override_settings(TIDERACE=values):
        error = only(settings_checks.check_settings(None), "tiderace.E009")

    assert problem in error.msg


@pytest.mark.parametrize("values", [None, {}, {"SYNC_THREADS": 3}])
def test_valid_tiderace_settings_are_accepted(values):
    with override_settings(TIDERACE=values):
        assert settings_checks.check_settings(None) == []


# uvicorn


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.52.0", ["tiderace.W011"]),
        ("0.9", ["tiderace.W011"]),
        ("0.52.1", []),
        ("0.54.0", []),
        ("1.0", []),
    ],
)
def test_a_uvicorn_without_flow_control_is_a_warning(version, expected):
    with mock.patch.object(importlib.metadata, "version", return_value=version):
        assert ids(settings_checks.check_uvicorn(None)) == expected


def test_without_uvicorn_there_is_no_warning():
    missing = importlib.metadata.PackageNotFoundError("uvicorn")
    with mock.patch.object(importlib.metadata, "version", side_effect=missing):
        assert settings_checks.check_uvicorn(None) == []


# Database connections


def check_connections(asgi="sites.live_site.application", **databases):
    entries = {alias: {"CONN_MAX_AGE": age} for alias, age in databases.items()}
    with (
        mock.patch.dict(settings.DATABASES, entries, clear=True),
        override_settings(ASGI_APPLICATION=asgi),
    ):
        return application_checks.check_persistent_connections(None)


def test_persistent_connections_are_a_warning_under_asgi():
    warning = only(check_connections(default=0, other=60, kept=None), "tiderace.W014")

    assert "('other': 60, 'kept': None)" in warning.msg
    assert '{"pool": True}' in warning.hint


@pytest.mark.parametrize("asgi", [None, "sites.live_site.application"])
def test_closed_connections_and_wsgi_are_accepted(asgi):
    assert check_connections(asgi, default=0 if asgi else 60) == []


# Several workers


def check_workers(number, backend=MEMORY):
    layers = {"default": {"BACKEND": backend}}
    with (
        override_settings(CHANNEL_LAYERS=layers),
        mock.patch.dict("os.environ", {"WEB_CONCURRENCY": number}),
    ):
        return application_checks.check_memory_layer_with_workers(None)


def test_an_in_memory_layer_with_several_workers_is_an_error():
    error = only(check_workers("4"), "tiderace.E015")

    assert "asks for 4 processes" in error.msg
    assert "RedisChannelLayer" in error.hint


@pytest.mark.parametrize(
    ("number", "backend"),
    [("1", MEMORY), ("", MEMORY), ("many", MEMORY), ("4", f"{__name__}.Careful")],
)
def test_one_worker_or_a_shared_layer_is_accepted(number, backend):
    assert check_workers(number, backend) == []


# The real Channels


def installed(**versions):
    """A look-up that finds these distributions and no others."""

    def version(name):
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    return mock.patch.object(importlib.metadata, "version", version)


@pytest.fixture
def aliased(monkeypatch):
    """Install the alias, as ``install_as_channels()`` does."""
    monkeypatch.setattr(sys, "meta_path", [AliasFinder(), *sys.meta_path])


def test_an_installed_channels_behind_the_alias_is_a_warning(aliased):
    with installed(channels="4.3.1", channels_redis="4.3.0"):
        warning = only(
            application_checks.check_channels_shadowed(None), "tiderace.W017"
        )

    assert "channels 4.3.1 and channels-redis 4.3.0 is installed" in warning.msg
    assert "pip uninstall" in warning.hint


def test_the_alias_without_the_real_channels_is_accepted(aliased):
    with installed():
        assert application_checks.check_channels_shadowed(None) == []


def test_the_real_channels_without_the_alias_is_accepted(monkeypatch):
    # Another test of this process may have left the alias behind.
    finders = [each for each in sys.meta_path if not isinstance(each, AliasFinder)]
    monkeypatch.setattr(sys, "meta_path", finders)
    with installed(channels="4.3.1"):
        assert application_checks.check_channels_shadowed(None) == []


def test_the_real_channels_as_an_app_is_a_warning():
    real = AppConfig("channels", mock.Mock(__path__=["/tmp/channels"]))
    with mock.patch.object(apps, "get_app_config", return_value=real):
        warning = only(application_checks.check_channels_app(None), "tiderace.W018")

    assert "install_as_channels()" in warning.hint


def test_without_channels_as_an_app_there_is_no_warning():
    assert application_checks.check_channels_app(None) == []


# Other servers


def test_a_server_older_than_the_test_matrix_is_a_warning():
    with installed(hypercorn="0.16.0", daphne="4.2", granian="2.10.1"):
        warning = only(application_checks.check_servers(None), "tiderace.W019")

    assert warning.msg.startswith("hypercorn 0.16.0 is older than 0.17")
    assert warning.hint == 'pip install --upgrade "hypercorn>=0.17"'


def test_without_other_servers_there_is_no_warning():
    with installed():
        assert application_checks.check_servers(None) == []


# Keys and tickets


def documented_keys():
    """Return every text in the documentation that is the value of a key."""
    text = "".join(page.read_text("utf-8") for page in ROOT.glob("docs/**/*.md"))
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    found = re.findall(r'"key": "([^"-][^"]*)"', code)
    found += re.findall(r'environ\.get\("\w*KEY", "([^"]+)"\)', code)
    return found


@pytest.mark.parametrize("key", documented_keys())
def test_no_key_of_the_documentation_is_accepted(key):
    token_key = {"algorithm": "HS256", "key": key}
    layer = {"BACKEND": MEMORY, "CONFIG": {"symmetric_encryption_keys": [key]}}
    for changed in (
        {"TIDERACE": {"TOPICS": {"API_KEYS": [key.ljust(16)]}}},
        {"TIDERACE": {"TOKEN_KEYS": [token_key]}},
        {"CHANNEL_LAYERS": {"default": layer}},
    ):
        with override_settings(**changed):
            only(application_checks.check_placeholder_keys(None), "tiderace.E021")


def test_the_documentation_has_keys_to_refuse():
    assert len(documented_keys()) >= 4


@pytest.mark.parametrize(
    "values",
    [{"TOPICS": {"API_KEYS": ["a-key-that-is-long"]}}, {"NONSENSE": 1}, None],
)
def test_other_keys_are_accepted(values):
    with override_settings(TIDERACE=values, CHANNEL_LAYERS={"default": None}):
        assert application_checks.check_placeholder_keys(None) == []


BROKER = {"default": {"BACKEND": "tiderace.layers.redis.RedisChannelLayer"}}
LOCAL = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
SHARED = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache"}}


def test_a_ticket_cache_of_each_worker_is_a_warning(monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "4")

    with override_settings(CACHES=LOCAL):
        warning = only(application_checks.check_ticket_cache(None), "tiderace.W022")

    assert "once in each of 4" in warning.msg
    assert "TICKET_CACHE" in warning.hint


def test_a_ticket_cache_of_each_process_is_a_warning_where_there_may_be_several():
    with override_settings(CACHES=LOCAL, CHANNEL_LAYERS=BROKER):
        warning = only(application_checks.check_ticket_cache(None), "tiderace.W022")

    assert "once in each process" in warning.msg


@pytest.mark.parametrize(
    "changed",
    [
        {"CACHES": SHARED, "CHANNEL_LAYERS": BROKER},
        {"CACHES": LOCAL, "CHANNEL_LAYERS": BROKER, "DEBUG": True},
        {"CACHES": LOCAL, "CHANNEL_LAYERS": {"default": {"BACKEND": MEMORY}}},
        {"CACHES": {"default": {"BACKEND": "of.no.use"}}, "CHANNEL_LAYERS": BROKER},
        {"TIDERACE": {"NONSENSE": 1}},
    ],
)
def test_a_shared_ticket_cache_is_accepted(changed):
    with override_settings(**changed):
        assert application_checks.check_ticket_cache(None) == []


@override_settings(TIDERACE={"TICKET_CACHE": "lost"})
def test_an_unknown_ticket_cache_is_an_error():
    error = only(application_checks.check_ticket_cache(None), "tiderace.E023")

    assert "'lost'" in error.msg


# The HTTP API


OPEN = {"TOPICS": {"API_OPEN": True}}


def test_an_open_api_is_a_warning():
    with override_settings(TIDERACE=OPEN, DEBUG=False):
        warning = only(application_checks.check_open_api(None), "tiderace.W020")

    assert "API_OPEN" in warning.msg
    assert "API_KEYS" in warning.hint


@pytest.mark.parametrize(
    ("debug", "values"),
    [
        (True, OPEN),
        (False, {}),
        (False, {"TOPICS": {"API_KEYS": ["a-key-that-is-long"]}}),
        (False, {"NONSENSE": 1}),
    ],
)
def test_an_api_with_keys_and_development_are_accepted(debug, values):
    with override_settings(TIDERACE=values, DEBUG=debug):
        assert application_checks.check_open_api(None) == []


# Origins, --deploy


class Served(AsyncConsumer):
    """Something behind a route."""


class Wrapper:
    """Middleware of somebody's own."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


ROUTES = [path("ws/a/", Served.as_asgi()), path("ws/b/<int:pk>/", Served.as_asgi())]
GUARDED = OriginValidator(Served.as_asgi(), ["example.com"])

open_application = ProtocolTypeRouter({"websocket": Wrapper(URLRouter(ROUTES))})
guarded_application = ProtocolTypeRouter(
    {"websocket": Wrapper(OriginValidator(URLRouter(ROUTES), ["example.com"]))}
)
guarded_outside = OriginValidator(open_application, ["example.com"])
guarded_in_part = ProtocolTypeRouter(
    {
        "websocket": URLRouter(
            [
                path("ws/in/", Wrapper(GUARDED)),
                path("ws/", Wrapper(URLRouter(ROUTES[:1]))),
                path("ws/all/", Wrapper(OriginValidator(URLRouter(ROUTES), []))),
            ]
        )
    }
)
topics_alone = ProtocolTypeRouter(
    {"websocket": URLRouter([path("connection/", TopicsEndpoint.as_asgi())])}
)
http_application = ProtocolTypeRouter({"http": Served.as_asgi()})
many_routes = ProtocolTypeRouter(
    {
        "websocket": URLRouter(
            [path(f"ws/{number}/", Served.as_asgi()) for number in range(8)]
        )
    }
)


def check_origins_of(name):
    with override_settings(ASGI_APPLICATION=f"{__name__}.{name}"):
        return application_checks.check_origins(None)


def test_routes_without_an_origin_check_are_a_warning():
    warning = only(check_origins_of("open_application"), "tiderace.W013")

    assert "/ws/a/, /ws/b/" in warning.msg
    assert "AllowedHostsOriginValidator" in warning.hint


def test_only_the_routes_without_a_check_are_reported():
    warning = only(check_origins_of("guarded_in_part"), "tiderace.W013")

    assert "/ws/ws/a/:" in warning.msg


def test_at_most_five_routes_are_listed():
    assert "/ws/4/ and 3 more" in check_origins_of("many_routes")[0].msg


@pytest.mark.parametrize(
    "name",
    [
        "guarded_application",
        "guarded_outside",
        "topics_alone",
        "http_application",
        "missing",
    ],
)
def test_routes_behind_an_origin_check_are_accepted(name):
    assert check_origins_of(name) == []


@override_settings(ASGI_APPLICATION=None)
def test_without_an_application_there_is_no_origin_check():
    assert application_checks.check_origins(None) == []


def test_the_application_of_get_application_is_accepted():
    built = get_application(ROUTES, middleware=None)
    with mock.patch.object(application_checks, "import_string", return_value=built):
        assert check_origins_of("anything") == []


# The app


def test_the_app_has_its_name_and_no_tables():
    config = apps.get_app_config("tiderace")

    assert isinstance(config, TideraceConfig)
    assert (config.name, config.verbose_name) == ("tiderace", "Tiderace")
    assert [model for model in config.get_models() if model._meta.managed] == []


def test_the_checks_run_with_djangos_own():
    with override_settings(ASGI_APPLICATION=None, TIDERACE={"X": 1}):
        found = ids(django_checks.run_checks())

    assert {"tiderace.W001", "tiderace.E009"} <= set(found)


def test_the_deploy_checks_run_only_with_deploy():
    with override_settings(DEBUG=False):
        assert "tiderace.W012" not in ids(django_checks.run_checks())
        assert "tiderace.W012" in ids(
            django_checks.run_checks(include_deployment_checks=True)
        )


# Names of settings


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("TIDE_RACE", "Rename it to TIDERACE."),
        ("TIDERRACE", "Rename it to TIDERACE."),
        ("TIDERACE_SYNC_THREADS", 'TIDERACE = {"SYNC_THREADS": …}'),
        ("TIDERACE_PING", 'TIDERACE = {"TOPICS": {"PING": …}}'),
        ("TIDERACE_TOPICS", 'TIDERACE = {"TOPICS": …}'),
    ],
)
def test_a_misspelt_setting_is_reported_with_what_to_write(name, hint):
    with override_settings(**{name: {}}):
        warning = only(settings_checks.check_setting_names(None), "tiderace.W029")

    assert name in warning.msg
    assert hint in warning.hint


def test_a_misspelt_name_of_a_setting_that_is_missing_is_reported():
    with override_settings(CHANNEL_LAYERS={}, CHANNEL_LAYER={"default": {}}):
        warning = only(settings_checks.check_setting_names(None), "tiderace.W029")

    assert warning.hint == "Rename it to CHANNEL_LAYERS."


def test_settings_of_a_project_are_not_reported():
    with override_settings(
        CHANNEL_LAYER="its own, beside CHANNEL_LAYERS",
        TIDERACE={"SYNC_THREADS": 2},
        TIDERACE_REDIS_URL="redis://localhost",
        RACE="its own",
        ASGI_APPLICATION="shop.asgi.application",
    ):
        assert settings_checks.check_setting_names(None) == []
