"""The brokers of a layer, each of which serves a share of the names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tiderace.layers.broker import Broker


class Brokers(list[Broker]):
    """Brokers by number, and the one that serves a group, queue or process.

    Args:
        brokers: one or more.
        index_of: returns the number of the broker that serves a name.
    """

    def __init__(
        self, brokers: Sequence[Broker], index_of: Callable[[str], int]
    ) -> None:
        super().__init__(brokers)
        self.index_of = index_of
        self._only = brokers[0] if len(brokers) == 1 else None

    def broker_of(self, name: str) -> Broker:
        """Return the broker that serves ``name``."""
        return self._only or self[self.index_of(name)]

    def select(self, index: int, names: Iterable[str]) -> list[str]:
        """Return those of ``names`` that the broker with this number serves."""
        return [name for name in names if self.index_of(name) == index]
