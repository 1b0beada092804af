"""``install_as_channels()``: the old names lead to our modules, and to nothing else.

What needs a fresh interpreter (settings of its own, a daphne that is not there, a
Channels that is) runs in one.
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
import pickle
import subprocess
import sys
import types
from importlib.metadata import PackageNotFoundError, version
from unittest import mock

import pytest
from django.utils.module_loading import import_string

import tiderace
from support.paths import TESTS
from tiderace.compat.finder import ALIASES, AliasFinder

tiderace.install_as_channels()


SAME = {
    f"channels.{name}": f"tiderace.{name}"
    for name in (
        "auth",
        "consumer",
        "db",
        "exceptions",
        "generic",
        "generic.http",
        "generic.websocket",
        "layers",
        "layers.memory",
        "management",
        "management.commands",
        "management.commands.runserver",
        "management.commands.runworker",
        "middleware",
        "routing",
        "security",
        "security.websocket",
        "sessions",
        "testing",
        "testing.application",
        "testing.http",
        "testing.live",
        "testing.websocket",
        "worker",
    )
}

# compat.md, section 0: what real code imports from where.
NAMES = {
    "channels": "__version__ DEFAULT_CHANNEL_LAYER",
    "channels.apps": "ChannelsConfig",
    "channels.auth": "get_user login logout AuthMiddleware AuthMiddlewareStack "
    "UserLazyObject _get_user_session_key CookieMiddleware SessionMiddleware "
    "BaseMiddleware database_sync_to_async",
    "channels.consumer": "AsyncConsumer SyncConsumer get_handler_name "
    "get_channel_layer await_many_dispatch StopConsumer",
    "channels.db": "database_sync_to_async DatabaseSyncToAsync aclose_old_connections "
    "close_old_connections",
    "channels.exceptions": "RequestAborted RequestTimeout InvalidChannelLayerError "
    "AcceptConnection DenyConnection ChannelFull MessageTooLarge StopConsumer",
    "channels.generic.http": "AsyncHttpConsumer",
    "channels.generic.websocket": "WebsocketConsumer JsonWebsocketConsumer "
    "AsyncWebsocketConsumer AsyncJsonWebsocketConsumer StopConsumer AcceptConnection "
    "DenyConnection InvalidChannelLayerError async_to_sync AsyncConsumer SyncConsumer",
    "channels.layers": "get_channel_layer channel_layers ChannelLayerManager "
    "BaseChannelLayer InMemoryChannelLayer ChannelFull InvalidChannelLayerError "
    "DEFAULT_CHANNEL_LAYER",
    "channels.middleware": "BaseMiddleware",
    "channels.routing": "ProtocolTypeRouter URLRouter ChannelNameRouter "
    "get_default_application",
    "channels.security.websocket": "OriginValidator AllowedHostsOriginValidator "
    "WebsocketDenier",
    "channels.sessions": "CookieMiddleware SessionMiddleware SessionMiddlewareStack "
    "InstanceSessionWrapper",
    "channels.testing": "ApplicationCommunicator HttpCommunicator "
    "WebsocketCommunicator ChannelsLiveServerTestCase",
    "channels.testing.application": "ApplicationCommunicator",
    "channels.testing.http": "HttpCommunicator",
    "channels.testing.websocket": "WebsocketCommunicator",
    "channels.testing.live": "ChannelsLiveServerTestCase",
    "channels.utils": "await_many_dispatch name_that_thing",
    "channels.worker": "Worker",
    "channels.management.commands.runworker": "Command",
    "channels_redis": "__version__",
}

# A finder that finds everything but daphne, put in the place of the usual one.
WITHOUT_DAPHNE = """
import sys
from importlib.machinery import PathFinder

