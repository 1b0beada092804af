"""The finder on ``sys.meta_path`` that maps names of Channels to modules here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

__all__ = ["AliasFinder", "import_submodule", "new_name"]

STAND_INS = Path(__file__).parent

# Old name -> new name. A name below an entry follows it: channels.layers.memory is
# tiderace.layers.memory, found once, never loaded twice from the same file.
ALIASES = {
    "channels.auth": "tiderace.auth",
    "channels.consumer": "tiderace.consumer",
    "channels.db": "tiderace.db",
    "channels.exceptions": "tiderace.exceptions",
    "channels.generic": "tiderace.generic",
    "channels.layers": "tiderace.layers",
    "channels.management": "tiderace.management",
    "channels.middleware": "tiderace.middleware",
    "channels.routing": "tiderace.routing",
    "channels.security": "tiderace.security",
    "channels.sessions": "tiderace.sessions",
    "channels.testing": "tiderace.testing",
    "channels.utils": "tiderace.compat.naming",
    "channels.worker": "tiderace.worker",
    "channels_redis.core": "tiderace.compat.channels_redis.core",
    "channels_redis.pubsub": "tiderace.compat.channels_redis.pubsub",
    "channels_redis.serializers": "tiderace.layers.serializers",
    "channels_redis.utils": "tiderace.compat.channels_redis.utils",
}

# Only the modules below are aliases. Django names a template library by the real name
# of its package, so the package itself must be called channels.templatetags.
PARENTS = {"channels.templatetags": "tiderace.templatetags"}

# Stand-ins even beside a real daphne: the app and its command.
ALWAYS_OURS = frozenset({"daphne.apps", "daphne.management.commands.runserver"})


def new_name(old: str) -> str | None:
    """Return the name of the module that ``old`` is an alias of, or None."""
    if old in ALIASES:
        return ALIASES[old]
    parent, _, child = old.rpartition(".")
    if not parent:
        return None
    above = PARENTS.get(parent) or new_name(parent)
    return f"{above}.{child}" if above else None


def import_submodule(package: str, name: str) -> ModuleType:
    """Import an alias for its use as an attribute of a stand-in: ``channels.db``.

    The modules of Channels import one another and become attributes of the package;
    an alias is imported under its new name, which sets no attribute.

    Raises:
        AttributeError: there is no alias of this name, or the stand-in is not imported.
    """
    if f"{package}.{name}" not in ALIASES or package not in sys.modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return import_module(f"{package}.{name}")


class AliasFinder(MetaPathFinder):
    """Finds ``channels``, ``channels_redis``, ``daphne`` and what is below them."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of a stand-in or an alias, None for every other name."""
        top, _, below = fullname.partition(".")
        if top not in {"channels", "channels_redis", "daphne"}:
            return None
        if not below:
            if top == "daphne" and self._has_real_daphne():
                return None
            return PathFinder.find_spec(top, [str(STAND_INS)])
        if fullname in ALWAYS_OURS:
            directory = STAND_INS.joinpath(*fullname.split(".")[:-1])
            return PathFinder.find_spec(fullname, [str(directory)])
        new = new_name(fullname)
        if new is None or (fullname not in ALIASES and find_spec(new) is None):
            return None
        return ModuleSpec(fullname, _AliasLoader(new), origin=f"alias of {new}")

    def _has_real_daphne(self) -> bool:
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec("daphne", None) for finder in others)
        # A directory without __init__.py is a spec without an origin.
        return any(spec is not None and spec.origin is not None for spec in specs)


class _AliasLoader(Loader):
    """Loads an alias: returns the module of the new name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        try:
            module = import_module(self._name)
        except ModuleNotFoundError as error:
            if error.name != self._name:
                raise
            raise ModuleNotFoundError(
                f"{spec.name} stands for {self._name}, which is not in this installation "
                "of Tiderace; install the package again, or a newer version",
                name=spec.name,
            ) from error
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put the spec of the alias on the module, which would
        # break reload, pickling and find_spec.
        module.__spec__ = self._spec
