"""Adds the connection that is being served to log records.

"filters": {"connection": {"()": "tiderace.monitoring.logs.ConnectionFields"}},
"""

from __future__ import annotations

import logging

from tiderace.asgi import log_fields, serving

__all__ = ["ConnectionFields"]

_NOTHING = {
    "connection_id": None,
    "path": None,
    "client": None,
    "user_id": None,
    "reason": "",
}


class ConnectionFields(logging.Filter):
    """Adds fields of the connection to every log record, and lets all of them pass.

    Attached to a handler it gets the records of every logger: Tiderace's, the
    application's and other libraries'. Code that runs for a connection (its handlers,
    the threads they wait for, its background tasks) has ``connection_id``, ``path``,
    ``client`` and ``user_id``; elsewhere they are None. ``reason`` is one word for the
    event on Tiderace's own records, and empty on others. A field that a record already
    has is kept, and no query is made for the user.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the missing fields; return True."""
        scope = serving.get()
        fields = _NOTHING if scope is None else log_fields(scope)
        for name, value in fields.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
