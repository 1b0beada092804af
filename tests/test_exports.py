"""The public face: what every module offers, that it exists and says what it is."""

from __future__ import annotations

import ast
import importlib
import inspect

import pytest

from test_architecture import HOUSE, modules, source_of

# Modules whose content is decided by somebody else, so that `__all__` says nothing:
# Django looks for `Command`, and the demo is a site, not a library.
NOT_A_DOOR = (
    "tiderace.management",
    "tiderace.demo",
    "tiderace.compat",
    "tiderace.__main__",
)

PUBLIC = {
    name: path
    for name, path in modules(HOUSE).items()
    if not name.startswith(NOT_A_DOOR)
    and not any(part.startswith("_") for part in name.split("."))
    and path.read_text("utf-8").strip()
}


def load(name: str):
    return importlib.import_module(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_module_says_what_it_is_for(name):
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


@pytest.mark.parametrize("name", modules(HOUSE))
def test_a_room_takes_from_another_only_what_that_one_lists(name):
    rooms = modules(HOUSE)
    tree = ast.parse(rooms[name].read_text("utf-8"))
    package = name if rooms[name].name == "__init__.py" else name.rpartition(".")[0]

    hidden = [
        f"{alias.name} of {source}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for source in [source_of(node, package)]
        if source in PUBLIC
        for alias in node.names
        if f"{source}.{alias.name}" not in rooms
        and alias.name not in load(source).__all__
    ]

    assert not hidden, f"{name} imports what is not in __all__ there: {hidden}"


def test_the_package_offers_its_version_and_the_alias():
    module = load("tiderace")

    assert module.__all__ == [
        "DEFAULT_CHANNEL_LAYER",
        "__version__",
        "install_as_channels",
    ]
    assert module.DEFAULT_CHANNEL_LAYER == "default"
