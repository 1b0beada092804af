"""Compares the origin of a page with the origin of the site that it sends a request to."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import ParseResult, urlparse, urlsplit

import msgspec
from django.conf import settings
from django.http.request import validate_host

from tiderace import conf
from tiderace.asgi import Scope, describe, log_fields, printable

_PORTS: Final = {"http": 80, "https": 443}

WITHOUT_HOST: Final = ("null", "file://")
"""The origins without a host: of pages in files, sandboxes and some apps."""

# Characters of a client's header that a log line shows.
_SHOWN: Final = 200

# The most characters of what is remembered of clients' headers.
_REMEMBERED_LENGTH: Final = 256

T = TypeVar("T")


def header(scope: Scope, wanted: bytes) -> str | None:
    """Return the last header of this name, or None."""
    last = None
    for name, value in scope.get("headers", ()):
        if name == wanted:
            last = value
    return None if last is None else bytes(last).decode("latin1")


def remember_short(function: Callable[[str], T], text: str) -> T:
    """Return ``function(text)``, remembered where the text is short.

    Most clients of a site send the same Host and Origin. What is remembered is bounded
    in number and length, so that clients cannot fill the memory.
    """
    if len(text) > _REMEMBERED_LENGTH:
        return function(text)
    return _remember(function, text)  # type: ignore[no-any-return]


@lru_cache(maxsize=1024)
def _remember(function: Callable[[str], Any], text: str) -> Any:
    return function(text)


class _Page(ParseResult):
    """A parsed origin whose host and port are computed once."""

    @cached_property
    def hostname(self) -> str | None:
        return super().hostname

    @cached_property
    def port(self) -> int | None:
        return super().port


def parse(origin: str) -> ParseResult:
    """Parse an origin; a malformed one has no host."""
    return remember_short(_parse, origin)


def _parse(origin: str) -> ParseResult:
    try:
        parsed = _Page(*urlparse(origin))
        # Raises ValueError for a port that is no number.
        _ = parsed.port
    except ValueError:
        return _Page(*urlparse(""))
    return parsed


def text_of(page: ParseResult) -> str:
    """Return a parsed origin as text; empty for a malformed one."""
    return f"{page.scheme}://{page.netloc}" if page.scheme else page.path


def require_origins(entries: Iterable[str | re.Pattern[str]]) -> None:
    """Check that each entry of a list of origins can match an origin.

    Raises:
        ValueError: one cannot, or the list is a string.
    """
    if isinstance(entries, str) and entries != "*":
        raise ValueError(f"the origins are the string {entries!r}; write a list")
    for entry in entries:
        if isinstance(entry, re.Pattern) or entry in ("*", *WITHOUT_HOST):
            continue
        if not isinstance(entry, str):
            raise ValueError(
                f"the origin {entry!r} is a {type(entry).__name__}; write a string, or "
                "a regular expression of re.compile()"
            )
        if "://" in entry:
            host = parse(entry).hostname or ""
        # "localhost:8000" is a scheme and a path, which no page has.
        elif urlparse(entry).scheme or "/" in entry:
            host = ""
        else:
            host = parse(f"//{entry}").hostname or entry
        if not re.fullmatch(r"[\w.:-]+", host, re.ASCII):
            raise ValueError(
                f"the origin {entry!r} matches no page; write a host as "
                '"example.com", with its subdomains as ".example.com", or an origin as '
                '"https://example.com:8443" or "https://.example.com", other letters '
                'as "xn--..."'
            )


def shown(text: str) -> str:
    """Return a client's text for a log line: quoted, shortened, without line breaks."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


class OriginProblem(msgspec.Struct, frozen=True):
    """Why a request with its origin is refused."""

    reason: str
    advice: str
    """The change of the settings that would allow the origin."""


def log_refusal(logger: logging.Logger, scope: Scope, problem: OriginProblem) -> None:
    """Log that a request or WebSocket is refused."""
    origin = header(scope, b"origin")
    logger.warning(
        "refused %s on host %s: %s; %s",
        describe(scope),
        shown(header(scope, b"host") or ""),
        problem.reason,
        problem.advice,
        extra=log_fields(scope, "origin_refused", origin=origin and printable(origin)),
    )


