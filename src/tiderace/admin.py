"""The page of Django's admin that lists open connections, and ends them."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from django.apps import apps
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from tiderace.exceptions import LayerUnavailable
from tiderace.models import Connections
from tiderace.monitoring.admin_forms import ACTIONS, ActionForm
from tiderace.monitoring.overview import SIZE, overview

__all__ = ["ConnectionsAdmin"]

logger = logging.getLogger("tiderace.admin")

# Actions listed below the page.
_LOG = 10


@admin.register(Connections)
class ConnectionsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """The page of the open connections, with actions to end them.

    A script refreshes it every five seconds while it is visible; without the script it
    shows the state at the time when it was loaded. Each part has its permission:
    ``tiderace.view_connections``, ``disconnect_users``, ``close_topics``,
    ``send_notices``. With an admin site of your own:
    ``site.register(Connections, ConnectionsAdmin)``.
    """

    def get_urls(self) -> list[URLPattern]:
        """Return the page, under the name of a change list, and one for each action."""
        view = self.admin_site.admin_view
        return [
            path(
                "", view(self.changelist_view), name="tiderace_connections_changelist"
            ),
            *(
                path(
                    f"{name.replace('_', '-')}/",
                    view(partial(self.action_view, form_class)),
                    name=f"tiderace_connections_{name}",
                )
                for name, form_class in ACTIONS.items()
            ),
        ]

    # Permissions

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return whether the admin's index lists the page."""
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may see the connections."""
        return _may(request, "view_connections")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    # The page

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        _require(request, "view_connections")
        user = request.GET.get("user", "").strip()[:255]
        topic = request.GET.get("topic", "").strip()[:255]
        page = overview(user, topic, _page(request))
        context = {
            **self.admin_site.each_context(request),
            "title": "Connections",
            "opts": self.opts,
            "user_id": user,
            "topic": topic,
            "size": SIZE,
            "may_disconnect": _may(request, "disconnect_users"),
            "may_close": _may(request, "close_topics"),
            "may_send": _may(request, "send_notices"),
            "entries": self._entries(),
            **page,
            **(extra_context or {}),
        }
        # A refresh renders a part alone: the whole page would use up the messages for the
        # next page that the user opens.
        refreshed = "Tiderace-Live" in request.headers
        name = "connections_part" if refreshed else "connections"
        return self._render(request, name, context)

    def _entries(self) -> Any:
        # Models by name, so that this module can be imported without the admin.
        log = apps.get_model("admin", "LogEntry")
        kind = apps.get_model("contenttypes", "ContentType")
        of_ours = kind.objects.get_for_model(Connections)
        entries = log.objects.filter(content_type=of_ours).select_related("user")
        return entries[:_LOG]

    # Actions

    def action_view(
        self, form_class: type[ActionForm], request: HttpRequest
    ) -> HttpResponse:
        """Show the form, then the question, then log the action and run it."""
        _require(request, form_class.permission)
        if request.method == "POST":
            form = form_class(request.POST)
        else:
            given = {name: request.GET.get(name, "") for name in form_class.base_fields}
            form = form_class(
                initial={name: value for name, value in given.items() if value}
            )
        confirming = request.method == "POST" and form.is_valid()
        if confirming and "confirmed" in request.POST:
            self._run(request, form)
            may_view = self.has_view_permission(request)
            page = "tiderace_connections_changelist" if may_view else "index"
            return redirect(reverse(f"admin:{page}", current_app=self.admin_site.name))
        context = {
            **self.admin_site.each_context(request),
            "title": form.title,
            "opts": self.opts,
            "form": form,
            "confirming": confirming,
            "question": form.question,
            "may_view": self.has_view_permission(request),
        }
        return self._render(request, "action", context)

    def _render(
        self, request: HttpRequest, name: str, context: dict[str, Any]
    ) -> HttpResponse:
        # With several admin sites, the links in the templates lead to this one.
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"admin/tiderace/{name}.html", context)

    def _run(self, request: HttpRequest, form: ActionForm) -> None:
        name = form.subject.format(**form.cleaned_data)
        description = form.description.format(**form.cleaned_data)
        # Logged first, so that no action is missing in the log.
        subject = Connections(what=name[:200])
        self.log_change(request, subject, description)
        logger.info("%r by staff user %s: %r", description, request.user.pk, name)
        try:
            message = form.run()
        except (LayerUnavailable, RuntimeError, ValueError, TypeError) as error:
            self.log_change(request, subject, f"Failed: {description}")
            messages.error(request, f"It is not known whether this was done: {error}")
        else:
            messages.success(request, message)


def _may(request: HttpRequest, permission: str) -> bool:
    user: Any = request.user
    allowed: bool = user.has_perm(f"tiderace.{permission}")
    return allowed


def _require(request: HttpRequest, permission: str) -> None:
    if not _may(request, permission):
        raise PermissionDenied


def _page(request: HttpRequest) -> int:
    text = request.GET.get("page", "1")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else 1
