"""Imports the object of a dotted path, with errors that say what to change."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured

from tiderace.conf import nearest

__all__ = ["attribute", "resolve"]


def resolve(asked: str, path: str) -> Any:
    """Import the module, or the name in a module, of a dotted path.

    Args:
        asked: the setting or argument that holds the path, for the message.
        path: the dotted path.

    Raises:
        ImproperlyConfigured: the module or name does not exist. An error inside an
            existing module passes through.
    """
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        # Raised by what the module imports, and not for the module itself.
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        missing = error.name
    parent, _, name = path.rpartition(".")
    # When only the last part is missing, the module before it has been imported.
    if missing != path or not parent:
        _complain(asked, path, f"there is no module {missing!r}")
    return attribute(asked, importlib.import_module(parent), name)


def attribute(asked: str, module: ModuleType, name: str) -> Any:
    """Return the attribute ``name`` of ``module``.

    Raises:
        ImproperlyConfigured: there is none; the message suggests the nearest name.
    """
    try:
        return getattr(module, name)
    except AttributeError:
        problem = f"module {module.__name__!r} has no {name!r}"
        hint = nearest(name, vars(module))
        _complain(asked, f"{module.__name__}.{name}", f"{problem}{hint}")


def _complain(asked: str, path: str, problem: str) -> NoReturn:
    raise ImproperlyConfigured(
        f"{asked} names {path!r}, but {problem}. Write a dotted path that Python can "
        "import, and see that the directory above its first part is on the Python path"
    ) from None
