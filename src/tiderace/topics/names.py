"""The groups that carry a topic, and the patterns of topic names."""

from __future__ import annotations

import hashlib
import re
import string
import time
from functools import lru_cache
from itertools import pairwise
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.urls.converters import DEFAULT_CONVERTERS, get_converters
from django.urls.resolvers import RoutePattern

from tiderace.layers.names import group_name

# Cached names of groups, a megabyte or two in all: making a name takes 10 µs.
_CACHED_NAMES = 8192


@lru_cache(maxsize=_CACHED_NAMES)
def topic_group(topic: str) -> str:
    """Return the group of a topic: ``group_add(topic_group("room:lobby"), …)``.

    A consumer in it gets every publication as a ``topic.publication`` message, and a
    message sent to it with ``group_send`` reaches the topic's subscribers.
    """
    return group_name("topic", topic)


@lru_cache(maxsize=_CACHED_NAMES)
def events_group(topic: str) -> str:
    """Return the group for a topic's joins, leaves and commands to its subscribers."""
    return group_name("topic-events", topic)


@lru_cache(maxsize=_CACHED_NAMES)
def growth_group(topic: str) -> str:
    """Return the group whose stream carries a topic's messages while they grow."""
    return group_name("topic-growth", topic)


_OCCUPIED = "\x1foccupied:"


def occupied_group(topic: str) -> str:
    """Return the presence group whose members are the event loops that serve a topic.

    No topic has such a name: ``is_reserved`` refuses it.
    """
    return _OCCUPIED + topic


def occupied_topic(group: str) -> str | None:
    """Return the topic of an ``occupied_group``; None for another group."""
    return group.removeprefix(_OCCUPIED) if is_reserved(group) else None


def is_reserved(name: str) -> bool:
    """Return whether no topic may have this name."""
    return name.startswith(_OCCUPIED)


def user_group(user_id: str) -> str:
    """Return the group of all connections of one user."""
    return group_name("topic-user", user_id)


def publication_key(key: str, *, user_id: str | None = None) -> str:
    """Return the idempotency key in the layer, always of the same length; empty for none.

    Args:
        key: of the application, or of a client.
        user_id: the client's user, so that no client can take keys of the application or
            of other users; None for the application.
    """
    if not key:
        return ""
    owner = "application" if user_id is None else f"{len(user_id)}:{user_id}"
    return hashlib.sha256(f"{owner}:{key}".encode("utf-8", "replace")).hexdigest()


_CONVERTER = re.compile(r"<(?:(\w+):)?(\w+)>")


