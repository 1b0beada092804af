"""Keeps the last warnings and errors of this process in memory, for the admin's page."""

from __future__ import annotations

import logging
import re
from collections import deque

import msgspec

_KEPT = 50
# Characters of a message that are kept; an exception's text may have any length.
_LONGEST = 300

_CONTROLS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


class LogLine(msgspec.Struct, frozen=True):
    """One line of the log."""

    at: float
    """When, in seconds since 1970."""
    level: str
    logger: str
    reason: str
    """One word for the event, where the record has it."""
    text: str
    """One line without a traceback, at most 300 characters."""


class RecentRecords(logging.Handler):
    """Keeps the last 50 warnings and errors in memory.

    A record without another handler is printed on stderr all the same, as it would be
    without this one: logging uses its last resort only when there is no handler at all.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._records: deque[LogLine] = deque(maxlen=_KEPT)

    def latest(self, limit: int = _KEPT) -> list[LogLine]:
        """Return the last records, the newest first."""
        return list(reversed(list(self._records)))[:limit]

    def clear(self) -> None:
        """Remove all records."""
        self._records.clear()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = _CONTROLS.sub(" ", record.getMessage())
        except Exception:
            self.handleError(record)
            return
        self._records.append(
            LogLine(
                record.created,
                record.levelname,
                record.name,
                str(getattr(record, "reason", "")),
                text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…",
            )
        )
        last_resort = logging.lastResort
        if (
            last_resort is not None
            and record.levelno >= last_resort.level
            and not self._handled_elsewhere(record.name)
        ):
            last_resort.handle(record)

    def _handled_elsewhere(self, name: str) -> bool:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


recent_records = RecentRecords()
"""The records of Tiderace's own loggers in this process."""


def install() -> None:
    """Attach the handler to Tiderace's loggers, once."""
    logging.getLogger("tiderace").addHandler(recent_records)
