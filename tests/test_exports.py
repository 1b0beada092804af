"""Tests of the public names of every module."""

from __future__ import annotations

import ast
import importlib
import inspect
from typing import TYPE_CHECKING

import pytest

from test_architecture import PACKAGE, modules, source_of

if TYPE_CHECKING:
    from pathlib import Path

# Modules whose content is decided by somebody else, so that `__all__` says nothing:
# Django looks for `Command`, and the demo is a site, not a library. The page of the admin
# can be imported only where the admin is installed (test_admin.py).
NOT_A_DOOR = (
    "tiderace.admin",
    "tiderace.management",
    "tiderace.demo",
    "tiderace.compat",
    "tiderace.__main__",
)


def offers_anything(path: Path) -> bool:
    """Whether a module holds more than a docstring, as the roof of a wing does."""
    body = ast.parse(path.read_text("utf-8")).body
    return any(not isinstance(node, ast.Expr) for node in body)


PUBLIC = {
    name: path
    for name, path in modules(PACKAGE).items()
    if not name.startswith(NOT_A_DOOR)
    and not any(part.startswith("_") for part in name.split("."))
    and offers_anything(path)
}


def load(name: str):
    return importlib.import_module(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_module_has_a_docstring(name):
    assert (load(name).__doc__ or "").strip(), f"{name} has no docstring"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_module_lists_its_names_once(name):
    listed = getattr(load(name), "__all__", None)

    assert listed is not None, f"{name} has no __all__"
    # Their order is ruff's business (RUF022).
    assert len(listed) == len(set(listed)), f"{name}.__all__ repeats a name"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_listed_name_exists(name):
    module = load(name)

    missing = [listed for listed in module.__all__ if not hasattr(module, listed)]

    assert not missing, f"{name}.__all__ lists what is not there: {missing}"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_listed_class_and_function_is_documented(name):
    module = load(name)
    things = {listed: getattr(module, listed) for listed in module.__all__}

    silent = [
        listed
        for listed, thing in things.items()
        if (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__.startswith("tiderace")
        and not (inspect.getdoc(thing) or "").strip()
    ]

    assert not silent, f"{name}: without a docstring: {silent}"


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
