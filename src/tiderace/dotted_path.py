"""What a dotted path names, or a sentence that says what to change.

It knows Python's import system, and nothing of what is imported.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured

from tiderace.conf import nearest

__all__ = ["attribute", "resolve"]


def resolve(asked: str, path: str) -> Any:
    """Import the module, or the name in a module, that ``path`` says.

    Args:
        asked: where the path was written, for the message: an argument, a setting.
        path: the dotted path.

    Raises:
        ImproperlyConfigured: when there is no such module or name. An error inside a
            module that does exist is passed on as it is.
    """
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not _is_missing(error, path):
            raise
        missing = error.name
    parent, _, name = path.rpartition(".")
    # When only the last part is missing, the module before it has been imported.
    if missing != path or not parent:
        _complain(asked, path, f"there is no module {missing!r}")
    return attribute(asked, importlib.import_module(parent), name)


def attribute(asked: str, module: ModuleType, name: str) -> Any:
    """The name in ``module``.

    Raises:
        ImproperlyConfigured: when it has no such name, with the nearest it has.
    """
    try:
        return getattr(module, name)
    except AttributeError:
        problem = f"module {module.__name__!r} has no {name!r}"
        hint = nearest(name, vars(module))
        _complain(asked, f"{module.__name__}.{name}", f"{problem}{hint}")


def _is_missing(error: ModuleNotFoundError, path: str) -> bool:
    """Whether ``path`` itself is not there, and not something that it imports."""
    return error.name is not None and f"{path}.".startswith(f"{error.name}.")


def _complain(asked: str, path: str, problem: str) -> NoReturn:
    raise ImproperlyConfigured(
        f"{asked} names {path!r}, but {problem}. Write a dotted path that Python can "
        "import, and see that the directory above its first part is on the Python path"
    ) from None
