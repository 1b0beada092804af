"""Pushing a notice from synchronous code: a view, a command, anything.

It knows group names and the channel layer, and neither page nor socket.
"""

from __future__ import annotations

from asgiref.sync import async_to_sync

from tiderace.demo.people.person import user_group
from tiderace.layers import InMemoryChannelLayer, get_channel_layer

__all__ = ["EVERYONE", "TEXT_LENGTH", "layer_is_local", "push"]

EVERYONE = "everyone"
TEXT_LENGTH = 300


def push(text: str, *, by: str, user: object = None) -> None:
    """Show ``text`` in every open window, or only in those of one user.

    Args:
        text: plain text; pages never read it as HTML.
        by: who says so, shown beside it.
        user: primary key of the only user to tell; None tells everyone.

    Windows that are not connected at this moment do not get it: a notice is not
    kept.
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
    """Return whether what is sent here stays in this process's memory."""
    return isinstance(get_channel_layer(), InMemoryChannelLayer)
