"""Notifications in the admin, and the action on users that sends one."""

from __future__ import annotations

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest

from tiderace.demo.bell.models import Notification, notify


@admin.action(description="Ring the bell of the selected users")
def ring(admin: UserAdmin, request: HttpRequest, users: QuerySet[User]) -> None:
    """Notify the selected users."""
    for user in users:
        notify(
            user, "A visitor sent you a notification.", by=request.user.get_username()
        )
    messages.success(request, f"{len(users)} bells rang.")


admin.site.unregister(User)


@admin.register(User)
class RingableUserAdmin(UserAdmin):
    """Django's, with the action."""

    actions = (ring,)


admin.site.register(Notification)