class Pattern:
    """A pattern of topic names in the form of Django's paths: ``"room:<slug:name>"``.

    Args:
        text: literal text and converters: ``<int:pk>``, ``<slug:name>``, ``<str:user>``
            (no slashes), ``<path:rest>``, and those registered with Django.

    Raises:
        ImproperlyConfigured: for a pattern that Django does not accept, and for one that
            can split a name in so many ways that a long name would block the event loop:
            three converters that accept the text between them, or a converter of the
            application's with an expression such as ``([a-z]+)+``.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        _require_well_formed(text)
        try:
            self._pattern = RoutePattern(text, is_endpoint=True)
            self._beginning = text.partition("<")[0]
            # Compiled now, so that an invalid pattern raises here.
            _ = self._pattern.regex
        except ImproperlyConfigured as error:
            known = ", ".join(sorted(get_converters()))
            hint = f" (known: {known})" if "converter" in str(error) else ""
            raise ImproperlyConfigured(
                f"topic pattern {text!r}: {error}{hint}"
            ) from None
        if _ambiguous_separators(text) > 1:
            raise ImproperlyConfigured(
                f"topic pattern {text!r}: what stands between its converters may also be "
                "part of their values, so that matching a long name would take seconds; "
                "separate them by text that the values cannot contain, as in "
                "'<slug:a>:<slug:b>:<slug:c>'"
            )
        _require_fast_converters(text)

    @property
    def shape(self) -> str:
        """The pattern without the names of its arguments: equal ones match the same."""
        return _CONVERTER.sub(lambda found: f"<{found[1] or 'str'}>", self.text)

    @property
    def specificity(self) -> tuple[int, int]:
        """Sort key, the most specific pattern first: by literal text, then converters."""
        literal = "".join(part.rpartition(">")[2] for part in self.text.split("<"))
        return -len(literal), self.text.count("<")

    def match(self, name: str) -> dict[str, Any] | None:
        """Return the captured values, or None when ``name`` does not match."""
        # Most patterns do not match, which this says in a sixth of the time.
        if not name.startswith(self._beginning):
            return None
        match = self._pattern.match(name)
        return None if match is None else match[2]

    def __str__(self) -> str:
        return self.text


def _require_well_formed(text: str) -> None:
    """Check a pattern for mistakes that Django takes as literal text.

    Raises:
        ImproperlyConfigured: for a ``<`` or ``>`` alone, and two equal names.
    """
    names = [name for _, name in _CONVERTER.findall(text)]
    for name in names:
        if names.count(name) > 1:
            raise ImproperlyConfigured(
                f"topic pattern {text!r} has two values called {name!r}; rename one"
            )
    # What stands between two brackets is left to Django, whose errors are precise.
    rest = re.sub(r"<[^<>]*>", "", text)
    if "<" in rest or ">" in rest:
        kind = "opened with < and not closed" if "<" in rest else "closed by > alone"
        raise ImproperlyConfigured(
            f"topic pattern {text!r} has a value that is {kind}; write "
            "<converter:name>, as in 'room:<slug:name>'"
        )


# How much processor time a converter may take for one text, in seconds.
_MATCH_TIME = 0.1
_LONGEST = 256  # characters, about the default of NAME_LENGTH


def _require_fast_converters(text: str) -> None:
    """Check the converters that the application has registered.

    Raises:
        ImproperlyConfigured: when the expression of one takes too long for some text.
    """
    converters = get_converters()
    for kind, _ in _CONVERTER.findall(text):
        if kind and kind not in DEFAULT_CONVERTERS:
            regex = converters[kind].regex
            slow = _slow_text(regex)
            if slow is not None:
                raise ImproperlyConfigured(
                    f"topic pattern {text!r}: the expression {regex!r} of the converter "
                    f"{kind!r} takes more than {_MATCH_TIME:g} s for a name such as "
                    f"{slow!r}, while the event loop waits; write it without "
                    "repetitions of repetitions, '[a-z]+' for '([a-z]+)+'"
                )


@lru_cache
def _slow_text(regex: str) -> str | None:
    """Return a text that takes long to compare with an expression, or None.

    Texts are repetitions of one character, or of a word in the expression, and of growing
    length, so that an exponential expression is found before it takes seconds.
    """
    # No text ends with the NUL, so each comparison tries all ways to match and fails.
    compare = re.compile(f"(?:{regex})\0").match
    words = re.findall(r"\w{2,8}", regex)
    for part in dict.fromkeys([*string.printable, *regex, *words]):
        longest = _LONGEST // len(part)
        for count in (*range(1, 40), *range(40, longest + 1, 8)):
            text: str = part * count
            begun = time.thread_time()
            compare(text)
            if time.thread_time() - begun > _MATCH_TIME:
                return text
    return None


def _ambiguous_separators(text: str) -> int:
    """Return how many texts between two converters the converters accept as values.

    Matching a name takes time of the order of its length to the power of this number,
    plus one.
    """
    converters = get_converters()
    # Literal text and the inside of <> in turn.
    parts = _CONVERTER.split(text)
    accepts = [re.compile(converters[kind or "str"].regex) for kind in parts[1::3]]
    return sum(
        not separator or any(each.fullmatch(separator) for each in pair)
        for separator, pair in zip(parts[3:-1:3], pairwise(accepts), strict=True)
    )
