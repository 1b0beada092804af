"""The topic of a user's notifications; other users may not subscribe to it."""

from __future__ import annotations

from typing import Any

from tiderace.demo.bell.models import Notification
from tiderace.topics import History, Topic, rpc


class Bell(Topic):
    """The changes of one user's notifications."""

    pattern = "bell:<int:user>"
    history = History(size=100, ttl=3600)

    async def can_subscribe(self, user: Any) -> bool:
        """Allow the user whose bell it is."""
        return bool(user.pk == self.kwargs["user"])

    @rpc
    def read_all(self) -> None:
        """Mark everything as read; each saved row is published to the user's other tabs."""
        unread = Notification.objects.filter(user_id=self.kwargs["user"], read=False)
        for notification in unread:
            notification.read = True
            notification.save(update_fields=["read"])
