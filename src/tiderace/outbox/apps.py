"""The outbox as a Django app."""

from __future__ import annotations

from django.apps import AppConfig

from tiderace.runtime.lifespan import on_shutdown, on_startup
from tiderace.topics.server_api.transactions import PreparedPublication

__all__ = ["OutboxConfig"]


class OutboxConfig(AppConfig):
    """The app ``tiderace.outbox``: two tables and a page of the admin."""

    name = "tiderace.outbox"
    label = "tiderace_outbox"
    verbose_name = "Tiderace outbox"
    default = True
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Start and stop the relays with the servers of this site."""
        from tiderace.outbox.process import process_relays, start_in_server

        on_startup(start_in_server)
        on_shutdown(process_relays.stop)

    def store(self, publication: PreparedPublication, using: str | None) -> bool:
        """Write a row if a transaction is open; return whether there is one.

        Returns:
            False also where a router allows no outbox in the database.

        Raises:
            ImproperlyConfigured: when the database lacks the tables.
        """
        from tiderace.outbox.writing import store

        return store(publication, using)
