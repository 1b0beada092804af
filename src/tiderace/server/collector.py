"""Keeps the cyclic garbage collector from what is loaded when a server starts."""

from __future__ import annotations

import gc

# The default threshold of Python up to 3.13, and from 3.14 on.
_DEFAULT_THRESHOLDS = (700, 2000)
# The first threshold where the others are not the default of Python up to 3.13: Python 3.14
# has one older generation, and a project may have set them.
_THRESHOLD = 5000
# The youngest generation, and after how many collections of the one below it each of the
# two older generations is collected too.
_DEFAULT_OTHERS = [10, 10]
_SMALL = (2500, 0, 160)

_frozen = False


async def freeze() -> None:
    """Exempt all objects of this process from later collections; once per process.

    A Django project has some hundred thousand of them, and each full collection visited
    them again: a tenth of the processor time in which clients connect. An exempt object
    that later becomes part of a garbage cycle is never freed; most are modules and
    settings, which stay anyway. The same holds for garbage that is in the oldest
    generation now: only the younger ones are collected first, since a full collection
    takes 25 ms and more, and Python has made some during the start.
    """
    global _frozen
    if not _frozen:
        _frozen = True
        gc.collect(1)
        gc.freeze()
        _collect_less_often()


def _collect_less_often() -> None:
    """Make full collections rare, unless the project has set a threshold of its own.

    A connection has about 70 objects that live long. With the default every 70,000 of
    them caused a full collection, which visits those of all connections: a seventh of the
    processor time in which thousands of clients connect, and pauses of a tenth of a
    second. Now 800,000 do.

    The two younger generations have 2500 objects each, which are still in the processor's
    cache when they are visited. Measured in November 2026 (Python 3.11, two shared cores),
    their collections per topic client that connects: 14 us; with 5000 and 15,000 objects
    21 us, and longer pauses. With 1000 objects it was 11 us, but more objects that are in
    use for a moment reached the oldest generation: full collections came sooner when
    10,000 clients returned at once.
    """
    first, *others = gc.get_threshold()
    if first in _DEFAULT_THRESHOLDS:
        if others == _DEFAULT_OTHERS:
            gc.set_threshold(*_SMALL)
        else:
            gc.set_threshold(_THRESHOLD, *others)
