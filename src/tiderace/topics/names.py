"""The groups that carry a topic, and the patterns of topic names."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.urls.resolvers import RoutePattern

from tiderace.layers.names import group_name

__all__ = ["Pattern", "events_group", "topic_group", "user_group"]


def topic_group(topic: str) -> str:
    """Return the group of a topic: ``group_add(topic_group("room:lobby"), …)``.

    A consumer in it gets every publication as a ``topic.publication`` message, and a
    message sent to it with ``group_send`` reaches the topic's subscribers.
    """
    return group_name("topic", topic)


def events_group(topic: str) -> str:
    """Return the group for a topic's joins, leaves and commands to its subscribers."""
    return group_name("topic-events", topic)


def user_group(user_id: str) -> str:
    """Return the group of all connections of one user."""
    return group_name("topic-user", user_id)


class Pattern:
    """A pattern of topic names in the form of Django's paths: ``"room:<slug:name>"``.

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
            # Compiled now, so that an invalid pattern raises here.
            _ = self._pattern.regex
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(f"topic pattern {text!r}: {error}") from None

    @property
    def specificity(self) -> tuple[int, int]:
        """Sort key, the most specific pattern first: by literal text, then converters."""
        literal = "".join(part.rpartition(">")[2] for part in self.text.split("<"))
        return -len(literal), self.text.count("<")

    def match(self, name: str) -> dict[str, Any] | None:
        """Return the captured values, or None when ``name`` does not match."""
        match = self._pattern.match(name)
        return None if match is None else match[2]

    def __str__(self) -> str:
        return self.text
