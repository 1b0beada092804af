"""Tiderace's own settings: the dict ``TIDERACE``, validated once into a frozen value."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from django.conf import ENVIRONMENT_VARIABLE, settings
from django.utils.functional import empty

__all__ = [
    "Settings",
    "TokenKey",
    "TopicSettings",
    "UnknownSetting",
    "configured",
    "current",
    "django_setting",
    "nearest",
    "validate",
]


_API_KEY_LENGTH = 16

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_OneOrMore = Annotated[int, msgspec.Meta(ge=1)]

# The end of an error of msgspec, which names the place of the value; the parts of a place;
# its text for a number out of range; and msgspec's words for Python's types.
_PLACE = re.compile(r" - at `\$(.*)`$")
_PART = re.compile(r"\.(\w+)|\[(\d+)\]")
_RANGE = re.compile(r"Expected \w+ (>=?) (\S+)")
_TYPES = {"null": "None", "array": "list", "object": "dict"}
# Settings whose values no error shows.
_SECRETS = {"TOKEN_KEYS", "API_KEYS"}


class UnknownSetting(ValueError):
    """``TIDERACE`` has a key that is no setting, or a value of the wrong type."""


class TokenKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``TIDERACE["TOKEN_KEYS"]``; its ``repr`` shows no secret."""

    algorithm: Literal["HS256", "RS256", "ES256"]
    """The only algorithm that this key is used with, whatever a token's header says."""

    key: str = ""
    """The key that verifies: the shared secret of HS256, else the public key as PEM."""

    private_key: str = ""
    """The key that signs with RS256 and ES256, as PEM; needed only to make tokens."""

    id: str = ""
    """The ``kid`` of tokens signed with it. A token that names one needs that key."""

    def __repr__(self) -> str:
        return f"<TokenKey {self.algorithm} {self.id!r}>"


class TopicSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="upper"
):
    """The values of ``TIDERACE["TOPICS"]``: the limits of a topic client."""

    anonymous: bool = True
    """Whether anonymous visitors may connect; each topic decides who may subscribe."""

    users: Literal["database", "claims"] = "database"
    """Whether the user of a token is loaded from the database, or made of its claims."""

    ping: float = 25.0
    """Seconds between two pings; below the idle timeouts of common proxies."""

    pong_timeout: float = 10.0
    """Seconds to wait for a pong before a client is closed with 3012."""

    connect_timeout: float = 15.0
    """Seconds to wait for the command ``connect`` before a client is closed with 3502, and
    over HTTP for the body of a request."""

    call_timeout: float = 30.0
    """Seconds an RPC method may take."""

    frame_size: int = 65_536
    """Bytes of one message from a client; longer ones close it with 1009."""

    subscriptions: int = 128
    """Subscriptions of one connection."""

    name_length: int = 255
    """Characters of a topic's name."""

    commands: str = "200/s"
    """Commands of one connection; beyond it they are refused with 111."""

    recovered: int = 300
    """Publications that a subscription recovers at the most; with more, it reloads."""

    connects: str | None = "1000/s"
    """The rate at which one process accepts clients; others are refused with 111 and try
    again. The default is about what one processor core can do. None: no limit."""

    api_keys: tuple[str, ...] = ()
    """Keys of the HTTP API for other programs; several while one is replaced.
    Empty: there is no such API."""

    api_open: bool = False
    """Whether the HTTP API is open without a key; for development alone."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="upper"):
    """The values of ``TIDERACE`` (upper-case keys there), each with its default."""

    sync_threads: _OneOrMore | None = None
    """Threads that run sync code of connections (sync consumers, database calls) at once.

    None: processors + 4, at most 32, as asyncio sizes its own pool. Handlers that await
    may hold ten times as many.
    """

    concurrent_handlers: _OneOrMore = 16
    """How many handlers marked ``@concurrent`` one connection may run at a time."""

    disconnect_timeout: _Positive = 10.0
    """Seconds that a handler may continue after its client has left, and as many for
    ``disconnect()`` after that.

    Later it is cancelled, and left behind if it has not ended after half as long again.
    """

    outbox_limit: int = 1_048_576
    """Bytes of broadcasts that may wait for one client, 1 MiB.

    A client that has left more unread is closed with 1013, after which it may reconnect;
    the others do not wait for it. The limit applies on ``tiderace.server``, whose writes
    never block; on other servers the handler waits.
    """

    drop_log_interval: float = 60.0
    """Seconds between two log lines about messages that one socket lost."""

    topics: TopicSettings = TopicSettings()
    """The limits of topic clients."""

    presence_ttl: _Positive = 60.0
    """Seconds without a refresh after which a member is removed, as when its process was
    killed. At least twice ``presence_refresh``, so that one refresh may fail."""

    presence_refresh: _Positive = 25.0
    """Seconds between two refreshes of the members of a process."""

    presence_lease: _Positive = 30.0
    """Seconds that ``user_joined`` and ``user_left`` may take in a process before another
    process calls them again."""

    presence_pushes: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    """Joins and leaves a second that a topic pushes, over all its clients together;
    beyond it clients read the list. 0: no limit."""

    drain_seconds: _NotNegative | None = None
    """Seconds over which a process that stops closes its sockets; 0 is all at once.

    None: 20, long enough for the clients of a full process to reconnect to others one by
    one, and 0 while ``DEBUG`` is on.
    """

    drain_grace: _NotNegative = 5.0
    """Seconds that handlers then have to finish, before their connections are cut.

    With the default of ``drain_seconds`` that is 25 s, less than the 30 s that gunicorn
    and Kubernetes wait by default.
    """

    run_dir: str | None = None
    """A folder in which ``manage.py`` commands find the running processes.

    None: one for this user and project among the temporary folders.
    """

    relay_in_servers: bool = True
    """Whether server processes relay the outbox; ``manage.py tiderace_relay`` does anyway."""

    relay_poll: _Positive = 0.1
    """Seconds between two queries of an outbox that is empty.

    Rows that this process has committed are relayed at once, those of other processes
    after this time at most.
    """

    token_keys: tuple[TokenKey, ...] = ()
    """Keys of the JSON Web Tokens: the first one that can sign is used to sign, and all of
    them to verify.

    Empty: HS256 keys derived from ``SECRET_KEY``, which signs and verifies, and from
    ``SECRET_KEY_FALLBACKS``, which only verify.
    """

    token_audience: str | None = None
    """The ``aud`` that tokens are made with and must have; None: they must have none."""

    token_issuer: str | None = None
    """The ``iss`` that tokens are made with and must have; None: any."""

    token_leeway: float = 5.0
    """Seconds by which the clock of a token's issuer may differ from this one."""

    ticket_cache: str = "default"
    """The alias in ``CACHES`` that remembers which one-time tickets were used."""

    revalidate: bool = False
    """Whether log-outs and withdrawn permissions reach the sockets of consumers; they
    always reach topic clients.

    False, as in Channels: a socket keeps the user it was opened with.
    """

    revalidate_interval: _Positive = 300.0
    """Seconds between two checks of all connected users, for changes without a signal."""

    trusted_proxies: int | tuple[str, ...] = 0
    """The proxies whose ``X-Forwarded-For`` is believed: how many a connection passes, or
    their networks (``["10.0.0.0/8"]``)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` for the known name closest to ``name``, else ``""``."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def validate(values: Mapping[str, Any]) -> Settings:
    """Turn the dict ``TIDERACE`` into ``Settings``.

    Raises:
        UnknownSetting: a key is unknown (the message suggests the nearest), or a value
            has the wrong type or is out of range.
    """
    _require_known_keys("TIDERACE", values, Settings.__struct_encode_fields__)
    if "TOPICS" in values:
        _require_known_keys(
            "TIDERACE['TOPICS']",
            values["TOPICS"],
            TopicSettings.__struct_encode_fields__,
        )
    try:
        validated = msgspec.convert(dict(values), Settings)
    except msgspec.ValidationError as error:
        raise UnknownSetting(_problem(values, str(error))) from None
    if validated.presence_ttl < 2 * validated.presence_refresh:
        raise UnknownSetting(
            f"TIDERACE['PRESENCE_TTL'] is {validated.presence_ttl}, less than twice "
            f"PRESENCE_REFRESH ({validated.presence_refresh}), so that one renewal that "
            "fails would remove members; raise the first or lower the second"
        )
    _require_proxies(validated.trusted_proxies)
    if any(len(key) < _API_KEY_LENGTH for key in validated.topics.api_keys):
        raise UnknownSetting(
            "TIDERACE['TOPICS']['API_KEYS'] has a key of fewer than "
            f"{_API_KEY_LENGTH} characters, which can be guessed; make one with "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return validated


def _problem(values: Any, error: str) -> str:
    """Return an error of msgspec with the setting's name and value, if that is no secret."""
    found = _PLACE.search(error)
    parts = _PART.findall(found[1]) if found else []
    text = _PLACE.sub("", error).replace("`", "")
    text = re.sub(r"\b(null|array|object)\b", lambda word: _TYPES[word[0]], text)
    name = "TIDERACE"
    for key, index in parts:
        name += f"[{key!r}]" if key else f"[{index}]"
        values = values[key] if key else values[int(index)]
    if _SECRETS.isdisjoint(key for key, _ in parts):
        name += f" is {reprlib.repr(values)}"
    if outside := _RANGE.fullmatch(text):
        limit = f"{float(outside[2]):g}"
        wanted = f"{limit} or more" if outside[1] == ">=" else f"more than {limit}"
        return f"{name}; use {wanted}"
    return f"{name}: {text[0].lower()}{text[1:]}"


