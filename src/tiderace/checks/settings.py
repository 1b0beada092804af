"""System checks of the settings, the ``runserver`` command and the installed versions."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import inspect
import os
from collections.abc import Iterator, Mapping
from numbers import Number
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE, global_settings, settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 (Django's name)
from django.core.management import get_commands, load_command_class

from tiderace import conf
from tiderace.checks import check
from tiderace.checks.application import (
    installed_version,
    layers_in_memory,
    real_package,
    version_numbers,
)
from tiderace.layers.isolation import ADVICE
from tiderace.layers.manager import import_backend
from tiderace.layers.options import constructor_options

_LAYER_KEYS = ("BACKEND", "CONFIG", "TEST_CONFIG")
_SETTINGS = ("TIDERACE", "CHANNEL_LAYERS", "ASGI_APPLICATION")
# How similar a name has to be, from 0 to 1: "TIDE_RACE" to "TIDERACE" is 0.94.
_SIMILAR = 0.85
# Names with which a module may bind others that its source does not show.
_DYNAMIC = frozenset({"*", "__getattr__", "exec", "globals", "setattr", "vars"})
# The first uvicorn whose default WebSocket protocol has write flow control.
_UVICORN = (0, 52, 1)
# Names and not classes: the imports are slow, and most processes serve nothing.
_RUNSERVER = "tiderace.management.commands.runserver"
_DATABASE_LAYER = "tiderace.layers.database.layer"
# The annotations of numbers, as constructor_options() returns them.
_NUMBERS = (int, float, "int", "float", "int | None", "float | None")


@check()
def check_asgi_application() -> Iterator[CheckMessage]:
    """Check that ``ASGI_APPLICATION`` is set and exists, without an import."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        yield Warning(
            "ASGI_APPLICATION is not set, so runserver and runworker have nothing "
            "to serve.",
            hint=f'Add ASGI_APPLICATION = "{probable_asgi_application()}" to the '
            f"settings.",
            id="tiderace.W001",
        )
    elif problem := _path_problem(path) or _name_problem(path):
        yield Error(
            f"ASGI_APPLICATION is {path!r}: {problem}.",
            hint='Write a dotted path like "mysite.asgi.application": a module, then '
            "the name of the application in it.",
            id="tiderace.E002",
        )


@check()
def check_import_order() -> Iterator[CheckMessage]:
    """Check that ``asgi.py`` sets Django up before it imports modules of apps.

    The check reads the source: ``manage.py`` sets Django up earlier, so only a server
    raises ``AppRegistryNotReady``.
    """
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path or _path_problem(path) is not None:
        return
    module = path.rpartition(".")[0]
    file = _source_file(module)
    tree = _parsed(file)
    if tree is None:
        return
    package = module.rpartition(".")[0]
    early = [
        f"{name} (line {line})"
        for name, line in _imports_before_setup(tree, package)
        if _belongs_to_an_app(name)
    ]
    if early:
        yield Warning(
            f"{file} imports {', '.join(early)} before Django is set up; under a "
            f"server that raises AppRegistryNotReady if models are imported there.",
            hint="Call get_asgi_application() above these imports, or let "
            "tiderace.routing.get_application() import the routes by their name.",
            id="tiderace.W003",
        )


