"""The topic of the metrics: each process publishes its own, once a second."""

from __future__ import annotations

from tiderace.topics import History, IsAuthenticated, Presence, Topic

METRICS = "ops:metrics"


class Metrics(Topic):
    """A new subscriber gets the last two minutes, so that its charts are not empty."""

    pattern = METRICS
    history = History(size=120, ttl=120)
    rewind = 120
    # The sampler reads it, and measures nothing without a subscriber.
    presence = Presence.PER_CONNECTION
    # On a site of yours: IsStaff.
    permission_classes = [IsAuthenticated]
