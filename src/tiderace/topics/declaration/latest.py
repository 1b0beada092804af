"""The declaration of topics that deliver the newest values at a pace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.core.exceptions import ImproperlyConfigured

from tiderace.protocol.messages import Pub
from tiderace.ratelimit import Rate
from tiderace.topics.json_fields import as_bytes

logger = logging.getLogger("tiderace.topics")


@dataclass(frozen=True, slots=True)
class Latest:
    """Delivers the newest publication of each key, at a limited rate per subscriber.

    A publication is replaced by a later one with the same key that comes before it is
    delivered. What a subscriber gets is in the order of publication. While the topic is
    quiet the next publication is delivered at once.

    Guaranteed: a subscriber that stays connected ends with the newest value of each
    key, as long as no more than ``keys`` keys change within one period. For one that
    reads slowly the limit is also ``OUTBOX_LIMIT`` bytes of changed values until it has
    read. Not guaranteed: that it gets a value that was replaced.

    Args:
        rate: how often a subscriber gets new values, such as ``"2/s"`` or ``"1/10s"``;
            ``"5/s"``, as often as a reader can follow.
        key: the field of the published object whose value is the key, or a function
            that takes the published data and returns the key, which is hashable; None
            for a topic with one value. Data without the field, and data for which the
            function fails, has the key None.
        keys: the most keys that wait for subscribers. Beyond it the value that has
            waited longest is dropped, and in a topic with history subscribers without
            it subscribe again. The same happens to values that wait for slow readers
            alone, beyond ``OUTBOX_LIMIT`` bytes.

    Raises:
        ImproperlyConfigured: for a malformed rate, a key of another type, and fewer
            than one key.
    """

    rate: str = "5/s"
    key: str | Callable[[Any], Hashable] | None = None
    keys: int = 10_000
    interval: float = field(init=False, repr=False, compare=False)
    """Seconds between two deliveries."""
    _decoder: Any = field(init=False, repr=False, compare=False)
    _failing: set[str] = field(init=False, repr=False, compare=False)
    """Types of the key function's errors that were logged."""

    def __post_init__(self) -> None:
        try:
            rate = Rate.parse(self.rate)
        except ValueError as error:
            raise ImproperlyConfigured(f"Latest(rate={self.rate!r}): {error}") from None
        if not (self.key is None or callable(self.key) or isinstance(self.key, str)):
            raise ImproperlyConfigured(
                f"Latest(key={self.key!r}) is neither the name of a field nor a function; "
                'write key="id" for data such as {"id": 7, ...}, or leave it out for a '
                "topic with one value"
            )
        if not isinstance(self.keys, int) or self.keys < 1:
            raise ImproperlyConfigured(
                f"Latest(keys={self.keys!r}) keeps no value; write a number from 1 on, "
                "such as keys=10_000"
            )
        decoder = None
        if isinstance(self.key, str):
            keyed = msgspec.defstruct(
                "Keyed",
                [
                    (
                        "key",
                        msgspec.Raw,
                        msgspec.field(name=self.key, default=msgspec.Raw()),
                    )
                ],
            )
            decoder = msgspec.json.Decoder(keyed)
        object.__setattr__(self, "interval", rate.seconds / rate.count)
        object.__setattr__(self, "_decoder", decoder)
        object.__setattr__(self, "_failing", set())

    def key_of(self, data: str | bytes) -> Hashable:
        """Return the key of published JSON; None where it has none."""
        if self._decoder is not None:
            try:
                return bytes(self._decoder.decode(data).key) or None
            except msgspec.DecodeError:  # it is no object
                return None
        if self.key is None:
            return None
        assert callable(self.key)  # noqa: S101 (checked above)
        try:
            key = self.key(msgspec.json.decode(data))
            hash(key)
        except Exception as error:
            if type(error).__name__ not in self._failing:
                self._failing.add(type(error).__name__)
                logger.exception(
                    "the key function of %r failed for %.200r; such data has the key "
                    "None, and a further %s is not logged",
                    self,
                    data,
                    type(error).__name__,
                )
            return None
        return key

    def newest(self, publications: Iterable[Pub]) -> list[Pub]:
        """Return the last publication of each key, in order."""
        found: dict[Hashable, Pub] = {}
        for each in publications:
            key = self.key_of(as_bytes(each.data))
            found.pop(key, None)
            found[key] = each
        return list(found.values())
