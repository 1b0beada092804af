"""The last warnings and errors of this process, for whoever looks at it from outside.

It knows log records, and neither who wrote them nor who reads them here.
"""

from __future__ import annotations

import logging
import re
from collections import deque

import msgspec

__all__ = ["RecentRecords", "Record", "install", "recent_records"]

_KEPT = 50
# Characters of a message that are kept; what applications raise may be of any length.
_LONGEST = 300

_CONTROLS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


class Record(msgspec.Struct, frozen=True):
    """One line of the log."""

    at: float
    """When, in seconds since 1970."""
    level: str
    logger: str
    reason: str
    """One word for what happened, where the record has it."""
    text: str
    """One line without a traceback, at most 300 characters."""


class RecentRecords(logging.Handler):
    """Keeps the last 50 warnings and errors in memory.

    Where nobody else handles a record it is still printed on stderr, as it would be
    without this handler: logging asks its last resort only when there is none at all.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._records: deque[Record] = deque(maxlen=_KEPT)

    def latest(self, limit: int = _KEPT) -> list[Record]:
        """The newest records, the newest first."""
        return list(reversed(list(self._records)))[:limit]

    def clear(self) -> None:
        """Forget all of them."""
        self._records.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        try:
            text = _CONTROLS.sub(" ", record.getMessage())
        except Exception:
            self.handleError(record)
            return
        self._records.append(
            Record(
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
"""What Tiderace's own loggers have said in this process."""


def install() -> None:
    """Keep what our loggers say from now on; again is the same as once."""
    logging.getLogger("tiderace").addHandler(recent_records)
