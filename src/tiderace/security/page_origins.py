"""Which pages may use topics: those of the site itself, and those that were named.

It knows lists of origins and where a request was sent to; nothing of what is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import ParseResult

from django.conf import settings

from tiderace.asgi import Scope
from tiderace.security.origins import header, is_own_page, parse, shown, site_of
from tiderace.security.websocket import OriginValidator

__all__ = ["Objection", "objection"]

logger = logging.getLogger("tiderace.topics")

# Pages that DEBUG lets in are told of once each, and so many of them.
_MOST_TOLD: Final = 50
_told: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a page may not use topics, and what would let it."""

    reason: str
    advice: str


def objection(
    scope: Scope, validator: OriginValidator, named: Iterable[str] | None
) -> Objection | None:
    """What there is to say against the page that sends a request with its origin.

    A page has to pass the validator. Where that goes by ``ALLOWED_HOSTS``, which says
    nothing of ports and schemes, it has to be a page of the site itself too, or one of
    ``named`` or of ``CSRF_TRUSTED_ORIGINS``. While ``DEBUG`` is on that is only said in
    the log, since development servers have ports of their own.

    Args:
        scope: the request's, which has an Origin header.
        validator: which hosts or origins may.
        named: origins that may besides, as ``OriginValidator`` takes them.
    """
    origin = header(scope, b"origin") or ""
    page = parse(origin)
    if not validator.valid_origin(page):
        return Objection(
            f"its origin {shown(origin)} is not allowed",
            f"add the page's host to {validator.setting}",
        )
    if (
        not validator.names_hosts
        or is_own_page(scope, page) is not False
        or _is_named(validator, page, named or ())
    ):
        return None
    where = f"its origin {shown(origin)} is not that of the site, {shown(_site(scope))}"
    advice = (
        "add it to CSRF_TRUSTED_ORIGINS, to the origins of get_application() or to "
        "allowed_origins of the endpoint; behind a proxy, see that it passes Host on"
    )
    if not settings.DEBUG:
        return Objection(where, advice)
    _tell_once(origin, _site(scope), where, advice)
    return None


def _site(scope: Scope) -> str:
    return str(site_of(scope))


def _is_named(
    validator: OriginValidator, page: ParseResult, named: Iterable[str]
) -> bool:
    # Django writes subdomains with a star.
    trusted = [each.replace("://*.", "://.") for each in settings.CSRF_TRUSTED_ORIGINS]
    return any(
        pattern == "*" or validator.match_allowed_origin(page, pattern)
        for pattern in (*trusted, *named)
    )


def _tell_once(origin: str, site: str, where: str, advice: str) -> None:
    if (origin, site) in _told or len(_told) >= _MOST_TOLD:
        return
    _told.add((origin, site))
    logger.warning(
        "a page may use topics only because DEBUG is on: %s; %s", where, advice
    )
