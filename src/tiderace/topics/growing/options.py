"""The options of topics with messages that grow."""

from __future__ import annotations

import dataclasses

from django.core.exceptions import ImproperlyConfigured

# The growth stream of a topic has a text up to twice, and layers keep 4 MiB of a stream.
_LARGEST = 1_048_576


@dataclasses.dataclass(frozen=True, slots=True)
class Growing:
    """Allows messages that grow in a topic, with their intervals and limits.

    Args:
        interval: seconds between two records with appends of a message; appends in
            between are sent together. The first one after a pause is sent at once. They
            are more where sending would take over half of an event loop's time.
        lease: seconds without a record of the process that writes a message, after which
            the message is marked failed. A writer that has nothing to append sends an
            empty record every third of the lease.
        size: the most bytes of a message's text in UTF-8, at most 1 MiB. A client that
            subscribes gets the text at once, so keep it below
            ``TIDERACE["OUTBOX_LIMIT"]``.

    Raises:
        ImproperlyConfigured: for values that are not positive numbers, and for a larger
            size.
    """

    interval: float = 0.04
    lease: float = 15.0
    size: int = 262_144

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if (
                not isinstance(value, int | float)
                or isinstance(value, bool)
                or value <= 0
            ):
                raise ImproperlyConfigured(
                    f"Growing({field.name}={value!r}) is not a positive number; leave "
                    f"it out for the default of {field.default}"
                )
        if self.size > _LARGEST:
            raise ImproperlyConfigured(
                f"Growing(size={self.size}) is more than {_LARGEST} bytes, of which "
                "layers keep four times as many for a topic; begin another message "
                "where a text becomes longer"
            )
