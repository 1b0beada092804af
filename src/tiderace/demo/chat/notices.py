"""Sends notices to open windows from synchronous code."""

from __future__ import annotations

from asgiref.sync import async_to_sync

from tiderace.demo.people.person import user_group
from tiderace.layers import InMemoryChannelLayer, get_channel_layer

EVERYONE = "everyone"
TEXT_LENGTH = 300


def push(text: str, *, by: str, user: object = None) -> None:
    """Send ``text`` to every open window, or to those of one user.

    Args:
        text: plain text, not HTML.
        by: the author, shown beside it.
        user: primary key of the user; None for all.

    Notices are not stored: a disconnected window does not get them.
    """
    group = EVERYONE if user is None else user_group(user)
    event = {
        "type": "demo.notice",
        "text": text,
        "by": by,
        "personal": user is not None,
    }
    async_to_sync(get_channel_layer().group_send)(group, event)


def layer_is_local() -> bool:
    """Return whether the channel layer is in memory, for this process only."""
    return isinstance(get_channel_layer(), InMemoryChannelLayer)
