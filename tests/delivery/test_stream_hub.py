"""The stream hub: what it keeps of listeners."""

from __future__ import annotations

import weakref

from tiderace.delivery.stream_hub import StreamHub
from tiderace.history import Position, Publication


class Reader:
    """A listener that keeps the offsets of what it gets."""

    def __init__(self):
        self.groups = ()
        self.offsets = []

    def on_publication(self, group, publication):
        self.offsets.append(publication.position.offset)


async def test_a_listener_that_has_left_is_freed_before_the_next_publication():
    hub = StreamHub()
    staying, leaving = Reader(), Reader()
    hub.add("room", staying)
    hub.add("room", leaving)
    hub.put("room", Publication(Position("e", 1), "1")).start()
    freed = weakref.ref(leaving)

    hub.discard("room", leaving)
    del leaving

    assert freed() is None
    assert staying.offsets == [1]
