"""Origins: that of a page, and that of the site as a request was sent to it.

It knows headers, and what Django and our own settings say of proxies. Whether a page may
do anything it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import ParseResult, urlparse, urlsplit

from django.conf import settings

from tiderace import conf
from tiderace.asgi import Scope

__all__ = ["Site", "header", "is_own_page", "parse", "shown", "site_of"]

_PORTS: Final = {"http": 80, "https": 443}

# What a log line shows of a header that anybody may fill.
_SHOWN: Final = 200


def header(scope: Scope, wanted: bytes) -> str | None:
    """The last header of this name; None when there is none."""
    for name, value in reversed(list(scope.get("headers", ()))):
        if name == wanted:
            return bytes(value).decode("latin1")
    return None


def parse(origin: str) -> ParseResult:
    """An origin by its parts; one without a host where it cannot be read."""
    try:
        parsed = urlparse(origin)
        # A port that is no number shows only when it is asked for.
        _ = parsed.port
    except ValueError:
        return urlparse("")
    return parsed


def shown(text: str) -> str:
    """A text for a line of the log, where it cannot begin another one."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a request was sent to, as far as can be told from here."""

    scheme: str
    host: str
    port: int | None
    """As it was said; None where the scheme's own is meant."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port else "")

    def is_origin_of(self, page: ParseResult) -> bool:
        """Whether a page has scheme, host and port of this site.

        One that came by TLS is one where we are asked by plain HTTP, for proxies often
        end TLS and do not say so. The reverse is none: such a page may be forged.
        """
        scheme = page.scheme
        if page.hostname != self.host or scheme not in _PORTS:
            return False
        if scheme != self.scheme and scheme != "https":
            return False
        default = _PORTS[scheme]
        return (page.port or default) == (self.port or default)


def site_of(scope: Scope) -> Site | None:
    """Where the request was sent to; None when it does not say so, as browsers do.

    ``X-Forwarded-Host`` and ``X-Forwarded-Proto`` are believed when Django's settings or
    ``TIDERACE["TRUSTED_PROXIES"]`` tell of proxies. A page of another site cannot write
    them: browsers ask before they send such a header, and are told no.
    """
    proxied = bool(conf.current().trusted_proxies)
    host = None
    if settings.USE_X_FORWARDED_HOST or proxied:
        host = _first(scope, b"x-forwarded-host")
    host = host or header(scope, b"host")
    if not host:
        return None
    try:
        split = urlsplit(f"//{host}")
        name, port = split.hostname, split.port
    except ValueError:
        # Of no page: no origin has such a host.
        return Site("", host, None)
    if port is None and settings.USE_X_FORWARDED_PORT:
        said = _first(scope, b"x-forwarded-port") or ""
        port = int(said) if said.isdecimal() else None
    return Site(_scheme(scope, proxied=proxied), name or "", port)


def is_own_page(scope: Scope, page: ParseResult) -> bool | None:
    """Whether a page is one of the site that it sends the request to.

    Returns:
        None when it cannot be told, since the request does not name the site.
    """
    if header(scope, b"sec-fetch-site") == "same-origin":
        # The browser itself says so, whatever a proxy has made of the host.
        return True
    site = site_of(scope)
    return None if site is None else site.is_origin_of(page)


def _scheme(scope: Scope, *, proxied: bool) -> str:
    if settings.SECURE_PROXY_SSL_HEADER is not None:
        name, secure = settings.SECURE_PROXY_SSL_HEADER
        wanted = name.removeprefix("HTTP_").replace("_", "-").lower()
        said = _first(scope, wanted.encode())
        if said is not None:
            return "https" if said == secure else "http"
    if proxied and (said := _first(scope, b"x-forwarded-proto")):
        return "https" if said.lower() in ("https", "wss") else "http"
    return "https" if scope.get("scheme") in ("https", "wss") else "http"


def _first(scope: Scope, name: bytes) -> str | None:
    """What the proxy that is nearest to the client has said; None for nothing."""
    said = header(scope, name)
    return None if said is None else said.partition(",")[0].strip()
