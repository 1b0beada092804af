"""Refuses options that a layer's constructor does not have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from tiderace import conf


def refuse_unknown_options(layer: object, unknown: Mapping[str, Any]) -> None:
    """Raise for unknown options of a layer, with the nearest known one.

    Raises:
        TypeError: when there are any.
    """
    for name in unknown:
        known = [
            parameter.name
            for kind in type(layer).__mro__
            for parameter in _open_parameters(kind)
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        raise TypeError(
            f"{type(layer).__name__} has no option {name!r}{conf.nearest(name, known)} "
            f"(known: {', '.join(known)})"
        )


def _open_parameters(kind: type) -> list[inspect.Parameter]:
    """Return the parameters of a constructor that takes any option; else none."""
    if "__init__" not in vars(kind):
        return []
    _, *parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
    is_open = any(each.kind is each.VAR_KEYWORD for each in parameters)
    return [
        each for each in parameters if is_open and each.kind is not each.VAR_POSITIONAL
    ]
