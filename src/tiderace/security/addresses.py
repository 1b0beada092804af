"""Whose address a connection came from, when proxies of ours stand before the server.

``X-Forwarded-For`` is written by every proxy on the way, and by whoever wants to look
like somebody else: only what our own proxies have added to its end is believed. It knows
scopes and headers, and not what an address is wanted for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from tiderace import conf
from tiderace.asgi import Scope

__all__ = ["Address", "Proxies", "client_ip", "limit_key"]

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Proxies: TypeAlias = "int | Sequence[str]"
"""How many proxies of ours a connection passes, or in which networks they are."""


def client_ip(scope: Scope, proxies: Proxies | None = None) -> Address | None:
    """The address of the client; None where the server knows none (a Unix socket).

    Args:
        scope: the connection's.
        proxies: our proxies, by number or networks; None takes
            ``TIDERACE["TRUSTED_PROXIES"]``. With networks the header is read from its
            end for as long as the address before was one of ours; with a number, so
            many steps, and none where the header has fewer.

    Raises:
        ValueError: for a network that is none.
    """
    trusted = conf.current().trusted_proxies if proxies is None else proxies
    client = scope.get("client")
    peer = parse(str(client[0])) if client else None
    if not trusted:
        return peer
    told = _forwarded(scope)
    if isinstance(trusted, int):
        return (parse(told[-trusted]) or peer) if len(told) >= trusted else peer
    networks = [ipaddress.ip_network(each) for each in trusted]
    here = peer
    # A peer without an address is the other end of a Unix socket, so on this machine.
    while told and (here is None or any(here in each for each in networks)):
        before = parse(told.pop())
        if before is None:
            break  # our proxy has passed on what is no address
        here = before
    return here


def limit_key(address: Address) -> str:
    """What one client can hardly have many of: an IPv4 address, or an IPv6 /64 network."""
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def parse(text: str) -> Address | None:
    """An address as it stands in headers, with or without a port; None if it is none."""
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
