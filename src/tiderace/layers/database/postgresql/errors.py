"""Translates errors of PostgreSQL into those of the layer, with advice."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors

from tiderace.layers.database.vendor import Fault, OutcomeUnknown

OLDEST = 14
"""The oldest version of the server that the layer runs on."""


class DatabaseRefused(Exception):
    """The database cannot be used as it is; the text says what to do."""


class AccessDenied(DatabaseRefused):
    """The database refuses the user; the text says what to do."""


class TimedOut(psycopg.OperationalError):
    """The server did not reply in time; the connection is closed."""


# The server sends no code when it refuses a connection, only a text.
_DENIED = re.compile(
    "password authentication failed|no password supplied|no pg_hba.conf entry"
    "|role .* does not exist|permission denied for database|authentication failed for"
)
_REFUSED = re.compile("database .* does not exist")

# Classes and codes of transient errors: the server starts, stops, fails over, has too many
# connections, or has ended a statement that took too long.
_TRANSIENT = re.compile(
    "08|53[034]00|57P0[1-5]|57014|40001|40P01|55P03|55000|25006|25P0[234]"
)

# Errors for values that the server never takes: a text that is no UTF-8 or has a NUL, a
# number out of range; and a value too large for the index of its column or for a message.
_INVALID = re.compile("22")
_TOO_LARGE = re.compile("54000")
_TOO_LARGE_TEXT = "invalid memory alloc request size"


def explain(error: Exception) -> Fault | None:
    """Return the kind of an error of the database; None for any other error."""
    if isinstance(error, OutcomeUnknown):
        return Fault.TRANSIENT
    if isinstance(error, AccessDenied):
        return Fault.DENIED
    if isinstance(error, DatabaseRefused):
        return Fault.REFUSED
    if not isinstance(error, psycopg.Error):
        return None
    if error.sqlstate is None:
        # An error without a code is one of the connection.
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return Fault.TRANSIENT if lost else Fault.REFUSED
    if _TRANSIENT.match(error.sqlstate):
        return Fault.TRANSIENT
    if _TOO_LARGE.match(error.sqlstate) or _TOO_LARGE_TEXT in str(error):
        return Fault.TOO_LARGE
    return Fault.INVALID if _INVALID.match(error.sqlstate) else Fault.REFUSED


def advise_connection(error: psycopg.Error, using: str) -> Exception:
    """Return the error for a failed connect, with advice if another try cannot succeed."""
    text = str(error).strip()
    settings = f'DATABASES["{using}"]'
    if _DENIED.search(text):
        return AccessDenied(f"{text}; correct USER and PASSWORD in {settings}")
    if _REFUSED.search(text):
        return DatabaseRefused(
            f"{text}; create it, or correct NAME in {settings}, then run: "
            f"python manage.py migrate --database={using}"
        )
    return error


def advise_statement(error: psycopg.Error, using: str) -> Exception:
    """Return the error for a failed statement, with advice if a retry cannot succeed."""
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        return DatabaseRefused(
            f'{text}; add "tiderace.layers.database" to INSTALLED_APPS, and run: '
            f"python manage.py migrate --database={using}"
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return AccessDenied(
            f"{text}; grant the user of DATABASES[{using!r}] SELECT, INSERT, UPDATE and "
            "DELETE on the tables tiderace_layer_* and USAGE on their sequences"
        )
    return error


def require_version(version: int) -> None:
    """Refuse a server that is too old.

    Args:
        version: the number of libpq: 150018 for 15.18.
    """
    if version < OLDEST * 10_000:
        raise DatabaseRefused(
            f"the server is PostgreSQL {version // 10_000}; the layer needs {OLDEST} or "
            "newer: upgrade it, or use another layer"
        )
