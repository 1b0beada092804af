"""The aliases behind ``tiderace.install_as_channels()``.

A module is imported when its alias is; Django need not be configured.

After ``install()``:

- ``channels.X`` *is* ``tiderace.X``: the same module object, so classes exist once
  and ``mock.patch("channels.db.close_old_connections")`` patches the code that runs.
  Packages with content of their own (``channels`` with its ``__version__``,
  ``channels.apps``, ``channels_redis``) are small stand-ins in this directory.
- ``INSTALLED_APPS`` may list ``channels``, ``tiderace`` or both. ``channels`` is an
  app of its own (name and label ``channels``) with the same commands, template tags
  and static files; when both are listed they come from ``tiderace``.
- ``daphne`` is the real package where that is installed, except for ``daphne.apps``
  and ``daphne.management.commands.runserver``: ``INSTALLED_APPS = ["daphne", ...]``
  gives the ``runserver`` of Tiderace and imports no Twisted. Where daphne is not
  installed, a stand-in serves with uvicorn.
- ``importlib.metadata.version("channels")`` raises ``PackageNotFoundError``, since no
  such distribution is installed; ``channels.__version__`` exists.

A process made by ``fork`` inherits the alias. One made by ``spawn`` or ``forkserver``
has it once the project's package is imported, if the call stands in that package's
``__init__.py``. A start function in another package that imports ``channels`` first
must call ``tiderace.install_as_channels()``, or name it as the pool's ``initializer``.
"""

from __future__ import annotations

import sys

from tiderace.compat.finder import AliasFinder

__all__ = ["install"]


def install() -> None:
    """Make ``channels``, ``channels_redis`` and ``daphne`` aliases in later imports.

    A second call does nothing.

    Raises:
        RuntimeError: when the real ``channels`` or ``channels_redis`` is imported
            already: its classes would exist beside those of Tiderace.
    """
    if any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        return
    for name in ("channels", "channels_redis"):
        if (module := sys.modules.get(name)) is not None:
            raise RuntimeError(
                f"{name} is already imported, from {module.__file__}; call "
                "tiderace.install_as_channels() before anything imports it, as the "
                "first line of the project package's __init__.py"
            )
    sys.meta_path.insert(0, AliasFinder())
