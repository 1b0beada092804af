"""Keeps the cyclic garbage collector from what is loaded when a server starts."""

from __future__ import annotations

import gc

# The default threshold of Python up to 3.13, and from 3.14 on.
_DEFAULT_THRESHOLDS = (700, 2000)
_THRESHOLD = 5000
# Each of the two older generations is collected after this many collections of the one
# below it. Python 3.14 has one older generation and another default, which is kept.
_DEFAULT_OTHERS = [10, 10]
_OTHERS = [2, 40]

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
