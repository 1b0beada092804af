"""The declaration of topics that deliver the numbers of members of another topic."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import msgspec
from django.core.exceptions import ImproperlyConfigured

from tiderace.topics.declaration.checks import full_name
from tiderace.topics.declaration.latest import Latest
from tiderace.topics.declaration.topic import Topic


class OccupancyNumbers(msgspec.Struct, frozen=True):
    """The numbers that subscribers of an ``Occupancy`` topic receive."""

    connections: int
    """Connections that are subscribed to the counted topic."""
    users: int
    """Users with such a connection; each anonymous connection is one."""


class Occupancy(Topic):
    """Base class of topics that deliver the numbers of members of another topic.

    ::

        class RoomOccupancy(Occupancy):
            pattern = "occupancy:room:<slug:name>"
            permission_classes = [AllowAny]

            def counted(self):
                return f"room:{self.kwargs['name']}"

    A subscriber gets ``{"connections": 3, "users": 2}`` with its subscription and after
    each change, at the rate of ``deliver``. It gets no names, and is not counted itself.
    The counted topic needs ``presence``. A process with subscribers, however many, reads
    the numbers at most once in each period, and every ten seconds while there are no
    joins and leaves.

    Not guaranteed: that a subscriber gets each number. With ``Presence.PER_USER`` a
    further connection of a present user is no join, so ``connections`` may be ten seconds
    old.
    """

    deliver: ClassVar[Latest | None] = Latest(rate="1/s")
    publication: ClassVar[Any] = OccupancyNumbers

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if cls.pattern and cls.counted is Occupancy.counted:
            raise ImproperlyConfigured(
                f"{full_name(cls)} does not say which topic it counts; write def "
                "counted(self), which returns the name of that topic"
            )
        if inspect.iscoroutinefunction(cls.counted):
            raise ImproperlyConfigured(
                f"{full_name(cls)}.counted is a coroutine function; write def counted(self), "
                "which returns the name of the topic from self.kwargs"
            )
        if cls.history is not None or cls.deliver is None:
            raise ImproperlyConfigured(
                f"{full_name(cls)} has a history, or deliver = None; its numbers are not "
                'published, so leave history out and write deliver = Latest(rate="1/s")'
            )
        super().__init_subclass__(**kwargs)

    def counted(self) -> str:
        """Return the name of the topic whose members are counted; a plain method."""
        raise NotImplementedError
