"""What Django's admin and permissions need to name: open connections, as a model.

It has no table, no rows and no migration; who is connected is asked of the processes.
"""

from __future__ import annotations

from django.db import models

__all__ = ["Connections"]


class _NoRows(models.Manager["Connections"]):
    """Nothing, without asking the database: ``dumpdata`` goes over every model."""

    def get_queryset(self) -> models.QuerySet[Connections]:
        return super().get_queryset().none()


class Connections(models.Model):
    """The open connections of all processes; holds the permissions of the admin's page.

    An instance names what somebody did something to, in the admin's log.
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
