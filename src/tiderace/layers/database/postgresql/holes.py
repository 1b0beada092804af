"""The ids that a reader has not seen, of rows that are committed out of order."""

from __future__ import annotations

import psycopg

# Seconds after which a missing id was not used, as after a transaction rolled back.
_LIFETIME = 60.0

# Seconds in which an id is asked for at every poll, and then between two times.
_EAGER = 1.0

# As many are no gap between rows but a reader that has fallen behind.
_MAX_HOLES = 20_000


class Holes:
    """The ids up to the end of a sequence that were not seen.

    Args:
        end: the last id that was seen.
    """

    def __init__(self, end: int) -> None:
        self._end = end
        # When each was found missing, and when it is asked for again.
        self._missing: dict[int, tuple[float, float]] = {}

    def add(self, seen: int, now: float) -> None:
        """Note that a row was seen, and which ones before it were not."""
        if seen > self._end:
            self.extend(seen, now)
        self._missing.pop(seen, None)

    def extend(self, end: int, now: float) -> None:
        """Note that ids were given to rows up to ``end``.

        Raises:
            psycopg.OperationalError: there are more than a reader can ask for.
        """
        if end - self._end + len(self._missing) > _MAX_HOLES:
            raise psycopg.OperationalError(
                f"the reader is {end - self._end} messages behind"
            )
        for missing in range(self._end + 1, end + 1):
            self._missing[missing] = (now, now)
        self._end = max(self._end, end)

    def discard(self, seen: int) -> None:
        """Note that a row with an id up to the end was seen."""
        self._missing.pop(seen, None)

    def due(self, now: float, *, delay: float) -> list[int]:
        """Return the ids to ask for now, which have been missing for ``delay`` seconds."""
        found = []
        for missing, (since, next_time) in list(self._missing.items()):
            if now - since > _LIFETIME:
                del self._missing[missing]
            elif now - since >= delay and now >= next_time:
                found.append(missing)
                if now - since > _EAGER:
                    self._missing[missing] = (since, now + _EAGER)
        return found
