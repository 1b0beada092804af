"""asyncio under gevent and eventlet, whose threads are greenlets of one thread."""

from __future__ import annotations

import inspect
import sys
import threading
import weakref
from asyncio import (
    AbstractEventLoop,
    Task,
    _enter_task,
    _get_running_loop,
    _leave_task,
    _set_running_loop,
    current_task,
)
from typing import Any

_separated = False


def separate_loops() -> None:
    """Give each greenlet its own running event loop, where threads are greenlets.

    asyncio keeps one running loop for each thread, so sync code of one greenlet would
    seem to run in the loop of another, and async generators would be closed with
    another's. The loop is changed at each switch between greenlets, which then takes
    about a microsecond longer.
    """
    global _separated
    if _separated or "greenlet" not in sys.modules:
        return
    if inspect.isbuiltin(threading.get_ident):  # not replaced by a greenlet's
        return
    _separated = True
    greenlet = sys.modules["greenlet"]
    suspended: weakref.WeakKeyDictionary[
        Any, tuple[AbstractEventLoop, Task[Any] | None, Any]
    ] = weakref.WeakKeyDictionary()
    trace = greenlet.gettrace()

    def switch_loop(event: str, greenlets: tuple[Any, Any]) -> None:
        origin, target = greenlets
        if (loop := _get_running_loop()) is not None:
            task = current_task(loop)
            if task is not None:
                _leave_task(loop, task)
            _set_running_loop(None)
            suspended[origin] = loop, task, sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(None, None)
        if target in suspended:
            loop, task, hooks = suspended.pop(target)
            _set_running_loop(loop)
            sys.set_asyncgen_hooks(*hooks)
            if task is not None:
                _enter_task(loop, task)
        if trace is not None:
            trace(event, greenlets)

    greenlet.settrace(switch_loop)
