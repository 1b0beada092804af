"""Checks a class of the application when it is defined: its attributes and its hooks.

A mistake that is found here raises where it was made. What may be intended, such as an
attribute whose name resembles an option, is left to ``tiderace.checks.topics``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args

from django.core.exceptions import ImproperlyConfigured


def place(cls: type) -> str:
    """Return the full name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def require_kinds(cls: type, kinds: Mapping[str, tuple[Any, str]]) -> None:
    """Check the values of class attributes.

    Args:
        cls: the class.
        kinds: attribute to the types of its value, and what to write there.

    Raises:
        ImproperlyConfigured: for a value of another type.
    """
    for name, (kind, advice) in kinds.items():
        value = inspect.getattr_static(cls, name)
        if not isinstance(value, kind) or (
            # Which is an int as well.
            isinstance(value, bool) and bool not in (kind, *get_args(kind))
        ):
            raise ImproperlyConfigured(
                f"{place(cls)}.{name} is {value!r}, of type {type(value).__name__}; "
                f"write {advice}"
            )


def require_hooks(
    cls: type, hooks: Mapping[str, tuple[str, ...]], *, optional: str = ""
) -> None:
    """Check that the hooks that a class defines can be called.

    Decorated hooks are not checked beyond their decorator, which may add arguments.

    Args:
        cls: the class.
        hooks: name of a hook to the arguments that it is called with, ``self`` or
            ``cls`` first.
        optional: an argument that a hook may leave out.

    Raises:
        ImproperlyConfigured: for a hook with other arguments, and for an attribute of
            that name that cannot be called.
    """
    for name, (owner, *arguments) in hooks.items():
        hook = inspect.getattr_static(cls, name, None)
        if hook is None:
            continue
        definition = f"def {name}({', '.join((owner, *arguments))})"
        if owner == "cls":
            definition = f"@classmethod {definition}"
        bound = getattr(cls, name)
        if not callable(bound):
            raise ImproperlyConfigured(
                f"{place(cls)}.{name} is {bound!r}, which cannot be called; write a "
                f"method: {definition}"
            )
        on_instance = owner == "self" and inspect.isfunction(hook)
        given = [owner, *arguments] if on_instance else arguments
        shorter = [each for each in given if each != optional]
        if not (_accepts(bound, given) or _accepts(bound, shorter)):
            signature = inspect.signature(bound, follow_wrapped=False)
            raise ImproperlyConfigured(
                f"{place(cls)}.{name}{signature} cannot be called with "
                f"({', '.join(given)}); write: {definition}"
            )


def _accepts(function: Any, arguments: list[str]) -> bool:
    try:
        inspect.signature(function, follow_wrapped=False).bind(*arguments)
    except ValueError:  # of a built-in function without a signature
        return True
    except TypeError:
        return False
    return True