def _require_known_keys(name: str, values: object, known: tuple[str, ...]) -> None:
    if not isinstance(values, Mapping):
        raise UnknownSetting(
            f"{name} is a {type(values).__qualname__}; make it a dict of settings "
            f"(known: {', '.join(known)})"
        )
    for key in values:
        if key not in known:
            raise UnknownSetting(
                f"{name} has no setting {key!r}{nearest(str(key), known)} "
                f"(known: {', '.join(known)})"
            )


def _require_proxies(proxies: int | tuple[str, ...]) -> None:
    if isinstance(proxies, int):
        if proxies < 0:
            raise UnknownSetting(
                f"TIDERACE['TRUSTED_PROXIES'] is {proxies}; use 0 or more, or networks"
            )
        return
    for network in proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise UnknownSetting(
                f"TIDERACE['TRUSTED_PROXIES']: {error}; write networks such as "
                "'10.0.0.0/8'"
            ) from None


def configured() -> bool:
    """Return whether Django has settings, loaded or still to be loaded."""
    return _unwrap_settings() is not None or bool(os.environ.get(ENVIRONMENT_VARIABLE))


def _unwrap_settings() -> Any:
    """Return what Django's ``settings`` have loaded, or None, without its slow look-up."""
    wrapped = object.__getattribute__(settings, "__dict__")["_wrapped"]
    return None if wrapped is empty else wrapped


def django_setting(name: str) -> Any:
    """Return a setting of Django that has a default, read past Django's Python code.

    ``settings.NAME`` runs that code each time, which took a tenth of the time of a
    handshake for its ten settings.
    """
    read = object.__getattribute__(settings, "__dict__")
    return read[name] if name in read else getattr(settings, name)


# The setting, what it was read from (None without Django's settings), and what it gave.
_validated: tuple[object, object, Settings] | None = None


def current() -> Settings:
    """Return the current settings; the defaults when Django is not configured.

    The dict is validated again only when ``settings.TIDERACE`` is another object, as
    after ``override_settings``.
    """
    global _validated
    if _validated is not None:
        values, source, result = _validated
        read = object.__getattribute__(settings, "__dict__")
        if values is not None:
            if read.get("TIDERACE") is values:
                return result
        # Django does not cache that a setting is missing: each look-up raises an error.
        elif read["_wrapped"] is source and "TIDERACE" not in vars(source):
            return result
    values = getattr(settings, "TIDERACE", None) if configured() else None
    if _validated is None or _validated[0] is not values:
        result = validate(values or {})
    else:
        result = _validated[2]
    _validated = (values, _unwrap_settings(), result)
    return result
