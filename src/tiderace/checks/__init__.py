"""System checks of ``manage.py check``; ``docs/reference/checks.md`` lists their ids.

They read settings, source and versions. They open no connection and make no layer. Only
the check of the origins, which runs with ``--deploy``, imports the ASGI application: the
import may have side effects.

A new check takes the next free number. ``check`` decorates it, in the module of what it
inspects; ``tiderace.apps`` imports these modules, which registers the checks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from django.core.checks import CheckMessage, Tags, register

__all__ = ["check", "subclasses"]

Check = Callable[[], Iterator[CheckMessage]]


def check(*, deploy: bool = False) -> Callable[[Check], Callable[..., Any]]:
    """Register the decorated function, which yields messages, as a system check."""

    def decorate(function: Check) -> Callable[..., list[CheckMessage]]:
        @functools.wraps(function)
        def run(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
            return list(function())

        del run.__wrapped__  # Django inspects the signature
        tags = ("tiderace", Tags.security) if deploy else ("tiderace",)
        return register(run, *tags, deploy=deploy)

    return decorate


def subclasses(base: type[Any]) -> Iterator[type[Any]]:
    """Yield the classes derived from ``base``, directly or not."""
    subclass: type[Any]
    for subclass in base.__subclasses__():
        yield subclass
        yield from subclasses(subclass)
