"""Decides which pages may use topics: those of the site, and those that are listed.

All transports of a topics endpoint ask ``origin_problem``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import ParseResult

from django.conf import settings

from tiderace.asgi import Scope
from tiderace.security.origins import (
    OriginProblem,
    Site,
    header,
    may_be_own_page,
    parse,
    shown,
)
from tiderace.security.websocket import OriginValidator

logger = logging.getLogger("tiderace.topics")

# Each page that only DEBUG allows is logged once, and not more of them than this.
_LOGGED_PAGES: Final = 50
_logged: set[tuple[str, str]] = set()


def origin_problem(
    scope: Scope,
    validator: OriginValidator,
    allowed: Iterable[str | re.Pattern[str]] | None,
    site: Site | None,
) -> OriginProblem | None:
    """Return why the page that sends a request may not use topics, or None if it may.

    A page has to pass the validator. A validator of ``ALLOWED_HOSTS`` checks neither
    port nor scheme, so the page then has to be of the site's own origin too, or in
    ``allowed`` or ``CSRF_TRUSTED_ORIGINS``. While ``DEBUG`` is on, the latter is only
    logged, since development servers have ports of their own.

    A WebSocket without an Origin header passes: a validator outside has decided. An HTTP
    request without one passes if it only reads and no other site's page caused it, since
    browsers leave the header out when a page fetches from its own site.

    Args:
        scope: of the request or WebSocket.
        validator: checks hosts or origins.
        allowed: further origins, in the form of ``OriginValidator``.
        site: that of the request, as ``site_of`` returns it.
    """
    origin = header(scope, b"origin")
    if origin is None:
        if scope["type"] == "websocket" or validator.allow_missing or _reads(scope):
            return None
        return OriginProblem(
            "it sent no Origin header, as browsers do",
            "allow_missing_origin=True, of get_application() or of the endpoint, lets "
            "such clients in",
        )
    problem = validator.origin_problem(origin)
    page = parse(origin)
    if (
        problem is not None
        or not validator.names_hosts
        or may_be_own_page(scope, page, site)
        or _is_listed(validator, page, allowed or ())
    ):
        return problem
    problem = OriginProblem(
        f"its origin {shown(origin)} is not that of the site, {shown(str(site))}",
        "add it to CSRF_TRUSTED_ORIGINS, to the origins of get_application() or to "
        "allowed_origins of the endpoint; behind a proxy, see that it passes Host on",
    )
    if not settings.DEBUG:
        return problem
    _log_once(origin, str(site), problem)
    return None


def _reads(scope: Scope) -> bool:
    """Return whether a request only reads, and not for another site's page."""
    site = header(scope, b"sec-fetch-site")
    return scope["method"] in ("GET", "HEAD") and site in (None, "same-origin", "none")


def _is_listed(
    validator: OriginValidator,
    page: ParseResult,
    allowed: Iterable[str | re.Pattern[str]],
) -> bool:
    # Django writes subdomains with a star.
    trusted = [each.replace("://*.", "://.") for each in settings.CSRF_TRUSTED_ORIGINS]
    return any(
        pattern == "*" or validator.match_allowed_origin(page, pattern)
        for pattern in (*trusted, *allowed)
    )


def _log_once(origin: str, site: str, problem: OriginProblem) -> None:
    if (origin, site) in _logged or len(_logged) >= _LOGGED_PAGES:
        return
    _logged.add((origin, site))
    logger.warning(
        "a page may use topics only because DEBUG is on: %s; %s",
        problem.reason,
        problem.advice,
    )
