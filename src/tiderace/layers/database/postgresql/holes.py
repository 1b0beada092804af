"""The ids that a reader has not seen: rows are committed in another order than their ids."""

from __future__ import annotations

import psycopg

# Seconds after which a missing id counts as unused, as after a rollback.
_LIFETIME = 60.0

# Seconds for which a missing id is queried at every poll; after that it is queried once in
# this many seconds.
_EAGER = 1.0

# With more holes than these the reader has fallen behind, and has to begin anew.
_MAX_HOLES = 20_000


class Holes:
    """The ids up to the end of a sequence that were not seen.

    Args:
        end: the last id that was seen.
    """

    def __init__(self, end: int) -> None:
        self._end = end
        # When each id was found missing, and when it is queried next.
        self._missing: dict[int, tuple[float, float]] = {}

    def add(self, seen: int, now: float) -> None:
        """Note that a row was seen; unseen ids before it become holes."""
        if seen > self._end:
            self.extend(seen, now)
        self._missing.pop(seen, None)

    def extend(self, end: int, now: float) -> None:
        """Note that ids up to ``end`` were given to rows; unseen ones become holes.

        Raises:
            psycopg.OperationalError: when there are too many holes, or when the server
                has lost ids in a crash and gives them to other rows.
        """
        if end < self._end:
            raise psycopg.OperationalError("the server has lost its latest ids")
        if end - self._end + len(self._missing) > _MAX_HOLES:
            raise psycopg.OperationalError(
                f"the reader is {end - self._end} messages behind"
            )
        for missing in range(self._end + 1, end + 1):
            self._missing[missing] = (now, now)
        self._end = end

    def discard(self, seen: int) -> None:
        """Note that a row with an id up to the end was seen."""
        self._missing.pop(seen, None)

    def due(self, now: float, *, delay: float) -> list[int]:
        """Return the ids to query now, which have been missing for ``delay`` seconds."""
        found = []
        for missing, (since, next_time) in list(self._missing.items()):
            if now - since > _LIFETIME:
                del self._missing[missing]
            elif now - since >= delay and now >= next_time:
                found.append(missing)
                if now - since > _EAGER:
                    self._missing[missing] = (since, now + _EAGER)
        return found
