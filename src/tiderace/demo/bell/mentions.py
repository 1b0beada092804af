"""A ``post_save`` signal: "@bob" in a chat message rings bob's bell."""

from __future__ import annotations

import re
from typing import Any

from django.contrib.auth.models import User

from tiderace.demo.bell.models import notify


def ring_for_mentions(instance: Any, created: bool, **kwargs: Any) -> None:
    """Notify the users whom a new chat message names, its author excepted."""
    names = set(re.findall(r"@(\w+)", instance.text)) if created else set()
    for user in User.objects.filter(username__in=names).exclude(pk=instance.author):
        notify(user, f"{instance.text[:200]}", by=f"{instance.name} in the chat")
