"""The token of a device: its primary key, signed with the secret key of the site."""

from __future__ import annotations

from django.core import signing

_SALT = "tiderace.demo.device"


def token_of(device: int) -> str:
    """Return the token with which a device reports."""
    return signing.dumps(device, salt=_SALT)


def device_of(authorization: str) -> int | None:
    """Return the device of a header ``Bearer <token>``; None for any other."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return None
    try:
        return int(signing.loads(token, salt=_SALT))
    except signing.BadSignature:
        return None
