"""Examines the settings of a project: apps, layers with their options, the application."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from django.utils.module_loading import import_string

from tiderace.conf import nearest
from tiderace.layers.memory import InMemoryChannelLayer
from tiderace.layers.options import constructor_options
from tiderace.migration.app_lists import AppList
from tiderace.migration.packages import PACKAGES
from tiderace.migration.source import SourceFile

__all__ = ["examine_settings"]

_BACKENDS = {
    "channels.layers.InMemoryChannelLayer": "tiderace.layers.InMemoryChannelLayer",
    "channels_redis.core.RedisChannelLayer": "tiderace.layers.redis.RedisChannelLayer",
    "channels_redis.pubsub.RedisPubSubChannelLayer": (
        "tiderace.layers.redis.RedisPubSubChannelLayer"
    ),
}
# What an option means for a layer of Tiderace, where that is not the same.
_OPTIONS = {
    "capacity": "each channel has its own; channels_redis counted a process's together",
    "group_expiry": "a connected consumer keeps its memberships for as long as it lives",
    "on_disconnect": "accepted and never called, as in channels_redis; see "
    "the counters and the log",
    "on_reconnect": "accepted and never called, as in channels_redis; see the "
    "counters and the log",
}
_FIRST_VERSION = {
    "CHANNELS_WS_PROTOCOLS",
    "CHANNEL_SESSION_ENGINE",
    "CHANNELS_API",
}


def examine_settings(source: SourceFile) -> set[int]:
    """Report the settings in a file, and rewrite apps and backends.

    Returns:
        The ids of the string nodes that were reported.
    """
    seen: set[int] = set()
    for name, node, value in _assignments(source.tree):
        if name == "ASGI_APPLICATION":
            source.same(node, "ASGI_APPLICATION")
        elif name == "CHANNEL_LAYERS" and isinstance(value, ast.Dict):
            for alias, layer in _items(value):
                seen |= _examine_layer(source, f"CHANNEL_LAYERS[{alias!r}]", layer)
        elif name == "CHANNEL_LAYERS":
            source.changes(
                node,
                "CHANNEL_LAYERS is not a literal; its options are not read here, and "
                "manage.py check reads them",
            )
        elif name in _FIRST_VERSION:
            source.unsupported(node, f"{name}: Channels 4 does not have it either")
    for found in _app_lists(source.tree):
        seen |= AppList(source, found).examine(PACKAGES)
    return seen


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.AST, ast.expr]]:
    """Yield name, node and value of assignments, and of arguments as in ``configure()``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg is not None:
            yield node.arg, node, node.value
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node, node.value
        elif (
            isinstance(node, ast.AnnAssign | ast.AugAssign)
            and isinstance(node.target, ast.Name)
            and node.value is not None
        ):
            yield node.target.id, node, node.value


def _app_lists(tree: ast.Module) -> Iterator[list[ast.Constant]]:
    """Yield the strings of each list of apps, and of each call that adds to one."""
    for name, _, value in _assignments(tree):
        if name.upper().endswith("APPS"):
            for node in ast.walk(value):
                if isinstance(node, ast.List | ast.Tuple):
                    yield _strings(node.elts)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("append", "insert", "extend")
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id.upper().endswith("APPS")
        ):
            for argument in node.args:
                if isinstance(argument, ast.List | ast.Tuple):
                    yield _strings(argument.elts)
                else:
                    yield _strings([argument])


def _strings(nodes: list[ast.expr]) -> list[ast.Constant]:
    return [
        node
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def _items(node: ast.Dict) -> Iterator[tuple[str, ast.expr]]:
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value, value


def _examine_layer(source: SourceFile, name: str, layer: ast.expr) -> set[int]:
    """Report the backend and each option of one layer; return what was reported."""
    if not isinstance(layer, ast.Dict):
        source.changes(layer, f"{name} is not a literal; check it by hand")
        return set()
    entry = dict(_items(layer))
    backend = entry.get("BACKEND")
    if "ROUTING" in entry:
        source.unsupported(
            entry["ROUTING"],
            f"{name}: ROUTING is of Channels 1; the routes are in ASGI_APPLICATION",
        )
    if not (isinstance(backend, ast.Constant) and isinstance(backend.value, str)):
        if backend is not None:
            source.changes(backend, f"{name}: BACKEND is not a literal string")
        return set()
    kind = _examine_backend(source, name, backend)
    if kind is not None:
        for key in ("CONFIG", "TEST_CONFIG"):
            config = entry.get(key)
            if isinstance(config, ast.Dict):
                _examine_options(source, f"{name}[{key!r}]", config, kind)
            elif config is not None:
                source.changes(
                    config,
                    f"{name}[{key!r}] is not a literal; manage.py check reads its options",
                )
    return {id(backend)}


def _examine_backend(source: SourceFile, name: str, node: ast.Constant) -> type | None:
    """Report a backend and rewrite it; return its class where Tiderace has it."""
    backend = str(node.value)
    if backend.startswith("tiderace."):
        return _layer_class(source, name, node, backend)
    if backend not in _BACKENDS:
        source.changes(
            node,
            f"{name}: {backend} carries group messages of consumers, under "
            "install_as_channels(); topics need a layer of Tiderace",
        )
        return None
    new = _BACKENDS[backend]
    kind = _layer_class(source, name, node, new)
    if not source.replace_string(node, new):
        source.changes(node, f'{name}: write "{new}" by hand')
    elif kind is InMemoryChannelLayer:
        source.same(node, f"{name}: {backend}")
    else:
        source.changes(
            node,
            f"{name}: {backend} becomes {new}; the data in Redis has another format, so "
            "change all processes in one deploy",
        )
    return kind


def _layer_class(
    source: SourceFile, name: str, node: ast.Constant, backend: str
) -> type | None:
    """Return a layer of Tiderace that Channels has too; report one that cannot be imported."""
    if backend not in _BACKENDS.values():
        return None
    try:
        layer: type = import_string(backend)
    except ImportError as error:
        text = f"{name}: its options are not examined: {error}"
        source.changes(node, text)
        return None
    return layer


def _examine_options(
    source: SourceFile, name: str, config: ast.Dict, kind: type
) -> None:
    known = constructor_options(kind) or {}
    for option, value in _items(config):
        if option not in known:
            source.unsupported(
                value,
                f"{name}: {kind.__name__} has no option {option!r}"
                f"{nearest(option, known)}; remove it",
            )
        elif option in _OPTIONS and kind is not InMemoryChannelLayer:
            source.changes(value, f"{name}: {option}: {_OPTIONS[option]}")
        elif option == "hosts" and isinstance(value, ast.Constant):
            source.unsupported(value, f"{name}: hosts must be a list")
        else:
            source.same(value, f"{name}: {option}")
