"""Signs and verifies JSON Web Tokens with the keys of ``TIDERACE["TOKEN_KEYS"]``.

A key is used only with the algorithm that the settings give for it. The ``alg`` of a
token's header only selects among the keys, so no key fits an unsigned token, or one that
was signed with a public key as if it were a shared secret.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from tiderace import conf
from tiderace.exceptions import TokenExpired, TokenInvalid, TokenNotYetValid

__all__ = ["MAX_TOKEN_LENGTH", "decode", "encode"]

logger = logging.getLogger("tiderace.security")

MAX_TOKEN_LENGTH = 8192
"""The longest token that is read, in characters; a longer one is refused."""

# RFC 7518 §3.2: a key for HS256 must not be shorter than its hash.
_HMAC_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of the settings, parsed for PyJWT."""

    algorithm: str
    id: str
    verify_key: Any = field(repr=False)
    signing_key: Any = field(repr=False)
    """None where only the public half is known."""


def encode(claims: Mapping[str, Any], *, ttl: float) -> str:
    """Sign ``claims``, with ``iat``, ``jti``, ``exp``, and ``aud`` and ``iss`` if set.

    Args:
        claims: the token's content; values that JSON has.
        ttl: seconds until it expires.

    Raises:
        ImproperlyConfigured: PyJWT is missing, or no configured key can sign.
        ValueError: ``ttl`` is not above 0.
    """
    if ttl <= 0:
        raise ValueError(f"ttl={ttl} makes a token that is never valid; use 1 or more")
    current = conf.current()
    now = time.time()
    full = {
        **claims,
        "iat": int(now),
        "exp": int(now + ttl),
        "jti": secrets.token_urlsafe(12),
    }
    if current.token_audience is not None:
        full["aud"] = current.token_audience
    if current.token_issuer is not None:
        full["iss"] = current.token_issuer
    key = next((key for key in _keys() if key.signing_key is not None), None)
    if key is None:
        raise ImproperlyConfigured(
            "no key of TIDERACE['TOKEN_KEYS'] can sign; give one a 'private_key', or "
            "make the tokens where that key is"
        )
    return str(
        _pyjwt().encode(
            full,
            key.signing_key,
            algorithm=key.algorithm,
            headers={"kid": key.id} if key.id else None,
        )
    )


def decode(token: object) -> dict[str, Any]:
    """Verify a token's signature and times, and return its claims.

    ``exp`` and ``nbf`` are checked where they are present, within ``TOKEN_LEEWAY``;
    ``aud`` and ``iss`` against the settings. ``iat`` is not: the clock that wrote it
    may be ahead.

    Raises:
        TokenExpired: it is past its ``exp``.
        TokenNotYetValid: it is before its ``nbf``.
        TokenInvalid: it is invalid for another reason.
        ImproperlyConfigured: PyJWT is missing, or a key cannot be used.
    """
    if not isinstance(token, str) or not token:
        raise TokenInvalid("it is not a string, or is empty")
    if len(token) > MAX_TOKEN_LENGTH:
        raise TokenInvalid(f"it is longer than {MAX_TOKEN_LENGTH} characters")
    if not token.isascii():
        raise TokenInvalid("it is not ASCII")
    keys, jwt = _keys(), _pyjwt()
    algorithm, key_id = _header(jwt, token)
    fitting = [
        key
        for key in keys
        if key.algorithm == algorithm and (not key_id or key_id == key.id or not key.id)
    ]
    if not fitting:
        raise TokenInvalid("no configured key has its algorithm and key id")
    reason = TokenInvalid("its signature is wrong")
    for key in fitting:
        try:
            return _claims(jwt, token, key)
        except jwt.InvalidSignatureError:
            continue
        except jwt.ExpiredSignatureError:
            raise TokenExpired("it has expired") from None
        except jwt.ImmatureSignatureError:
            raise TokenNotYetValid("it is not valid yet") from None
        except jwt.PyJWTError as error:
            # Name only the kind of error: its message may quote what the token says.
            reason = TokenInvalid(f"it is not acceptable ({type(error).__name__})")
        except (ValueError, TypeError, RecursionError):
            reason = TokenInvalid("it cannot be read")
        break
    raise reason


def _header(jwt: ModuleType, token: str) -> tuple[str, str]:
    """Return the algorithm and key id in a token's header, which are not verified."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise TokenInvalid("it is not a JSON Web Token") from None
    algorithm, key_id = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str) or not isinstance(key_id, str):
        raise TokenInvalid("its header is malformed")
    return algorithm, key_id


def _claims(jwt: ModuleType, token: str, key: _Key) -> dict[str, Any]:
    current = conf.current()
    claims: dict[str, Any] = jwt.decode(
        token,
        key.verify_key,
        algorithms=[key.algorithm],
        audience=current.token_audience,
        issuer=current.token_issuer,
        leeway=current.token_leeway,
        options={"verify_iat": False},
    )
    return claims


def _pyjwt() -> ModuleType:
    try:
        import jwt
    except ImportError as error:
        raise ImproperlyConfigured(
            "JSON Web Tokens need PyJWT, which is not installed; "
            'run: python -m pip install "tiderace[jwt]"'
        ) from error
    return jwt


_parsed: tuple[object, list[_Key]] | None = None


def _keys() -> list[_Key]:
    """Return the keys of the settings, parsed again when the settings have changed."""
    global _parsed
    configured = conf.current().token_keys
    own = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    source: object = configured or own
    if _parsed is None or _parsed[0] != source:
        jwt = _pyjwt()
        if configured:
            keys = [_parse(jwt, number, key) for number, key in enumerate(configured)]
        else:
            keys = [_derived(secret) for secret in own]
        _parsed = (source, keys)
    return _parsed[1]


def _derived(secret: str | bytes) -> _Key:
    """Derive the key for tokens from a ``SECRET_KEY``, which cannot be computed back."""
    data = secret if isinstance(secret, bytes) else secret.encode()
    key = hashlib.sha256(b"tiderace.security.keys" + data).digest()
    return _Key("HS256", "", key, key)


def _parse(jwt: ModuleType, number: int, key: conf.TokenKey) -> _Key:
    where = f"TIDERACE['TOKEN_KEYS'][{number}]"
    if not key.key:
        raise ImproperlyConfigured(
            f"{where} has no 'key'; give it the shared secret of HS256, or the public "
            "key as PEM"
        )
    try:
        algorithm = jwt.get_algorithm_by_name(key.algorithm)
        verify_key = algorithm.prepare_key(key.key)
        signing_key = (
            algorithm.prepare_key(key.private_key) if key.private_key else None
        )
    except NotImplementedError:
        raise ImproperlyConfigured(
            f"{where} is for {key.algorithm}, which needs the package cryptography; "
            'run: python -m pip install "tiderace[jwt]"'
        ) from None
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ImproperlyConfigured(
            f"{where} is no key for {key.algorithm} ({type(error).__name__}); HS256 "
            "takes a secret text, RS256 and ES256 take PEM"
        ) from None
    if key.algorithm != "HS256":
        return _Key(key.algorithm, key.id, verify_key, signing_key)
    if len(verify_key) < _HMAC_BYTES:
        logger.warning(
            "%s is %d bytes long, so its tokens can be forged by trying; use %d random "
            "bytes or more",
            where,
            len(verify_key),
            _HMAC_BYTES,
        )
        # HMAC itself fills a short key up with zeros: the same key, and no second
        # warning with every token.
        verify_key = verify_key.ljust(_HMAC_BYTES, b"\0")
    return _Key(key.algorithm, key.id, verify_key, verify_key)
