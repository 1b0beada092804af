"""System checks of the outbox."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Warning  # noqa: A004 (Django's name)

from tiderace.checks import check

_SETTINGS = {"RELAY_IN_SERVERS", "RELAY_POLL"}
_SQLITE = "django.db.backends.sqlite3"


@check()
def check_outbox_is_installed() -> Iterator[CheckMessage]:
    """Warn of settings of an outbox that is not installed."""
    if apps.is_installed("tiderace.outbox"):
        return
    # A value that is no dict is E009.
    given = getattr(settings, "TIDERACE", None)
    names = []
    if isinstance(given, Mapping):
        names = [name for name in given if name in _SETTINGS]
    if names:
        yield Warning(
            f"TIDERACE has {' and '.join(names)}, and the outbox is not installed: "
            "publications of transactions are lost if the process ends after the commit.",
            hint='Add "tiderace.outbox" to INSTALLED_APPS and run manage.py migrate, or '
            "remove the settings.",
            id="tiderace.W038",
        )


@check()
def check_sqlite_transactions() -> Iterator[CheckMessage]:
    """Warn of an outbox in SQLite whose transactions begin as readers."""
    if not apps.is_installed("tiderace.outbox"):
        return
    for alias, database in settings.DATABASES.items():
        mode = database.get("OPTIONS", {}).get("transaction_mode") or ""
        if database.get("ENGINE") == _SQLITE and mode.upper() != "IMMEDIATE":
            yield Warning(
                f"The outbox of the database {alias!r} is in SQLite, where a transaction "
                'that reads before it writes fails with "database is locked" when the '
                "relay has written in between.",
                hint=f'Set "OPTIONS": {{"transaction_mode": "IMMEDIATE"}} in '
                f"DATABASES[{alias!r}].",
                id="tiderace.W031",
            )
