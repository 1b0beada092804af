"""The module behind the alias ``channels.utils``."""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any

from tiderace.consumer import await_many_dispatch

__all__ = ["await_many_dispatch", "name_that_thing"]


def name_that_thing(thing: Any) -> str:
    """Return the dotted name of a class or function, for messages.

    A bound method is named below its object's class, and an instance by its class.
    """
    if isinstance(thing, MethodType):
        return f"{name_that_thing(thing.__self__)}.{thing.__name__}"
    if not isinstance(thing, (type, FunctionType)):
        thing = type(thing)
    return f"{thing.__module__}.{thing.__name__}"
