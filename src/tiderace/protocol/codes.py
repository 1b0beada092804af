"""The protocol's codes: errors, reasons to unsubscribe, reasons to close.

The range decides what a client does (``spec/protocol.md``, "Codes"), so a number never
changes its meaning.
"""

from __future__ import annotations

import msgspec


class Failure(msgspec.Struct, omit_defaults=True, frozen=True):
    """Why a command failed; a temporary failure may be tried again.

    Codes from 400 to 1999 are the application's.
    """

    code: int
    message: str
    temporary: bool = False


INTERNAL = Failure(100, "internal server error", temporary=True)
UNAUTHORIZED = Failure(101, "unauthorized")
UNKNOWN_TOPIC = Failure(102, "unknown channel")
PERMISSION_DENIED = Failure(103, "permission denied")
METHOD_NOT_FOUND = Failure(104, "method not found")
ALREADY_SUBSCRIBED = Failure(105, "already subscribed")
LIMIT_EXCEEDED = Failure(106, "limit exceeded")
BAD_REQUEST = Failure(107, "bad request")
NOT_AVAILABLE = Failure(108, "not available")
TOKEN_EXPIRED = Failure(109, "token expired")
TOKEN_NOT_YET_VALID = Failure(101, "token not yet valid", temporary=True)
TOO_MANY_REQUESTS = Failure(111, "too many requests", temporary=True)
UNRECOVERABLE = Failure(112, "unrecoverable position")


class Unsubscription(msgspec.Struct, frozen=True):
    """Why the server ends a subscription; from 2500 on clients subscribe again."""

    code: int
    reason: str


UNSUBSCRIBED_BY_SERVER = Unsubscription(2000, "server unsubscribe")
UNSUBSCRIBED_PERMISSION_DENIED = Unsubscription(2003, "permission denied")
UNSUBSCRIBED_INSUFFICIENT_STATE = Unsubscription(2500, "insufficient state")
UNSUBSCRIBED_EXPIRED = Unsubscription(2501, "subscription expired")


class Close(msgspec.Struct, frozen=True):
    """Why the server ends a connection.

    Clients reconnect after 3000 to 3499 and 4000 to 4499, and not after 3500 to 3999
    and 4500 to 4999.
    """

    code: int
    reason: str

    @property
    def reconnect(self) -> bool:
        """Whether the client reconnects by itself."""
        return not (3500 <= self.code < 4000 or 4500 <= self.code < 5000)


CLOSE_DRAIN = Close(3001, "shutdown")
CLOSE_SERVER_ERROR = Close(3004, "internal server error")
CLOSE_EXPIRED = Close(3005, "connection expired")
CLOSE_SLOW = Close(3008, "slow")
CLOSE_INSUFFICIENT_STATE = Close(3010, "insufficient state")
CLOSE_NO_PONG = Close(3012, "no pong")
CLOSE_TOO_MANY_REQUESTS = Close(3013, "too many requests")
CLOSE_STATE_INVALIDATED = Close(3014, "state invalidated")
CLOSE_INVALID_TOKEN = Close(3500, "invalid token")
CLOSE_BAD_REQUEST = Close(3501, "bad request")
CLOSE_STALE = Close(3502, "stale")
CLOSE_KICKED = Close(3503, "force disconnect")
CLOSE_BAD_PROTOCOL = Close(3506, "inappropriate protocol")