class WithoutDaphne:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "daphne":
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [
    WithoutDaphne if finder is PathFinder else finder for finder in sys.meta_path
]
"""

PROJECT = """
import tiderace
tiderace.install_as_channels()
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS={apps!r},
    ASGI_APPLICATION="sites.servers_site.asgi.application",
    STATIC_URL="static/",
    TEMPLATES=[{{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
    }}],
    CHANNEL_LAYERS={{"default": {{"BACKEND": "channels.layers.InMemoryChannelLayer"}}}},
)
django.setup()
from django.apps import apps
from django.core.management import call_command, get_commands, load_command_class
"""


def run(*parts):
    """Run the code in a fresh interpreter, where a warning is an error."""
    env = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(parts)],
        env={**env, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def output_of(*parts):
    """Return what the code printed, a line each; it must succeed."""
    ended = run(*parts)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


# The same objects


@pytest.mark.parametrize(("old", "new"), SAME.items())
def test_an_old_name_is_the_same_module_as_the_new_one(old, new):
    assert importlib.import_module(old) is importlib.import_module(new)


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module, names in NAMES.items() for name in names.split()],
)
def test_every_name_that_projects_import_exists(module, name):
    assert hasattr(importlib.import_module(module), name)


def test_modules_of_channels_are_attributes_without_an_import_of_their_own():
    assert output_of(
        "import tiderace",
        "tiderace.install_as_channels()",
        "import channels, channels_redis",
        "print(channels.exceptions.StopConsumer.__module__)",
        "print(channels_redis.serializers.__name__)",
        "print(hasattr(channels, 'nothing'), hasattr(channels_redis, 'nothing'))",
    ) == ["tiderace.exceptions", "tiderace.layers.serializers", "False False"]


def test_attribute_access_finds_the_modules_that_were_imported():
    import channels.generic.websocket

    import tiderace.generic.websocket

    assert channels.generic.websocket is tiderace.generic.websocket


def test_an_exception_raised_under_one_name_is_caught_under_the_other():
    from channels.exceptions import StopConsumer

    with pytest.raises(tiderace.exceptions.StopConsumer):
        raise StopConsumer


@pytest.mark.parametrize(("old", "new"), SAME.items())
def test_a_module_keeps_its_own_name_and_spec(old, new):
    module = importlib.import_module(old)

    assert module.__name__ == new
    assert module.__spec__.name == new
    assert module.__spec__.loader is module.__loader__


def test_reloading_under_the_old_name_keeps_the_module_one():
    # A new process runs it: what was imported before a reload stays the old class.
    lines = output_of(
        "import importlib, sys, tiderace",
        "tiderace.install_as_channels()",
        "websocket = importlib.import_module('channels.security.websocket')",
        "reloaded = importlib.reload(websocket)",
        "print(sys.modules['channels.security.websocket'] is reloaded)",
        "print(sys.modules['tiderace.security.websocket'] is reloaded)",
    )

    assert lines == ["True", "True"]


def test_patching_an_old_name_patches_our_module():
    import tiderace.layers

    with mock.patch("channels.layers.get_channel_layer") as patched:
        assert tiderace.layers.get_channel_layer is patched


def test_patching_close_old_connections_patches_our_module():
    import tiderace.db

    with mock.patch("channels.db.close_old_connections") as patched:
        assert tiderace.db.close_old_connections is patched


@pytest.mark.parametrize(
    "path",
    [
        "channels.layers.InMemoryChannelLayer",
        "channels.routing.ProtocolTypeRouter",
        "channels.apps.ChannelsConfig",
        "daphne.apps.DaphneConfig",
    ],
)
def test_a_dotted_path_in_settings_resolves(path):
    assert inspect.isclass(import_string(path))


def test_classes_pickle_under_either_name():
    from channels.exceptions import ChannelFull

    assert pickle.loads(pickle.dumps(ChannelFull)) is ChannelFull
    assert pickle.loads(b"cchannels.exceptions\nChannelFull\n.") is ChannelFull


def test_source_can_be_inspected():
    from channels.generic.websocket import AsyncWebsocketConsumer

    assert inspect.getsource(AsyncWebsocketConsumer).startswith("class Async")


# Names that are not ours


def test_a_module_that_channels_does_not_have_is_not_found():
    with pytest.raises(ModuleNotFoundError) as missing:
        importlib.import_module("channels.http")

    assert missing.value.name == "channels.http"


def test_modules_of_tiderace_alone_have_no_alias():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("channels.delivery.hub")


def test_a_missing_module_below_an_alias_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("channels.layers.carrier_pigeon")


def test_packages_with_a_similar_name_are_not_aliases():
    assert AliasFinder().find_spec("channels_postgres") is None
    assert AliasFinder().find_spec("daphne_metrics.apps") is None


def test_the_error_for_an_alias_without_its_module_names_both(monkeypatch):
    monkeypatch.setitem(ALIASES, "channels.tomorrow", "tiderace.tomorrow")

    with pytest.raises(ImportError, match=r"channels\.tomorrow stands for") as missing:
        importlib.import_module("channels.tomorrow")

    assert missing.value.name == "channels.tomorrow"


def test_an_import_error_inside_a_module_propagates(monkeypatch):
    monkeypatch.setitem(ALIASES, "channels.broken", "alias_needs_what_is_missing")
    source = "import surely_not_installed"
    spec = importlib.util.spec_from_loader("alias_needs_what_is_missing", loader=None)
    module = types.ModuleType("alias_needs_what_is_missing")
    loader = mock.Mock(
        create_module=lambda spec: module,
        exec_module=lambda module: exec(source, vars(module)),
    )
    spec.loader = loader
    finder = mock.Mock(find_spec=lambda name, *_: spec if name == spec.name else None)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])

    with pytest.raises(ModuleNotFoundError) as missing:
        importlib.import_module("channels.broken")

    assert missing.value.name == "surely_not_installed"


def test_the_version_is_that_of_the_offered_channels_api():
    import channels
    import channels_redis

    assert channels.__version__ == "4.3.2"
    assert channels_redis.__version__ == "4.3.0"


def test_there_is_no_distribution_metadata():
    with pytest.raises(PackageNotFoundError):
        version("channels")


# Installing


def test_a_second_install_has_no_effect():
    before = list(sys.meta_path)

    tiderace.install_as_channels()

    assert sys.meta_path == before


def test_installing_imports_neither_django_nor_any_target():
    lines = output_of(
        "import sys, tiderace",
        "tiderace.install_as_channels()",
        "print(sorted(n for n in sys.modules if n.startswith(('tiderace.', 'django'))))",
    )

    assert lines == ["['tiderace.compat', 'tiderace.compat.finder']"]


@pytest.mark.parametrize("name", ["channels", "channels_redis"])
def test_installing_after_the_import_of_the_real_package_is_refused(name):
    ended = run(
        "import sys, types, tiderace",
        f"sys.modules[{name!r}] = types.ModuleType({name!r})",
        f"sys.modules[{name!r}].__file__ = '/site/{name}/__init__.py'",
        "tiderace.install_as_channels()",
    )

    assert f"RuntimeError: {name} is already imported" in ended.stderr
    assert f"/site/{name}/__init__.py" in ended.stderr


def test_channels_is_usable_before_settings_exist():
    lines = output_of(
        "import tiderace; tiderace.install_as_channels()",
        "from channels.auth import AuthMiddlewareStack",
        "from channels.consumer import SyncConsumer",
        "from channels.generic.websocket import AsyncWebsocketConsumer",
        "from channels.layers import InMemoryChannelLayer",
        "from channels.routing import ProtocolTypeRouter, URLRouter",
        "from channels.security.websocket import AllowedHostsOriginValidator",
        "from channels.sessions import SessionMiddlewareStack",
        "from django.conf import settings",
        "print(settings.configured)",
    )

    assert lines == ["False"]


def channels_in_a_child(connection):
    """Say in a child process where its ``channels.layers`` is from."""
    from channels.layers import get_channel_layer

    connection.send(get_channel_layer.__module__.partition(".")[0])


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_spawned_child_has_the_alias_after_importing_the_project(method):
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()

    # The start function lives in a module that installs the alias at import, as a
    # project's package does.
    child = context.Process(target=channels_in_a_child, args=(theirs,))
    child.start()
    said = ours.recv() if ours.poll(30) else None
    child.join(30)

    assert said == "tiderace"


# As Django apps


def test_channels_alone_is_an_app_of_that_name_with_our_commands():
    lines = output_of(
        PROJECT.format(apps=["channels"]),
        "config = apps.get_app_config('channels')",
        "print(config.name, config.label, config.verbose_name)",
        "print(apps.is_installed('channels'), apps.is_installed('tiderace'))",
        "for name in ('runserver', 'runworker'):",
        "    print(get_commands()[name], load_command_class('channels', name).__module__)",
    )

    assert lines == [
        "channels channels Channels",
        "True False",
        "channels tiderace.management.commands.runserver",
        "channels tiderace.management.commands.runworker",
    ]


def test_the_config_class_can_be_listed():
    lines = output_of(
        PROJECT.format(apps=["channels.apps.ChannelsConfig"]),
        "print(apps.get_app_config('channels').name)",
    )

    assert lines == ["channels"]


@pytest.mark.parametrize(
    "listed",
    [["channels"], ["tiderace"], ["channels", "tiderace"], ["tiderace", "channels"]],
    ids="-".join,
)
def test_template_tags_and_static_files_are_found_once(listed):
    lines = output_of(
        PROJECT.format(apps=[*listed, "django.contrib.staticfiles"]),
        "from django.contrib.staticfiles.finders import get_finders",
        "from django.template import Context, engines",
        "from django.template.backends.django import get_template_tag_modules",
        "print([name for name, _ in get_template_tag_modules() if 'tide' in name])",
        "engines['django'].from_string('{% load tiderace %}')",
        "found = [path for finder in get_finders() for path, _ in finder.list([])]",
        "print(sum(path == 'tiderace/tiderace.js' for path in found))",
    )

    assert lines == ["['tiderace']", "1"]


@pytest.mark.parametrize(
    "listed", [["channels"], ["channels", "tiderace"], ["daphne", "channels"]]
)
def test_the_system_checks_run_once_and_find_nothing_wrong(listed):
    lines = output_of(
        PROJECT.format(apps=[*listed, "django.contrib.staticfiles"]),
        "call_command('check', fail_level='WARNING')",
        "from django.core.checks import registry",
        "checks = registry.registry.get_checks()",
        "names = [c.__name__ for c in checks if c.__module__ == 'tiderace.checks.settings']",
        "print(len(names) == len(set(names)) and len(names) > 0)",
    )

    assert lines[-1] == "True"


# daphne


def test_the_daphne_app_gives_our_runserver_beside_a_real_daphne():
    lines = output_of(
        PROJECT.format(apps=["daphne", "django.contrib.staticfiles"]),
        "import sys, daphne",
        "print('site-packages' in daphne.__file__)",
        "print(type(apps.get_app_config('daphne')).__name__)",
        "print(get_commands()['runserver'])",
        "print(load_command_class('daphne', 'runserver').__class__.__module__)",
        "print('twisted' in sys.modules)",
    )

    assert lines == [
        "True",
        "DaphneConfig",
        "daphne",
        "tiderace.management.commands.runserver",
        "False",
    ]


def test_a_real_daphne_keeps_its_server_and_its_command_line():
    lines = output_of(
        "import warnings; warnings.simplefilter('ignore')",
        "import tiderace; tiderace.install_as_channels()",
        "import daphne.cli, daphne.server",
        "print('site-packages' in daphne.cli.__file__)",
        "print('site-packages' in daphne.server.__file__)",
    )

    assert lines == ["True", "True"]


def test_without_daphne_the_app_and_its_runserver_are_ours():
    lines = output_of(
        WITHOUT_DAPHNE,
        PROJECT.format(apps=["daphne", "django.contrib.staticfiles"]),
        "import daphne",
        "print('tiderace' in daphne.__file__)",
        "print(apps.get_app_config('daphne').verbose_name)",
        "print(load_command_class('daphne', 'runserver').__class__.__module__)",
        "print(sorted(n for n, app in get_commands().items() if app == 'daphne'))",
    )

    assert lines == [
        "True",
        "Daphne",
        "tiderace.management.commands.runserver",
        "['runserver']",
    ]


def test_without_daphne_its_test_process_is_our_server_process():
    lines = output_of(
        WITHOUT_DAPHNE,
        "import tiderace; tiderace.install_as_channels()",
        "from daphne.testing import DaphneProcess",
        "from tiderace.testing.live import ServerProcess",
        "print(DaphneProcess is ServerProcess)",
    )

    assert lines == ["True"]


def test_without_daphne_its_server_class_serves_until_stopped():
    lines = output_of(
        WITHOUT_DAPHNE,
        """
