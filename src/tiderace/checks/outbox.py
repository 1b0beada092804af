"""System checks of the outbox."""

from __future__ import annotations

from collections.abc import Iterator

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Warning  # noqa: A004 (Django's name)

from tiderace.checks import check

_SQLITE = "django.db.backends.sqlite3"


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
