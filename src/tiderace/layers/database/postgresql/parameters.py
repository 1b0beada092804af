"""The connection parameters: those of Django's own connection."""

from __future__ import annotations

import re
from typing import Any

from django.db import connections

# Parameters that Django passes to psycopg itself, not to libpq. The layer has no prepared
# statements, which a pooler in transaction mode would lose.
_NOT_LIBPQ = ("context", "cursor_factory", "prepare_threshold", "row_factory")


def connection_parameters(
    using: str, timeout: float, *, application: str
) -> dict[str, Any]:
    """Return the current parameters of libpq for one of ``DATABASES``.

    They are not cached: test runners change the name of the database.

    Args:
        using: the alias of the database.
        timeout: seconds to connect, unless the settings have ``connect_timeout``.
        application: ``application_name``, unless the settings have one.
    """
    parameters = connections[using].get_connection_params()
    for name in _NOT_LIBPQ:
        parameters.pop(name, None)
    parameters.setdefault("application_name", application)
    # libpq takes whole seconds, and less than two as two.
    parameters.setdefault("connect_timeout", max(2, int(timeout)))
    return parameters


def role_of(using: str) -> str:
    """Return the role that Django's connections assume, or ""."""
    role: str = connections[using].settings_dict["OPTIONS"].get("assume_role") or ""
    return role


def location_of(using: str) -> str:
    """Return where a database is, without a password."""
    found = connections[using].settings_dict
    host = found["HOST"] or "the local socket"
    port = f":{found['PORT']}" if found["PORT"] else ""
    return f'"{found["NAME"]}" at {host}{port} (DATABASES["{using}"])'


def quote_role(role: str) -> str:
    """Return a role as an identifier of SQL."""
    return '"' + re.sub('"', '""', role) + '"'
