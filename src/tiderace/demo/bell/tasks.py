"""A Celery task that notifies; it is a plain function where Celery is not installed."""

from __future__ import annotations

import importlib.util
from typing import Any

from django.contrib.auth.models import User

from tiderace.demo.bell.models import notify

INSTALLED = importlib.util.find_spec("celery") is not None


def notify_by_pk(pk: int | None, text: str, *, by: str) -> int:
    """Notify the user with this primary key, or everyone with None."""
    return notify(User.objects.get(pk=pk) if pk else None, text, by=by)


def _remind(pk: int) -> None:
    notify_by_pk(pk, "Your task has run.", by="a Celery task")


remind: Any = _remind
if INSTALLED:
    from celery import Celery

    # Run where it is called: a demo has no worker to start.
    app = Celery("demo", set_as_current=False)
    app.conf.task_always_eager = True
    remind = app.task(_remind)
