"""Which connection a log line is about, on every record that its code writes.

    "filters": {"connection": {"()": "tiderace.monitoring.logs.ConnectionFields"}},

It knows the connection that is being served, and no formatter and no handler.
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
    """Puts the connection's data on every log record, and lets all of them pass.

    Attached to a handler it sees the records of every logger: ours, the application's,
    and other libraries'. What runs for a connection (its handlers, the threads they
    wait for, its background tasks) has ``connection_id``, ``path``, ``client`` and
    ``user_id``; elsewhere they are None. ``reason`` is one word for what happened on
    our own records, and empty on others. A field that a record has is left alone, and
    no query is made for the user.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what is missing; True."""
        scope = serving.get()
        fields = _NOTHING if scope is None else log_fields(scope)
        for name, value in fields.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
