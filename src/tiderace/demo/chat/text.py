"""The text of a message: as it is stored, and as safe HTML.

Of Markdown it may have bold, italic, code and links, and besides them mentions.
"""

from __future__ import annotations

import re

import nh3
from django.utils.html import escape

from tiderace.topics import Refuse

TEXT_LENGTH = 2_000

# Control characters except tab and newline; many databases refuse NUL.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_RULES = [
    (re.compile(r"`([^`\n]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*\n]+)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"\*([^*\n]+)\*"), r"<em>\1</em>"),
    (re.compile(r"(https?://[^\s<]+)"), r'<a href="\1">\1</a>'),
    (re.compile(r"(?<!\S)@(\w+)"), r"<mark>@\1</mark>"),
]


def cleaned(text: str) -> str:
    """Return a text as it is stored.

    Raises:
        Refuse: when it is too long.
    """
    # A lone surrogate is valid JSON but cannot be encoded or stored.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _CONTROL.sub("", text.replace("\r\n", "\n")).strip()
    if len(text) > TEXT_LENGTH:
        detail = f"the message has {len(text)} characters; at most {TEXT_LENGTH} fit"
        raise Refuse(detail, code=422)
    return text


def as_html(text: str) -> str:
    """Return ``text`` as HTML that has only these five elements.

    The text is escaped before, and cleaned by nh3 after: a fault in the rules
    cannot let a script through.
    """
    html = str(escape(text))
    for pattern, replacement in _RULES:
        html = pattern.sub(replacement, html)
    return nh3.clean(
        html,
        tags={"code", "strong", "em", "a", "mark"},
        attributes={"a": {"href"}},
        url_schemes={"http", "https"},
    )
