"""The page of Django's admin that shows who is connected, and ends connections.

It knows Django's admin; what there is to show it asks of ``monitoring.rollcall``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import ngettext

from tiderace.exceptions import LayerUnavailable
from tiderace.models import Connections
from tiderace.monitoring import cluster_connections
from tiderace.monitoring.admin_forms import (
    CloseTopicForm,
    DisconnectForm,
    NoticeForm,
    send_notice,
)
from tiderace.monitoring.overview import SIZE, overview
from tiderace.runtime import sync_bridge

__all__ = ["ConnectionsAdmin"]

logger = logging.getLogger("tiderace.admin")

# Actions that are listed below the page.
_LOG = 10

Act = Callable[[dict[str, Any]], str]


@admin.register(Connections)
class ConnectionsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """Who is connected where, and what staff may do about it.

    Every part has a permission of its own: ``tiderace.view_connections``,
    ``disconnect_users``, ``close_topics``, ``send_notices``. With an admin site of your
    own: ``site.register(Connections, ConnectionsAdmin)``.
    """

    def get_urls(self) -> list[URLPattern]:
        """The page under the name of a change list, and one page for each action."""
        view = self.admin_site.admin_view
        return [
            path(
                "", view(self.changelist_view), name="tiderace_connections_changelist"
            ),
            path(
                "disconnect/",
                view(self.disconnect_view),
                name="tiderace_connections_disconnect",
            ),
            path(
                "close-topic/",
                view(self.close_topic_view),
                name="tiderace_connections_close_topic",
            ),
            path(
                "send-notice/",
                view(self.send_notice_view),
                name="tiderace_connections_send_notice",
            ),
        ]

    # Permissions

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Whether the admin's index shows the page."""
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether the user may see who is connected."""
        return _may(request, "view_connections")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """No: there is nothing to add."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """No: see the permissions of the actions."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """No: see ``disconnect_users``."""
        return False

    # Seeing

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page."""
        _require(request, "view_connections")
        user = request.GET.get("user", "").strip()[:255]
        topic = request.GET.get("topic", "").strip()[:255]
        seen = overview(user, topic, _page(request))
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
            **seen,
            **(extra_context or {}),
        }
        return self._render(request, "connections", context)

    def _entries(self) -> Any:
        # By name: this module can be imported where the admin is not installed.
        log = apps.get_model("admin", "LogEntry")
        kind = apps.get_model("contenttypes", "ContentType")
        of_ours = kind.objects.get_for_model(Connections)
        entries = log.objects.filter(content_type=of_ours).select_related("user")
        return entries[:_LOG]

    # Acting

    def disconnect_view(self, request: HttpRequest) -> HttpResponse:
        """Have the connections of a user closed."""

        def act(asked: dict[str, Any]) -> str:
            ended = sync_bridge.call(
                cluster_connections.disconnect_user_everywhere,
                asked["user"],
                asked["reason"],
            )
            return _told(ended, f"user {asked['user']}")

        return self._action(
            request,
            permission="disconnect_users",
            title="Disconnect a user",
            form_class=DisconnectForm,
            question="Close all connections of this user?",
            act=act,
        )

    def close_topic_view(self, request: HttpRequest) -> HttpResponse:
        """Have all subscriptions to a topic ended."""

        def act(asked: dict[str, Any]) -> str:
            ended = sync_bridge.call(
                cluster_connections.close_topic_everywhere, asked["topic"]
            )
            return _told(ended, f"topic {asked['topic']}")

        return self._action(
            request,
            permission="close_topics",
            title="Close a topic",
            form_class=CloseTopicForm,
            question="End all subscriptions to this topic?",
            act=act,
        )

    def send_notice_view(self, request: HttpRequest) -> HttpResponse:
        """Send a short text to a user, a topic or a group."""
        return self._action(
            request,
            permission="send_notices",
            title="Send a notice",
            form_class=NoticeForm,
            question="Send this?",
            act=send_notice,
        )

    def _action(
        self,
        request: HttpRequest,
        *,
        permission: str,
        title: str,
        form_class: type[forms.Form],
        question: str,
        act: Act,
    ) -> HttpResponse:
        """Ask what to do, ask again whether to do it, note it and do it."""
        _require(request, permission)
        if request.method == "POST":
            form: Any = form_class(request.POST)
        else:
            known = {name: request.GET.get(name, "") for name in form_class.base_fields}
            form = form_class(
                initial={name: value for name, value in known.items() if value}
            )
        confirming = request.method == "POST" and form.is_valid()
        if confirming and "confirmed" in request.POST:
            self._do(request, form, act)
            seen = self.has_view_permission(request)
            page = "tiderace_connections_changelist" if seen else "index"
            return redirect(reverse(f"admin:{page}", current_app=self.admin_site.name))
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "form": form,
            "confirming": confirming,
            "question": question,
            "may_view": self.has_view_permission(request),
        }
        return self._render(request, "action", context)

    def _render(
        self, request: HttpRequest, name: str, context: dict[str, Any]
    ) -> HttpResponse:
        # Where the templates' links lead, with more than one admin site.
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"admin/tiderace/{name}.html", context)

    def _do(self, request: HttpRequest, form: Any, act: Act) -> None:
        whom, what = form.whom(), form.what()
        # Before it is done: what was done and not noted would be worse.
        subject = Connections(what=whom[:200])
        self.log_change(request, subject, what)
        logger.info("%r by staff user %s: %r", what, request.user.pk, whom)
        try:
            said = act(form.cleaned_data)
        except (LayerUnavailable, RuntimeError, ValueError, TypeError) as error:
            self.log_change(request, subject, f"Failed: {what}")
            messages.error(request, f"Nothing is certain to have happened: {error}")
        else:
            messages.success(request, said)


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


def _told(ended: cluster_connections.EndedConnections, whose: str) -> str:
    said = ngettext(
        "%(count)d connection of %(whose)s was told.",
        "%(count)d connections of %(whose)s were told.",
        ended.count,
    ) % {"count": ended.count, "whose": whose}
    if ended.silent:
        said += f" No answer in time from {', '.join(ended.silent)}."
    return said
