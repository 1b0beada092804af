"""The node of the template tag ``{% live %}``."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from django.template import Node, NodeList, TemplateSyntaxError
from django.template.base import FilterExpression, Parser, Token, token_kwargs
from django.utils.html import format_html, format_html_join
from django.utils.http import escape_leading_slashes
from django.utils.safestring import SafeString

from tiderace.exceptions import LayerUnavailable
from tiderace.history import Position
from tiderace.topics.declaration.topic import declared
from tiderace.topics.server_api.calls import positions

if TYPE_CHECKING:
    from django.template.context import Context

logger = logging.getLogger("tiderace.topics")

_OPTIONS: dict[str, Any] = {
    "src": None,
    "id": None,
    "since": None,
    "every": 1,
    "spread": 0,
}
_OPTION = re.compile(r"\w+=")


def parse_live(parser: Parser, token: Token) -> LiveNode:
    """Parse ``{% live topic… option=value… %}`` up to ``{% endlive %}``.

    Raises:
        TemplateSyntaxError: for an unknown option, and without a topic.
    """
    name, *words = token.split_contents()
    named = [at for at, word in enumerate(words) if _OPTION.match(word)]
    split = named[0] if named else len(words)
    topics = [parser.compile_filter(word) for word in words[:split]]
    rest = words[split:]
    options = token_kwargs(rest, parser)
    unknown = [*rest, *(each for each in options if each not in _OPTIONS)]
    if unknown:
        raise TemplateSyntaxError(
            f"{name} has no option {unknown[0]!r}; after the topics it takes "
            f"{', '.join(f'{each}=' for each in _OPTIONS)}"
        )
    if not topics:
        raise TemplateSyntaxError(
            f'{name} has no topic; name those that change it: {{% {name} "orders" %}}'
        )
    content = parser.parse((f"end{name}",))
    parser.delete_first_token()
    return LiveNode(topics, options, content)


class LiveNode(Node):
    """A part of a page that the browser requests again when a topic has changed."""

    def __init__(
        self,
        topics: Sequence[FilterExpression],
        options: Mapping[str, FilterExpression],
        nodelist: NodeList,
    ) -> None:
        self.nodelist = nodelist
        self._topics = topics
        self._options = options

    def render(self, context: Context) -> SafeString:
        """Render the content within its element.

        Raises:
            UnknownTopic: when no declared topic has one of the names.
            TemplateSyntaxError: for an invalid option, without an address, and when the
                template has another element with the same id.
        """
        topics = [str(topic.resolve(context)) for topic in self._topics]
        options = {
            name: self._options[name].resolve(context)
            if name in self._options
            else default
            for name, default in _OPTIONS.items()
        }
        for topic in topics:
            declared.resolve(topic)
        # The positions are read before the content reads the data, so that no change in
        # between is missed.
        places = _positions(topics) if options["since"] is None else options["since"]
        identifier = options["id"] or re.sub(r"\s", "_", f"live-{'-'.join(topics)}")
        _claim(context, identifier)
        attributes = {
            "id": identifier,
            "src": options["src"] or _address(context),
            "topics": json.dumps([_place(topic, places) for topic in topics]),
            "every": _seconds("every", options["every"]),
            "spread": _seconds("spread", options["spread"]),
        }
        return format_html(
            "<tiderace-live{}>{}</tiderace-live>",
            format_html_join("", ' {}="{}"', attributes.items()),
            self.nodelist.render(context),
        )


def _positions(topics: Sequence[str]) -> Mapping[str, Position]:
    """Return the current position of each topic, or nothing if it cannot be read.

    The browser then requests the content once more when it has subscribed.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return {}  # an async view that renders without a thread
    try:
        return positions(*topics)
    except LayerUnavailable as error:
        logger.warning("a page was rendered without positions: %s", error)
        return {}


def _place(topic: str, places: Mapping[str, Position]) -> list[Any]:
    place = places.get(topic)
    return [topic] if place is None else [topic, place.epoch, place.offset]


def _address(context: Context) -> str:
    request = context.get("request")
    if request is None:
        raise TemplateSyntaxError(
            "live cannot tell the address of its page, as the context has no request; "
            "render it with render(request, …), or pass src=, the address of a view"
        )
    return escape_leading_slashes(request.get_full_path())


def _claim(context: Context, identifier: str) -> None:
    """Refuse a second element with the same id in a template."""
    taken: set[str] = cast("Any", context.render_context).setdefault(LiveNode, set())
    if identifier in taken:
        raise TemplateSyntaxError(
            f'two live elements have the id "{identifier}"; pass each its own with id='
        )
    taken.add(identifier)


def _seconds(name: str, value: Any) -> float:
    number = value if isinstance(value, (int, float)) else float("nan")
    if isinstance(value, bool) or not 0 <= number < float("inf"):
        raise TemplateSyntaxError(
            f"live option {name!r} is {value!r}; give it seconds, 0 or more"
        )
    return number
