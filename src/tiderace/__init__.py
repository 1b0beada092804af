"""Real-time for Django: the Channels API, rebuilt to be fast and to lose nothing silently.

Importing this package imports neither Django nor any other of its modules, so
that ``install_as_channels()`` can be the first line a project runs.
"""

from __future__ import annotations

__all__ = ["DEFAULT_CHANNEL_LAYER", "__version__", "install_as_channels"]

__version__ = "0.1.0"

DEFAULT_CHANNEL_LAYER = "default"


def install_as_channels() -> None:
    """Make ``channels``, ``channels_redis`` and ``daphne`` name Tiderace's modules.

    Call it before anything imports ``channels``: the first line of the project
    package's ``__init__.py`` is the usual place. Calling it again does nothing.

    Raises:
        RuntimeError: when the real ``channels`` has already been imported, since
            its classes would then exist beside ours under the same names.
    """
    from tiderace.compat import install

    install()