import threading
from urllib.request import urlopen
import tiderace; tiderace.install_as_channels()
from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})

def visit():
    host, port = server.listening_addresses[0]
    print(host, urlopen(f"http://{host}:{port}/").read())
    server.stop()

server = Server(
    application=app,
    endpoints=build_endpoint_description_strings(host="127.0.0.1", port=0),
    ready_callable=lambda: threading.Thread(target=visit).start(),
    http_timeout=30,
)
server.run()
""",
    )

    assert lines == ["127.0.0.1 b'here'"]


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ({"host": "127.0.0.1", "port": 80}, ["tcp:port=80:interface=127.0.0.1"]),
        ({"host": "[::1]", "port": 80}, [r"tcp:port=80:interface=\:\:1"]),
        ({"unix_socket": "/run/s"}, ["unix:/run/s"]),
        ({"file_descriptor": 3}, ["fd:fileno=3"]),
        ({}, []),
    ],
)
def test_endpoints_are_written_as_by_daphne(arguments, written):
    from tiderace.compat.daphne.endpoints import build_endpoint_description_strings

    assert build_endpoint_description_strings(**arguments) == written


def test_a_host_without_a_port_is_refused():
    from tiderace.compat.daphne.endpoints import build_endpoint_description_strings

    with pytest.raises(ValueError, match="go together"):
        build_endpoint_description_strings(host="127.0.0.1")


@pytest.mark.parametrize(
    ("description", "address"),
    [
        ("tcp:port=80:interface=127.0.0.1", ("127.0.0.1", 80)),
        (r"tcp:port=80:interface=\:\:1", ("::1", 80)),
        ("tcp:8000", ("0.0.0.0", 8000)),
    ],
)
def test_a_tcp_endpoint_is_read(description, address):
    from tiderace.compat.daphne.endpoints import read_tcp_endpoint

    assert read_tcp_endpoint(description) == address


@pytest.mark.parametrize("description", ["unix:/run/s", "tcp:port=http", "tcp"])
def test_the_error_for_another_endpoint_contains_the_alternative(description):
    from tiderace.compat.daphne.endpoints import read_tcp_endpoint

    with pytest.raises(ValueError, match="call uvicorn itself"):
        read_tcp_endpoint(description)


def test_a_server_without_an_endpoint_is_refused():
    from tiderace.compat.daphne.server import Server

    with pytest.raises(ValueError, match="exactly one endpoint"):
        Server(application=None)


# channels.utils


def plain():
    """Something with a name."""


class Thing:
    """Something with a method."""

    def method(self):
        """Something with an owner."""


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (plain, "plain"),
        (Thing, "Thing"),
        (Thing(), "Thing"),
        (Thing().method, "Thing.method"),
    ],
)
def test_name_that_thing_returns_the_dotted_name(thing, name):
    from channels.utils import name_that_thing

    assert name_that_thing(thing) == f"{__name__}.{name}"
