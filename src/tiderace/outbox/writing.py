"""Writes publications into the outbox, in the transaction of their data."""

from __future__ import annotations

import msgspec
from django.core.exceptions import ImproperlyConfigured
from django.db import router, transaction
from django.utils import timezone

from tiderace.outbox.hand_over import hand_over
from tiderace.outbox.models import WaitingPublication
from tiderace.outbox.process import process_relays
from tiderace.outbox.rows import OutboxRows, as_text
from tiderace.topics.server_api.transactions import PreparedPublication

# Databases that have the tables, by alias and name.
_migrated: set[tuple[str, str]] = set()


def store(publication: PreparedPublication, using: str | None) -> bool:
    """Write a row; the arguments and the result are those of ``OutboxConfig.store``."""
    connection = transaction.get_connection(using)
    alias = connection.alias
    if not connection.in_atomic_block:
        return False
    if not router.allow_migrate_model(alias, WaitingPublication):
        return False
    _require_tables(alias, str(connection.settings_dict["NAME"]))
    record = publication.record
    tags = record.get("tags")
    row = WaitingPublication(
        topic=record["topic"],
        data=as_text(record["data"]),
        tags=msgspec.json.encode(tags).decode() if tags else None,
        key=publication.key,
        # The time zone of the database's own default may differ without USE_TZ.
        created=timezone.now(),
    )
    # Unlike save(), bulk_create() sends no signals.
    WaitingPublication.objects.using(alias).bulk_create([row])

    def committed() -> None:
        if transaction.get_connection(alias).in_atomic_block:
            # Called by a test, whose transaction no relay can read.
            hand_over(alias)
        else:
            process_relays.wake(alias)

    transaction.on_commit(committed, using=alias, robust=True)
    return True


def _require_tables(alias: str, name: str) -> None:
    if (alias, name) in _migrated:
        return
    if not OutboxRows(alias).exist():
        raise ImproperlyConfigured(
            f"the database {alias!r} has no tables of tiderace.outbox, and publish() was "
            f"called in its transaction; run manage.py migrate --database={alias}, or let "
            "a router's allow_migrate() refuse the app there"
        )
    _migrated.add((alias, name))
