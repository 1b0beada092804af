"""Stand-in for the top package ``channels_redis``; its modules are aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiderace.compat.finder import import_submodule

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["__version__"]

# The version of channels_redis whose surface is offered.
__version__ = "4.3.0"


def __getattr__(name: str) -> ModuleType:
    return import_submodule("channels_redis", name)
