"""Keeps the cyclic garbage collector from what is loaded when a server starts."""

from __future__ import annotations

import gc

# Those of Python, up to 3.13 and from 3.14 on.
_DEFAULT_THRESHOLDS = (700, 2000)
_THRESHOLD = 5000
# Of the two older generations: how many collections of the one below come before one of
# theirs. From 3.14 on there is one, and the numbers are others.
_DEFAULT_OTHERS = [10, 10]
_OTHERS = [2, 40]

_frozen = False


async def freeze() -> None:
    """Exempt all objects of this process from later collections; once per process.

    A Django project has some hundred thousand of them, and each full collection visited
    them again: a tenth of the processor time in which clients connect. What becomes
    garbage among them later, and is part of a cycle, is not freed any more; modules and
    settings stay anyway. Nor is garbage of the oldest generation: a full collection takes
    25 ms and more, and Python has made those that the start needed.
    """
    global _frozen
    if not _frozen:
        _frozen = True
        gc.collect(1)
        gc.freeze()
        _collect_less_often()


def _collect_less_often() -> None:
    """Raise the threshold of collections, unless the project has set its own.

    A connection has about 90 objects that live long. With the default every 70,000 of
    them caused a full collection, which visits those of all connections: a seventh of the
    processor time in which thousands of clients connect, and pauses of a tenth of a
    second. Now 600,000 do. Cyclic garbage of up to 5000 objects waits, instead of 700.

    The middle generation has 15,000 objects, which are still in the processor's cache. With
    55,000, its collections took twice as long, 7 % of the time in which clients connect,
    and paused for 20 ms each instead of 4.
    """
    first, *others = gc.get_threshold()
    if first in _DEFAULT_THRESHOLDS:
        more = _OTHERS if others == _DEFAULT_OTHERS else others
        gc.set_threshold(_THRESHOLD, *more)
