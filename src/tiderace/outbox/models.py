"""The tables of the outbox."""

from __future__ import annotations

import datetime
from typing import ClassVar

from django.db import models
from django.db.models.functions import Now

__all__ = ["RelayLease", "WaitingPublication"]


class WaitingPublication(models.Model):
    """A publication that was written in a transaction and is not in its stream yet.

    Other programs may insert rows: ``topic`` and ``data`` are enough, the database has
    defaults for the rest.
    """

    id: models.BigAutoField[int, int] = models.BigAutoField(primary_key=True)
    topic: models.CharField[str, str] = models.CharField(max_length=1024)
    data: models.TextField[str, str] = models.TextField()
    """JSON text."""
    tags: models.TextField[str | None, str | None] = models.TextField(  # noqa: DJ001 (MySQL has no default for texts)
        null=True, blank=True
    )
    """A JSON object of strings, or None."""
    key: models.CharField[str, str] = models.CharField(
        max_length=64, db_default="", blank=True
    )
    """The idempotency key in the layer, if the application gave one."""
    created: models.DateTimeField[datetime.datetime, datetime.datetime] = (
        models.DateTimeField(db_default=Now())
    )
    failed: models.DateTimeField[datetime.datetime | None, datetime.datetime | None] = (
        models.DateTimeField(null=True, blank=True)
    )
    """When it was set aside because it cannot be published; None while it waits."""
    error: models.TextField[str | None, str | None] = models.TextField(  # noqa: DJ001
        null=True, blank=True
    )
    """Why it was set aside, or why its topic does not accept it yet."""

    class Meta:
        app_label = "tiderace_outbox"
        db_table = "tiderace_outbox"
        ordering: ClassVar = ["id"]
        verbose_name = "waiting publication"

    def __str__(self) -> str:
        return f"{self.topic} ({self.pk})"


class RelayLease(models.Model):
    """The lease of the active relay: a single row, which it changes every two seconds."""

    name: models.CharField[str, str] = models.CharField(primary_key=True, max_length=20)
    holder: models.CharField[str, str] = models.CharField(max_length=120, blank=True)
    """Host, process and a random part; empty after the relay has stopped."""
    beat: models.BigIntegerField[int, int] = models.BigIntegerField(default=0)
    """Counts the renewals."""
    renewed: models.DateTimeField[
        datetime.datetime | None, datetime.datetime | None
    ] = models.DateTimeField(null=True)
    """When it was renewed last, by the database's clock; for display alone."""

    class Meta:
        app_label = "tiderace_outbox"
        db_table = "tiderace_relay_lease"

    def __str__(self) -> str:
        return self.holder or "no holder"
