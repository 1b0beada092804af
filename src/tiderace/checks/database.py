"""System checks of channel layers over a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 (Django's name)
from django.db import DEFAULT_DB_ALIAS, connections

from tiderace.checks import check
from tiderace.checks.application import layer_entries
from tiderace.exceptions import InvalidChannelLayerError

_BACKEND = "tiderace.layers.database.DatabaseChannelLayer"
_APP = "tiderace.layers.database"


@check()
def check_database_layers() -> Iterator[CheckMessage]:
    """Report databases that cannot carry the messages of several processes."""
    for alias, entry in layer_entries():
        options = entry.get("CONFIG", {})
        if entry.get("BACKEND") == _BACKEND and isinstance(options, Mapping):
            yield from _check_layer(f"CHANNEL_LAYERS[{alias!r}]", options)


def _check_layer(where: str, options: Mapping[str, Any]) -> Iterator[CheckMessage]:
    from tiderace.layers.database.layer import make_vendor
    from tiderace.layers.database.sqlite.vendor import SqliteVendor

    using = options.get("using", DEFAULT_DB_ALIAS)
    given = options.get("path")
    if using not in list(connections.settings):
        return  # tiderace.E006
    try:
        vendor = make_vendor(using, given, "")
    except InvalidChannelLayerError as error:
        yield Error(f"{where}: {error}.", id="tiderace.E032")
        return
    if not isinstance(vendor, SqliteVendor):
        if not apps.is_installed(_APP):
            yield Error(
                f"{where} is over PostgreSQL, and the app with its tables is not "
                "installed.",
                hint=f'Add "{_APP}" to INSTALLED_APPS, then run: '
                f"python manage.py migrate --database={using}",
                id="tiderace.E032",
            )
    elif given is None and connections.settings[using]["NAME"] == ":memory:":
        yield Warning(
            f"{where} is over the database {using!r}, which is in memory: its file is in "
            "a temporary folder that other processes do not find.",
            hint="Give the database a file, or the layer its option 'path'; or take "
            "tiderace.layers.InMemoryChannelLayer.",
            id="tiderace.W035",
        )
    else:
        yield from _check_file(where, vendor.path)


def _check_file(where: str, path: Path) -> Iterator[CheckMessage]:
    from tiderace.layers.database.sqlite import places

    hint = 'Or name a file elsewhere: "CONFIG": {"path": "/srv/site/layer.sqlite3"}.'
    if problem := places.access_problem(path):
        yield Error(
            f"{where} cannot use its file {path}: {problem}.",
            hint=hint,
            id="tiderace.E033",
        )
    elif kind := places.network_file_system(path):
        yield Warning(
            f"{where} has its file {path} on a network file system ({kind}), where "
            "SQLite's locks do not work: messages are lost and the file is damaged.",
            hint="Name a file on a local disk with the option 'path', and run all "
            "processes on this machine; or take a layer over PostgreSQL or Redis.",
            id="tiderace.W034",
        )