@check()
def check_channel_layers() -> Iterator[CheckMessage]:
    """Check that each backend in ``CHANNEL_LAYERS`` exists and takes its ``CONFIG``."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    if not isinstance(layers, Mapping):
        yield _layers_error(
            f"CHANNEL_LAYERS is a {type(layers).__name__}, not a dict.",
            'CHANNEL_LAYERS = {"default": {"BACKEND": '
            '"tiderace.layers.InMemoryChannelLayer"}}',
        )
        return
    for alias, entry in layers.items():
        yield from _check_layer(alias, entry)


@check()
def check_runserver() -> Iterator[CheckMessage]:
    """Warn when the ``runserver`` that Django finds serves no WebSockets."""
    app = get_commands().get("runserver")
    if not isinstance(app, str) or app in ("tiderace", "channels"):
        return
    command = load_command_class(app, "runserver")
    if app == "daphne" or any(
        base.__module__ == _RUNSERVER for base in type(command).__mro__
    ):
        return
    ours = next(
        (name for name in ("tiderace", "channels") if apps.is_installed(name)), None
    )
    yield Warning(
        f"manage.py runserver is the one of {app!r}, which serves no WebSockets: "
        f'they get "Not Found".',
        hint=f'List "{ours or "tiderace"}" before {app!r} in INSTALLED_APPS.',
        id="tiderace.W007",
    )


@check()
def check_daphne() -> Iterator[CheckMessage]:
    """Warn when the real daphne is an app of the project."""
    if real_package("daphne"):
        yield Warning(
            '"daphne" is in INSTALLED_APPS beside Tiderace: it starts Twisted in every '
            "process, and if it is listed first, its runserver is used.",
            hint='Remove "daphne" from INSTALLED_APPS; Tiderace has its own '
            "runserver. In production daphne can serve the project as before.",
            id="tiderace.W008",
        )


@check()
def check_settings() -> Iterator[CheckMessage]:
    """Check the names and values of the settings in ``TIDERACE``."""
    values = getattr(settings, "TIDERACE", None) or {}
    if not isinstance(values, Mapping):
        problem = f"TIDERACE is a {type(values).__name__}, not a dict"
    else:
        try:
            conf.validate(values)
        except conf.UnknownSetting as error:
            problem = str(error)
        else:
            return
    yield Error(
        f"{problem}.",
        hint="Correct the dict TIDERACE in the settings, or leave it out: every "
        "setting has a default.",
        id="tiderace.E009",
    )


@check()
def check_setting_names() -> Iterator[CheckMessage]:
    """Warn of settings whose names resemble those of Tiderace's, which nothing reads."""
    for name in dir(settings):
        if not name.isupper() or hasattr(global_settings, name) or name in _SETTINGS:
            continue
        meant = difflib.get_close_matches(name, _SETTINGS, n=1, cutoff=_SIMILAR)
        key = name.removeprefix("TIDERACE_")
        if key != name and key in conf.Settings.__struct_encode_fields__:
            hint = f'Write TIDERACE = {{"{key}": …}}.'
        elif key != name and key in conf.TopicSettings.__struct_encode_fields__:
            hint = f'Write TIDERACE = {{"TOPICS": {{"{key}": …}}}}.'
        elif meant and not getattr(settings, meant[0], None):
            hint = f"Rename it to {meant[0]}."
        else:
            continue
        yield Warning(
            f"The setting {name} has no effect.", hint=hint, id="tiderace.W029"
        )


@check()
def check_uvicorn() -> Iterator[CheckMessage]:
    """Warn when the installed uvicorn is older than 0.52.1."""
    version = installed_version("uvicorn")
    if version is not None and version_numbers(version) < _UVICORN:
        yield Warning(
            f"uvicorn {version} buffers without limit for a WebSocket client that does "
            f"not read.",
            hint='Install 0.52.1 or later: pip install --upgrade "tiderace[server]"',
            id="tiderace.W011",
        )


@check(deploy=True)
def check_memory_layer() -> Iterator[CheckMessage]:
    """Warn of an in-memory layer in production (``--deploy``)."""
    in_memory = layers_in_memory()
    if in_memory and not settings.DEBUG:
        yield Warning(
            f"The channel layer {', '.join(in_memory)} is in memory: what one process "
            f"sends, sockets in another do not get, workers and commands included.",
            hint=f"In production, {ADVICE}; silence this check if the site is served by "
            "one process and nothing else sends.",
            id="tiderace.W012",
        )


# ASGI_APPLICATION


def probable_asgi_application() -> str:
    """Return a likely ``ASGI_APPLICATION``, from the path of wsgi.py or the settings."""
    wsgi = getattr(settings, "WSGI_APPLICATION", None)
    if isinstance(wsgi, str) and wsgi.endswith(".wsgi.application"):
        return f"{wsgi.removesuffix('.wsgi.application')}.asgi.application"
    module = settings.SETTINGS_MODULE or os.environ.get(ENVIRONMENT_VARIABLE)
    return f"{(module or 'mysite').split('.')[0]}.asgi.application"


def _path_problem(path: Any) -> str | None:
    """Return the error in a dotted path, or None; imports parent packages only."""
    if not isinstance(path, str):
        return f"that is a {type(path).__name__}, not a string"
    module = path.rpartition(".")[0]
    if not module or not all(part.isidentifier() for part in path.split(".")):
        return "that is not a dotted path"
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError as error:
        return f"there is no module {error.name!r}"
    except ValueError:
        # A module without a spec, such as __main__: it exists.
        return None
    return None if found else f"there is no module {module!r}"


def _name_problem(path: str) -> str | None:
    """Return the error where the module of a dotted path has no such name, or None."""
    module, _, name = path.rpartition(".")
    file = _source_file(module)
    tree = _parsed(file)
    # A package may have the name as a module.
    if file is None or tree is None or file.name == "__init__.py":
        return None
    names = _names_in(tree)
    if name in names or not _DYNAMIC.isdisjoint(names):
        return None
    similar = difflib.get_close_matches(name, sorted(names), n=1)
    return f"{file} has no {name!r}" + "".join(f"; do you mean {s!r}?" for s in similar)


