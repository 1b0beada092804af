"""The page of Django's admin with the publications that wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from tiderace.outbox.models import WaitingPublication

__all__ = ["WaitingPublicationAdmin"]

# Characters of the data and of the error in the list.
_SHOWN = 80


class StateFilter(admin.SimpleListFilter):
    """Filters by whether rows wait or are set aside."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[Any]:
        return [("waiting", "waiting"), ("failed", "set aside")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[WaitingPublication]
    ) -> QuerySet[WaitingPublication]:
        if self.value() is None:
            return queryset
        return queryset.filter(failed__isnull=self.value() == "waiting")


@admin.register(WaitingPublication)
class WaitingPublicationAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """Lists the rows that wait or are set aside; deletes them, or has them tried again.

    The permissions are Django's: ``view``, ``change`` for trying again, and ``delete``.
    """

    list_display = ["id", "topic", "shown_data", "created", "failed", "shown_error"]
    list_filter = [StateFilter]
    search_fields = ["topic"]
    actions = ["try_again"]
    # Counting all rows is slow when many wait.
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [field.name for field in WaitingPublication._meta.fields]  # noqa: SLF001

    @admin.display(description="data")
    def shown_data(self, row: WaitingPublication) -> str:
        """Return the beginning of the data."""
        return row.data[:_SHOWN]

    @admin.display(description="error")
    def shown_error(self, row: WaitingPublication) -> str:
        """Return the beginning of the error."""
        return (row.error or "")[:_SHOWN]

    @admin.action(
        description="Try the selected publications again", permissions=["change"]
    )
    def try_again(
        self, request: HttpRequest, queryset: QuerySet[WaitingPublication]
    ) -> None:
        """Put rows that are set aside back among those that wait."""
        count = queryset.exclude(failed=None).update(failed=None, error=None)
        self.message_user(request, f"{count} will be tried again.")
