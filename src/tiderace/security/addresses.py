"""The address of a client, also behind trusted proxies.

Every proxy on the way appends to ``X-Forwarded-For``, and a client may begin it with any
address: only what trusted proxies have appended is believed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

from tiderace import conf
from tiderace.asgi import Scope

__all__ = ["Address", "Proxies", "client_ip", "limit_key"]

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Proxies: TypeAlias = "int | Sequence[str]"
"""The trusted proxies: how many a connection passes, or the networks they are in."""

# Addresses that are cached, since a limit reads that of its client for each command.
_CACHED = 4096


def client_ip(scope: Scope, proxies: Proxies | None = None) -> Address | None:
    """Return the address of the client; None where there is none (a Unix socket).

    Args:
        scope: the connection's.
        proxies: the trusted proxies, by number or networks; None takes
            ``TIDERACE["TRUSTED_PROXIES"]``. With networks, the header is read from its
            end for as long as the last address was a trusted one. With a number, the
            address that many places from the end is taken; a header with fewer is ignored.

    Raises:
        ValueError: a network is malformed.
    """
    trusted = conf.current().trusted_proxies if proxies is None else proxies
    client = scope.get("client")
    peer = parse(str(client[0])) if client else None
    if not trusted:
        return peer
    forwarded = _forwarded(scope)
    if isinstance(trusted, int):
        if len(forwarded) < trusted:
            return peer
        return parse(forwarded[-trusted]) or peer
    networks = [ipaddress.ip_network(each) for each in trusted]
    address = peer
    # A peer without an address is the other end of a Unix socket, so on this machine.
    while forwarded and (address is None or any(address in each for each in networks)):
        previous = parse(forwarded.pop())
        if previous is None:
            break
        address = previous
    return address


@lru_cache(maxsize=_CACHED)
def limit_key(address: Address) -> str:
    """Return the key to limit a client by: its IPv4 address, or its IPv6 /64 network.

    A provider gives each customer a /64, so its single addresses limit nothing.
    """
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


@lru_cache(maxsize=_CACHED)
def parse(text: str) -> Address | None:
    """Parse an address from a header, with or without a port; None if it is malformed."""
    text = text.strip()
    if text.startswith("["):  # [::1]:443
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 10.0.0.1:443
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _forwarded(scope: Scope) -> list[str]:
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
    lines = [value for name, value in headers if name == b"x-forwarded-for"]
    return b",".join(lines).decode("latin1").split(",") if lines else []
