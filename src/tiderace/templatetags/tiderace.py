"""Template tags that load and configure the browser client, and live parts of pages.

::

    {% load tiderace %}
    {% tiderace_importmap %}
    {% tiderace_script base="/ws/" heartbeat=25 %}
    {% tiderace_positions positions %}
    {% live "orders" %}…{% endlive %}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import template
from django.templatetags.static import static
from django.urls import get_script_prefix
from django.utils.html import format_html, json_script
from django.utils.safestring import SafeString, mark_safe

from tiderace.history import Position
from tiderace.templatetags.live import parse_live
from tiderace.topics.server_api.calls import positions

if TYPE_CHECKING:
    from django.template.context import Context

register = template.Library()
register.tag("live", parse_live)

CONFIG_ID = "tiderace-config"
POSITIONS_ID = "tiderace-positions"
SCRIPT = "tiderace/tiderace.js"
# What pages import beside it where they need it.
MODULES = ("grow", "stream")

# Option of the template tag: (its name in JavaScript, its types).
_NUMBER: tuple[type, ...] = (int, float)
_OPTIONS: dict[str, tuple[str, tuple[type, ...]]] = {
    "base": ("base", (str,)),
    "topics": ("topics", (str,)),
    "min_delay": ("minDelay", _NUMBER),
    "max_delay": ("maxDelay", _NUMBER),
    "max_attempts": ("maxAttempts", (int,)),
    "stable_after": ("stableAfter", _NUMBER),
    "connect_timeout": ("connectTimeout", _NUMBER),
    "heartbeat": ("heartbeat", _NUMBER),
    "heartbeat_timeout": ("heartbeatTimeout", _NUMBER),
    "heartbeat_message": ("heartbeatMessage", (str, dict, list)),
    "retry_on": ("retryOn", (list, tuple)),
    "queue_limit": ("queueLimit", (int,)),
    "queue_size": ("queueSize", (int,)),
    "when_full": ("whenFull", (str,)),
}
# Options that are addresses; a path is below FORCE_SCRIPT_NAME.
_ADDRESSES = ("base", "topics")
_POLICIES = ("throw", "drop-oldest", "drop-newest")

# Characters that could end a script element or open a comment, as JSON escapes.
_SCRIPT_ESCAPES = {ord(">"): "\\u003E", ord("<"): "\\u003C", ord("&"): "\\u0026"}


@register.simple_tag(takes_context=True)
def tiderace_script(
    context: Context, *, nonce: str | None = None, **options: object
) -> SafeString:
    """Load the client as a module, with its settings.

    ``connect()`` reads the settings from a JSON element (``id="tiderace-config"``),
    which no content security policy blocks. The script has the nonce of the request,
    if there is one.

    Args:
        context: The template's context, for the nonce.
        nonce: Used instead of the one found in the context.
        options: The client's options in Python's spelling (``min_delay`` for
            ``minDelay``); times are in seconds. With None the client's default
            applies. Paths are below ``FORCE_SCRIPT_NAME``, as those of ``{% url %}``.

    Raises:
        TemplateSyntaxError: when rendered, for an unknown option or an invalid
            value.
    """
    for name, value in options.items():
        _validate(name, value)
    settings = {
        _OPTIONS[name][0]: _below_prefix(value) if name in _ADDRESSES else value
        for name, value in options.items()
        if value is not None
    }
    if get_script_prefix() != "/":
        settings.setdefault("topics", _below_prefix("/connection/"))
    return format_html(
        '{}\n<script type="module" src="{}"{}></script>',
        json_script(settings, CONFIG_ID),
        static(SCRIPT),
        _nonce_attribute(context, nonce),
    )


@register.simple_tag
def tiderace_positions(*places: str | Mapping[str, Position]) -> SafeString:
    """Put the positions of topics into the page, from which the client recovers.

    Args:
        places: what ``tiderace.topics.positions()`` returned in the view, before the
            view read what the page shows; or names of topics, looked up now, which
            misses what was published since the view began.
    """
    found: dict[str, Position] = {}
    for place in places:
        found.update(positions(place) if isinstance(place, str) else place)
    return json_script(
        {"positions": {name: [at.epoch, at.offset] for name, at in found.items()}},
        POSITIONS_ID,
    )


@register.simple_tag(takes_context=True)
def tiderace_importmap(
    context: Context,
    imports: Mapping[str, str] | None = None,
    *,
    nonce: str | None = None,
) -> SafeString:
    """Define the imports ``"tiderace"`` and those of its parts for the page's modules.

    An import map must precede the first module script of a page, and older browsers
    take only one: pass your own entries to merge them.

    Args:
        context: The template's context, for the nonce.
        imports: Further entries, module name to URL.
        nonce: Used instead of the one found in the context. An import map is an
            inline script: a policy without ``'unsafe-inline'`` needs it.
    """
    entries = {
        "tiderace": static(SCRIPT),
        **{f"tiderace/{name}": static(f"tiderace/{name}.js") for name in MODULES},
        **(imports or {}),
    }
    text = json.dumps({"imports": entries}).translate(_SCRIPT_ESCAPES)
    return format_html(
        '<script type="importmap"{}>{}</script>',
        _nonce_attribute(context, nonce),
        mark_safe(text),  # noqa: S308 - escaped above, in the way JSON can undo
    )


def _below_prefix(address: Any) -> Any:
    """Return a path with the prefix that the site is served below, as ``{% url %}`` does."""
    prefix = get_script_prefix()
    if address.startswith("/") and not address.startswith(("//", prefix)):
        address = prefix + address[1:]
    return address


def _validate(name: str, value: object) -> None:
    if name not in _OPTIONS:
        problem = f"has no option {name!r}; known: nonce, {', '.join(_OPTIONS)}"
    elif value is None:
        return
    elif isinstance(value, bool) or not isinstance(value, _OPTIONS[name][1]):
        kinds = " or ".join(kind.__name__ for kind in _OPTIONS[name][1])
        problem = f"option {name!r} is {value!r}; give it {kinds}"
    elif name == "when_full" and value not in _POLICIES:
        policies = ", ".join(_POLICIES)
        problem = f"option 'when_full' is {value!r}; choose one of {policies}"
    elif isinstance(value, (int, float)) and not 0 <= value < float("inf"):
        problem = (
            f"option {name!r} is {value!r}; it cannot be negative or infinite (leave it "
            "out for the default)"
        )
    else:
        return
    raise template.TemplateSyntaxError(f"tiderace_script {problem}")


def _nonce_attribute(context: Context, nonce: str | None) -> SafeString:
    """Return the attribute with ``nonce``, Django's or django-csp's nonce, or "".

    A lazy nonce is false until it is read, so it is converted and not tested.
    """
    request_nonce = getattr(context.get("request"), "csp_nonce", None)
    places = (nonce, context.get("csp_nonce"), request_nonce)
    text = str(next((each for each in places if each is not None), ""))
    return format_html(' nonce="{}"', text) if text else SafeString("")
