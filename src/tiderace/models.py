"""The open connections as a model, which Django's admin and permissions need.

It has no table, no rows and no migration: the processes list their connections when
the admin's page asks.
"""

from __future__ import annotations

from django.db import models

__all__ = ["Connections"]


class _NoRows(models.Manager["Connections"]):
    """Returns no rows and makes no query, for ``dumpdata``, which reads every model."""

    def get_queryset(self) -> models.QuerySet[Connections]:
        return super().get_queryset().none()


class Connections(models.Model):
    """The open connections of all processes; has the permissions of the admin's page.

    An instance names the object of an action in the admin's log.
    """

    what: models.CharField[str, str] = models.CharField(
        max_length=200, primary_key=True
    )

    objects = _NoRows()

    class Meta:
        app_label = "tiderace"
        managed = False
        base_manager_name = "objects"
        verbose_name = "connections"
        verbose_name_plural = "connections"
        default_permissions = ()
        permissions = [
            ("view_connections", "Can see who is connected"),
            ("disconnect_users", "Can disconnect users"),
            ("close_topics", "Can close topics"),
            ("send_notices", "Can send notices"),
        ]

    def __str__(self) -> str:
        return self.what