def _names_in(tree: ast.Module) -> set[str]:
    """Return all names in a module, also those that functions and classes bind."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    return names


def _parsed(file: Path | None) -> ast.Module | None:
    """Return the syntax tree of a file; None where the server reports an error in it."""
    try:
        return None if file is None else ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _source_file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imports_before_setup(tree: ast.Module, package: str) -> Iterator[tuple[str, int]]:
    """Yield the names imported above the call that sets Django up, with the line."""
    imported = []
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            imported += [(alias.name, statement.lineno) for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            name = "." * statement.level + (statement.module or "")
            with contextlib.suppress(ImportError):  # above the top-level package
                base = importlib.util.resolve_name(name, package)
                names = [f"{base}.{alias.name}" for alias in statement.names]
                imported += [(each, statement.lineno) for each in names]
        elif any(_sets_django_up(node) for node in ast.walk(statement)):
            yield from imported
            return


def _sets_django_up(node: ast.AST) -> bool:
    function = node.func if isinstance(node, ast.Call) else None
    name = getattr(function, "attr", getattr(function, "id", None))
    return name in ("get_asgi_application", "get_wsgi_application", "setup")


def _belongs_to_an_app(module: str) -> bool:
    """Return whether ``module`` belongs to an app of the project.

    Apps of Django and of Tiderace can be imported before the setup.
    """
    return any(
        module == config.name or module.startswith(f"{config.name}.")
        for config in apps.get_app_configs()
        if not config.name.startswith(("django.", "tiderace", "channels", "daphne"))
    )


# CHANNEL_LAYERS


def _layers_error(message: str, hint: str) -> CheckMessage:
    return Error(message, hint=hint, id="tiderace.E004")


def _check_layer(alias: Any, entry: Any) -> Iterator[CheckMessage]:
    where = f"CHANNEL_LAYERS[{alias!r}]"
    if not isinstance(entry, Mapping):
        yield _layers_error(
            f"{where} is a {type(entry).__name__}, not a dict.",
            f"Write a dict with the keys {', '.join(_LAYER_KEYS)}.",
        )
        return
    if "ROUTING" in entry:
        yield _layers_error(
            f"{where} has ROUTING, an option of Channels 1.",
            "Remove it; ASGI_APPLICATION holds the routes.",
        )
    for key in entry:
        if key not in (*_LAYER_KEYS, "ROUTING"):
            yield _layers_error(
                f"{where} has an unknown key {key!r}"
                f"{conf.nearest(str(key), _LAYER_KEYS)}.",
                f"Known are {', '.join(_LAYER_KEYS)}; options of the backend go into "
                f"CONFIG.",
            )
    if not entry.get("BACKEND"):
        yield _layers_error(
            f"{where} has no BACKEND.",
            'Add "BACKEND": "tiderace.layers.InMemoryChannelLayer", or another.',
        )
        return
    try:
        backend = import_backend(entry["BACKEND"])
    except ImportError as error:
        yield Error(
            f"{where}: the BACKEND {entry['BACKEND']!r} cannot be imported: {error}.",
            hint="Correct the dotted path, or install the package it is in.",
            id="tiderace.E005",
        )
        return
    for name in ("CONFIG", "TEST_CONFIG"):
        yield from _check_options(f"{where}[{name!r}]", backend, entry.get(name, {}))


def _check_options(where: str, backend: Any, options: Any) -> Iterator[CheckMessage]:
    if not isinstance(options, Mapping):
        yield _layers_error(
            f"{where} is a {type(options).__name__}, not a dict.",
            f"Write the options of {backend.__name__} by name.",
        )
        return
    known = constructor_options(backend) if inspect.isclass(backend) else None
    if known is None:
        return
    for option, value in options.items():
        if option not in known:
            yield Error(
                f"{where} has an option {option!r} that {backend.__name__} does not "
                f"take{conf.nearest(str(option), known)}.",
                hint=f"Known are {', '.join(known)}.",
                id="tiderace.E006",
            )
        elif problem := _value_problem(backend, option, value, known[option]):
            wrong, hint = problem
            yield Error(
                f"{where}[{option!r}] is {value!r}, {wrong}.",
                hint=hint,
                id="tiderace.E006",
            )


def _value_problem(
    backend: type, option: str, value: Any, annotation: Any
) -> tuple[str, str] | None:
    """Return what is wrong with the value of an option, and what to write, or None."""
    if annotation in _NUMBERS and not isinstance(value, Number | None):
        hint = (
            "Write a number, without quotes; one of os.environ is a string until int() "
            "or float() converts it."
        )
        return f"of type {type(value).__name__} and no number", hint
    uses_database = any(base.__module__ == _DATABASE_LAYER for base in backend.__mro__)
    if option == "using" and uses_database and value not in list(settings.DATABASES):
        known = ", ".join(map(repr, settings.DATABASES))
        hint = f'Write one of {known}, or leave it out for "default".'
        return "which is not in DATABASES", hint
    return None
