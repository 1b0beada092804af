"""Checks a class of the application when it is defined: its attributes and its hooks.

A mistake raises where the class is defined. What may be intended, such as an attribute
whose name resembles an option, is reported by ``tiderace.checks.topics`` instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args

from django.core.exceptions import ImproperlyConfigured


def full_name(cls: type) -> str:
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
            # bool is a subclass of int.
            isinstance(value, bool) and bool not in (kind, *get_args(kind))
        ):
            raise ImproperlyConfigured(
                f"{full_name(cls)}.{name} is {value!r}, of type {type(value).__name__}; "
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
                f"{full_name(cls)}.{name} is {bound!r}, which cannot be called; write a "
                f"method: {definition}"
            )
        on_instance = owner == "self" and inspect.isfunction(hook)
        given = [owner, *arguments] if on_instance else arguments
        shorter = [each for each in given if each != optional]
        if not (_accepts(bound, given) or _accepts(bound, shorter)):
            signature = inspect.signature(bound, follow_wrapped=False)
            raise ImproperlyConfigured(
                f"{full_name(cls)}.{name}{signature} cannot be called with "
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


def require_delivery(cls: Any) -> None:
    """Check ``deliver`` and ``rewind`` of a topic class beside its other options.

    Raises:
        ImproperlyConfigured: for options that exclude each other.
    """
    if cls.deliver is not None and cls.growing is not None:
        raise ImproperlyConfigured(
            f"{full_name(cls)} has both deliver and growing: a later publication would replace "
            "a message that has grown; use two topics"
        )
    if cls.deliver is not None and cls.is_binary() and cls.deliver.key is not None:
        raise ImproperlyConfigured(
            f"{full_name(cls)} has message = bytes, and Latest(key={cls.deliver.key!r}) reads "
            "its key from JSON; leave out key, or message"
        )
    for option in ("deliver", "growing"):
        if cls.may_receive is not None and getattr(cls, option) is not None:
            raise ImproperlyConfigured(
                f"{full_name(cls)} has both may_receive and {option}, whose messages are not "
                "told apart by tags; use one topic for each group of receivers"
            )
    history = cls.history
    kept = 0 if history is None else history.size
    if not 0 <= cls.rewind <= kept:
        keeps = "keeps no history" if history is None else f"keeps {kept} publications"
        raise ImproperlyConfigured(
            f"{full_name(cls)}.rewind is {cls.rewind}, and the topic {keeps}; write a number "
            f"from 0 to the size of its history, as in history = History(size="
            f"{max(1, cls.rewind)}, ttl=300)"
        )


def require_compatible(cls: Any) -> None:
    """Check ``message = bytes`` and ``delta`` of a topic class beside its other options.

    Raises:
        ImproperlyConfigured: for options that exclude each other.
    """
    for option in ("growing", "whispers"):
        if cls.is_binary() and getattr(cls, option):
            raise ImproperlyConfigured(
                f"{full_name(cls)} has {option} and message = bytes, whose clients speak "
                f"Protobuf, and {option} needs JSON; leave one of them out"
            )
    for option in ("growing", "deliver"):
        if cls.delta and getattr(cls, option) is not None:
            raise ImproperlyConfigured(
                f"{full_name(cls)} has {option} and delta = True, which is the difference "
                f"from each publication to the next, and {option} does not send each; "
                "leave one of them out"
            )
