"""The topic of the answers: each of them is one message that grows until it ends."""

from __future__ import annotations

from typing import Any

from tiderace.topics import Growing, History, IsAuthenticated, Topic

ANSWERS = "answers"


class AssistantAnswers(Topic):
    """New pages get the last answers with their subscription, and those that grow."""

    pattern = ANSWERS
    growing = Growing(lease=6)
    history = History(size=10, ttl=86_400)
    rewind = 10
    permission_classes = [IsAuthenticated]

    def can_cancel(self, user: Any, message: dict[str, Any]) -> bool:
        return bool(message["asked_by"] == user.pk)
