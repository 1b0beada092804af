"""Tests of the public names of every module."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from test_architecture import PACKAGE, modules, source_of

ROOT = Path(__file__).parents[1]

# Django prescribes what these define, or an optional package is needed to import them
# (test_admin.py); the demo is a site, not a library.
OTHERS = (
    "tiderace.admin",
    "tiderace.management",
    "tiderace.outbox.admin",
    "tiderace.outbox.management",
    "tiderace.outbox.migrations",
    "tiderace.demo",
    "tiderace.compat",
    "tiderace.__main__",
)


def defines_anything(path: Path) -> bool:
    """Return whether a module has more than a docstring."""
    body = ast.parse(path.read_text("utf-8")).body
    return any(not isinstance(node, ast.Expr) for node in body)


LIBRARY = {
    name: path
    for name, path in modules(PACKAGE).items()
    if not name.startswith(OTHERS)
    and not any(part.startswith("_") for part in name.split("."))
    and defines_anything(path)
}
# The modules that docs/reference describes. Elsewhere a name without an underscore is for
# other modules of the package, and `__all__` would only repeat it.
DOCUMENTED = [
    "auth",
    "cluster",
    "consumer",
    "db",
    "exceptions",
    "generic.http",
    "generic.websocket",
    "health",
    "layers",
    "layers.redis",
    "layers.stats",
    "middleware",
    "monitoring.logs",
    "monitoring.prometheus",
    "monitoring.tracing",
    "revocation.account_state",
    "revocation.auth_changed",
    "revocation.registrations",
    "revocation.signals",
    "revocation.watcher",
    "routing",
    "runtime.connections",
    "runtime.control_socket",
    "runtime.drain",
    "runtime.lifespan",
    "runtime.readiness",
    "security.addresses",
    "security.bearer",
    "security.credentials",
    "security.keys",
    "security.limits",
    "security.tickets",
    "security.websocket",
    "sessions",
    "testing",
    "testing.layer_contract",
    "topics",
    "topics.handshake_request",
    "topics.models",
    "topics.permissions",
    "topics.tokens",
    "worker",
]


def load(name: str):
    return importlib.import_module(name)


@pytest.mark.parametrize("name", LIBRARY)
def test_every_module_and_what_it_defines_has_a_docstring(name):
    module = load(name)
    defined = {
        node.name: getattr(module, node.name)
        for node in ast.parse(LIBRARY[name].read_text("utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
    }

    without = [
        each
        for each, thing in {name: module, **defined}.items()
        if not (inspect.getdoc(thing) or "").strip()
    ]

    assert not without


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_module_lists_its_names(name):
    module = load(f"tiderace.{name}")

    missing = [listed for listed in module.__all__ if not hasattr(module, listed)]

    assert not missing
    # Their order is checked by ruff (RUF022).
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_documented_name_is_in_the_reference(name):
    reference = "\n".join(
        page.read_text("utf-8") for page in (ROOT / "docs/reference").glob("*.md")
    )

    missing = [
        each
        for each in load(f"tiderace.{name}").__all__
        # Some modules have it since Channels' have.
        if each != "async_to_sync" and not re.search(rf"\b{each}\b", reference)
    ]

    assert not missing


@pytest.mark.parametrize("name", modules(PACKAGE))
def test_no_package_imports_a_private_name_of_another(name):
    path = modules(PACKAGE)[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    private = [
        f"{alias.name} of {source}"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        for source in [source_of(node, package)]
        for alias in node.names
        if source.startswith("tiderace")
        and alias.name.startswith("_")
        and not alias.name.startswith("__")
    ]

    assert not private


def test_the_package_offers_its_version_and_the_alias():
    module = load("tiderace")

    assert module.__all__ == [
        "DEFAULT_CHANNEL_LAYER",
        "__version__",
        "install_as_channels",
    ]
    assert module.DEFAULT_CHANNEL_LAYER == "default"
