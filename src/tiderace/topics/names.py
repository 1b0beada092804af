"""From a topic's name to the groups that carry it, and from a pattern to what it captures.

It knows Django's path converters, and nothing of topics' classes, users or layers.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.urls.resolvers import RoutePattern

from tiderace.layers.names import group_name

__all__ = ["Pattern", "events_group", "topic_group", "user_group"]


def topic_group(topic: str) -> str:
    """The group of a topic, for consumers: ``group_add(topic_group("room:lobby"), …)``.

    Who joins it gets every publication as a ``topic.publication`` message, and what is
    sent to it by ``group_send`` reaches the topic's subscribers.
    """
    return group_name("topic", topic)


def events_group(topic: str) -> str:
    """The group in which is said who comes and goes, and who has to."""
    return group_name("topic-events", topic)


def user_group(user_id: str) -> str:
    """The group of all connections of one user."""
    return group_name("topic-user", user_id)


class Pattern:
    """Topic names as Django writes paths: ``"room:<slug:name>"``.

    Args:
        text: literal text and converters: ``<int:pk>``, ``<slug:name>``, ``<str:user>``
            (no slashes), ``<path:rest>``, and those registered with Django.

    Raises:
        ImproperlyConfigured: for a pattern that Django does not accept.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._pattern = RoutePattern(text, is_endpoint=True)
            # Compiled now, so that a mistake shows where it was made.
            _ = self._pattern.regex
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(f"topic pattern {text!r}: {error}") from None

    @property
    def specificity(self) -> tuple[int, int]:
        """Orders patterns, the most specific first: by literal text, then converters."""
        literal = "".join(part.rpartition(">")[2] for part in self.text.split("<"))
        return -len(literal), self.text.count("<")

    def match(self, name: str) -> dict[str, Any] | None:
        """What the converters capture in ``name``; None when it does not match."""
        match = self._pattern.match(name)
        return None if match is None else match[2]

    def __str__(self) -> str:
        return self.text
