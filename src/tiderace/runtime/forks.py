"""Prepares objects for a fork, and resets them in the child.

In a forked child the parent's threads and event loops are gone.
"""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Callable

_Hooks = list[Callable[[], Callable[[], None] | None]]

_pauses: _Hooks = []
_resumes: _Hooks = []
_resets: _Hooks = []

# What the parent's objects held. Finalized in the child, a loop or a connection would
# take the parent's sockets off the epoll that both processes share.
_inherited: list[object] = []


def after_fork(reset: Callable[[], None]) -> None:
    """Call ``reset`` in each forked child, before other code of the child runs.

    A method is called while its object lives, which this does not prolong. Gunicorn,
    Celery's prefork pool, ``multiprocessing`` and uWSGI fork through Python's hooks;
    where a system has no fork, nothing is called.
    """
    _add(_resets, reset)


def around_fork(pause: Callable[[], None], resume: Callable[[], None]) -> None:
    """Call ``pause`` before each fork, in the thread that forks, and ``resume`` after it.

    ``resume`` is called in the parent only. Otherwise as ``after_fork``.
    """
    _add(_pauses, pause)
    _add(_resumes, resume)


def keep_alive(inherited: object) -> None:
    """Keep an object of the parent until the child ends, so that it is not finalized."""
    _inherited.append(inherited)


def _add(hooks: _Hooks, function: Callable[[], None]) -> None:
    if not inspect.ismethod(function):
        hooks.append(lambda: function)
        return
    plain = function.__func__

    def find() -> Callable[[], None] | None:
        owner = reference()
        return None if owner is None else plain.__get__(owner)

    reference = weakref.ref(function.__self__, lambda _: hooks.remove(find))
    hooks.append(find)


def _call_all(hooks: _Hooks) -> None:
    for find in list(hooks):
        function = find()
        if function is not None:
            function()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _call_all(_pauses),
        after_in_parent=lambda: _call_all(_resumes),
        after_in_child=lambda: _call_all(_resets),
    )
