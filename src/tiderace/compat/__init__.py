"""The alias behind ``tiderace.install_as_channels()``: old import names, our modules.

It knows names only; what the modules do, and whether Django is configured, it does
not know. Nothing is imported before somebody asks for it.

After ``install()``:

- ``channels.X`` *is* ``tiderace.X``: the same module object, so classes exist once
  and ``mock.patch("channels.db.close_old_connections")`` reaches our code. The
  packages that carry facts of their own (``channels`` with its ``__version__``,
  ``channels.apps``, ``channels_redis``) are small stand-ins in this directory; they
  hold no class that exists elsewhere.
- ``INSTALLED_APPS`` may list ``channels``, ``tiderace`` or both. ``channels`` is an
  app of its own (name and label ``channels``) that brings the same commands,
  template tags and static files; when both are listed they come from ``tiderace``.
- ``daphne``: the real package answers where it is installed, since only it can be
  the ``daphne`` command, ``daphne.server`` or ``daphne.cli``. Two names are ours all
  the same, ``daphne.apps`` and ``daphne.management.commands.runserver``, so that
  ``INSTALLED_APPS = ["daphne", ...]`` gives our ``runserver`` and imports no Twisted.
  Where daphne is not installed the stand-in answers, serving with uvicorn.
- ``importlib.metadata.version("channels")`` is not answered: no such distribution is
  installed, and this package does not pretend to be one. ``channels.__version__`` is.

A process made by ``fork`` inherits the alias. One made by ``spawn`` or ``forkserver``
starts without it, and has it again as soon as the project's package is imported,
provided that the call stands in that package's ``__init__.py``. A start function that
lives in another package and imports ``channels`` first has to call
``tiderace.install_as_channels()`` itself, or name it as the pool's ``initializer``.
"""

from __future__ import annotations

import sys

from tiderace.compat.finder import AliasFinder

__all__ = ["install"]


def install() -> None:
    """Answer imports of ``channels``, ``channels_redis`` and ``daphne``.

    Takes effect for imports that come later; calling it again does nothing.

    Raises:
        RuntimeError: when the real ``channels`` or ``channels_redis`` has been
            imported already, since its classes would then exist beside ours.
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
