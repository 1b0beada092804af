"""The options of a layer's constructor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from tiderace import conf


def constructor_options(layer_class: type) -> dict[str, Any] | None:
    """Return the options that a layer's constructor takes; None when it takes any.

    Each has the annotation of its type, which is a text in modules with
    ``from __future__ import annotations``.

    A constructor with ``**kwargs`` is assumed to pass them on to its base, but to refuse
    them where they are called ``**unknown``.
    """
    known: dict[str, Any] = {}
    for kind in layer_class.__mro__[:-1]:
        if "__init__" not in vars(kind):
            continue
        _, *parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        others = None
        for each in parameters:
            if each.kind is each.VAR_KEYWORD:
                others = each.name
            elif each.kind is not each.VAR_POSITIONAL:
                known.setdefault(each.name, each.annotation)
        if others in (None, "unknown"):
            return known
    return None


def refuse_unknown_options(layer: object, unknown: Mapping[str, Any]) -> None:
    """Raise for unknown options of a layer, with the nearest known one.

    Raises:
        TypeError: when there are any.
    """
    for name in unknown:
        known = constructor_options(type(layer)) or {}
        raise TypeError(
            f"{type(layer).__name__} has no option {name!r}{conf.nearest(name, known)} "
            f"(known: {', '.join(known)})"
        )
