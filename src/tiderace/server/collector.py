"""Keeps the cyclic garbage collector from what is loaded when a server starts."""

from __future__ import annotations

import gc

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
