"""Context processor: the values that the bell needs when a page is rendered."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from tiderace.demo.bell.models import Notification
from tiderace.topics import positions

SHOWN = 20


def bell(request: HttpRequest) -> dict[str, Any]:
    """Context processor for ``bell``, None when not logged in."""
    if request.user.pk is None:
        return {"bell": None}
    topic = f"bell:{request.user.pk}"
    # Before the rows, so that the page gets everything that is published after them.
    where = positions(topic)
    rows = Notification.objects.filter(user=request.user)
    newest = [{**row.publication("created"), "pk": row.pk} for row in rows[:SHOWN]]
    unread = rows.filter(read=False).count()
    config = {"topic": topic, "newest": newest, "unread": unread}
    return {"bell": {"positions": where, "config": config}}
