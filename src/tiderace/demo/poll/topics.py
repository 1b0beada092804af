"""The topic of the poll: it says that something changed, and pages ask for what.

So every page shows the newest result, in whichever order two votes are published.
"""

from __future__ import annotations

from tiderace.topics import AllowAny, History, Topic, publish

POLL = "poll"


class Poll(Topic):
    """Voters need no account; only the server publishes."""

    pattern = POLL
    history = History(size=100, ttl=3600)
    permission_classes = [AllowAny]


def changed(event: str) -> None:
    """Publish ``voted`` or ``asked``: in the pages an event that ``hx-trigger`` names."""
    publish(POLL, "", tags={"event": event})