class Site(msgspec.Struct, frozen=True):
    """The site that a request was sent to."""

    scheme: str
    host: str
    port: int | None
    """The port in the request; None for the scheme's default."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port else "")

    def is_origin_of(self, page: ParseResult) -> bool:
        """Return whether a page has the scheme, host and port of this site.

        An ``https`` page counts as one of an ``http`` site, since proxies often end TLS
        without saying so. The reverse does not: a page over plain HTTP can be forged.
        """
        scheme = page.scheme
        if page.hostname != self.host or scheme not in _PORTS:
            return False
        if scheme != self.scheme and scheme != "https":
            return False
        default = _PORTS[scheme]
        return (page.port or default) == (self.port or default)


def site_of(scope: Scope) -> Site | None:
    """Return the site that a request was sent to; None without a Host header.

    ``X-Forwarded-Host`` and ``X-Forwarded-Proto`` are believed when Django's settings or
    ``TIDERACE["TRUSTED_PROXIES"]`` name proxies. A page of another site cannot set these
    headers: browsers send a preflight request first, which is refused.
    """
    proxied = bool(conf.current().trusted_proxies)
    host = None
    if conf.django_setting("USE_X_FORWARDED_HOST") or proxied:
        host = _first(scope, b"x-forwarded-host")
    host = host or header(scope, b"host")
    if not host:
        return None
    split = remember_short(_split, host)
    if split is None:
        return Site("", host, None)  # which is the origin of no page
    name, port = split
    if port is None and conf.django_setting("USE_X_FORWARDED_PORT"):
        forwarded = _first(scope, b"x-forwarded-port") or ""
        port = int(forwarded) if forwarded.isdecimal() else None
    return Site(_scheme(scope, proxied=proxied), name, port)


def _split(host: str) -> tuple[str, int | None] | None:
    """Return the name and the port of a Host header; None for a malformed one."""
    try:
        split = urlsplit(f"//{host}")
        return split.hostname or "", split.port
    except ValueError:
        return None


def allowed_hosts() -> list[str]:
    """Return ``ALLOWED_HOSTS``; as in Django, an empty list with ``DEBUG`` is this machine."""
    hosts = conf.django_setting("ALLOWED_HOSTS")
    if not hosts and settings.DEBUG:
        return ["localhost", "127.0.0.1", "[::1]"]
    return list(hosts)


def host_problem(site: Site | None) -> OriginProblem | None:
    """Return why the host that a request was sent to is not one of this site, or None.

    A page whose host name resolves to this server (DNS rebinding) is of the same origin
    as what it reads, and a browser sends no Origin with that.

    Args:
        site: that of the request, as ``site_of`` returns it.
    """
    if site is None:
        return None
    host = f"[{site.host}]" if ":" in site.host else site.host
    host, allowed = host.rstrip("."), tuple(allowed_hosts())
    matches = _matches if len(host) <= _REMEMBERED_LENGTH else validate_host
    if matches(host, allowed):
        return None
    return OriginProblem(
        f"its host {shown(site.host)} is not one of this site",
        "add it to ALLOWED_HOSTS; behind a proxy, let it pass the header Host on",
    )


_matches = lru_cache(maxsize=256)(validate_host)


def may_be_own_page(scope: Scope, page: ParseResult, site: Site | None) -> bool:
    """Return whether a page belongs to the site that it sends the request to.

    A request without a Host header does not tell, so every page may.
    """
    if site is None or site.is_origin_of(page):
        return True
    # Set by the browser, so it holds whatever a proxy has made of the host.
    return header(scope, b"sec-fetch-site") == "same-origin"


def _scheme(scope: Scope, *, proxied: bool) -> str:
    secure_header = conf.django_setting("SECURE_PROXY_SSL_HEADER")
    if secure_header is not None:
        name, secure = secure_header
        wanted = name.removeprefix("HTTP_").replace("_", "-").lower()
        scheme = _first(scope, wanted.encode())
        if scheme is not None:
            return "https" if scheme == secure else "http"
    if proxied and (scheme := _first(scope, b"x-forwarded-proto")):
        return "https" if scheme.lower() in ("https", "wss") else "http"
    return "https" if scope.get("scheme") in ("https", "wss") else "http"


def _first(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a header, that of the proxy nearest to the client."""
    values = header(scope, name)
    return None if values is None else values.partition(",")[0].strip()
