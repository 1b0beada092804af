"""Resets objects in a forked child, where the parent's threads and event loops are gone."""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Callable

_resets: list[Callable[[], Callable[[], None] | None]] = []

# What the parent's objects held. Finalized in the child, a loop or a connection would
# take the parent's sockets off the epoll that both processes share.
_inherited: list[object] = []


def after_fork(reset: Callable[[], None]) -> None:
    """Call ``reset`` in each forked child, before other code of the child runs.

    A method is called while its object lives, which this does not prolong. Gunicorn,
    Celery's prefork pool, ``multiprocessing`` and uWSGI fork through Python's hooks;
    where a system has no fork, nothing is called.
    """
    if inspect.ismethod(reset):
        _resets.append(weakref.WeakMethod(reset, _resets.remove))
    else:
        _resets.append(lambda: reset)


def keep_alive(inherited: object) -> None:
    """Keep an object of the parent until the child ends, so that it is not finalized."""
    _inherited.append(inherited)


def _reset_all() -> None:
    for reference in _resets:
        reset = reference()
        if reset is not None:
            reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
