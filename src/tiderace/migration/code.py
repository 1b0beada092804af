"""Examines consumers, routes, layers and tests for what differs from Channels."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache

from django.utils.module_loading import import_string

from tiderace.generic.http import AsyncHttpConsumer
from tiderace.generic.websocket import AsyncJsonWebsocketConsumer
from tiderace.layers.memory import InMemoryChannelLayer
from tiderace.migration.imports import dotted
from tiderace.migration.names import OLD_PACKAGES, is_old
from tiderace.migration.packages import PACKAGES
from tiderace.migration.source import SourceFile

__all__ = ["consumer_names", "examine_code"]

# Names of Channels' consumers without an underscore, which projects override.
# fmt: off
_OF_CHANNELS = frozenset({
    "accept", "as_asgi", "base_send", "body", "channel_layer",
    "channel_layer_alias", "channel_name", "channel_receive", "close", "connect",
    "decode_json", "disconnect", "dispatch", "encode_json", "groups", "handle",
    "http_disconnect", "http_request", "receive", "receive_json", "scope", "send",
    "send_body", "send_headers", "send_json", "send_response", "websocket_connect",
    "websocket_disconnect", "websocket_receive", "_sync",
})
# fmt: on
# Names that Tiderace has added to them; a project's consumer may use one otherwise.
_ADDED = frozenset(
    name
    for consumer in (AsyncJsonWebsocketConsumer, AsyncHttpConsumer)
    for name in dir(consumer)
    if not name.startswith("__") and name not in _OF_CHANNELS
)
# What such a name does in Tiderace, where a project may want that.
_HOOKS = {
    "on_error": "Tiderace calls on_error() with the exception of a handler",
    "spawn": "Tiderace's spawn() starts a task that ends with the connection",
}
_LAYERS_OVER_REDIS = (
    "tiderace.compat.channels_redis.core.RedisChannelLayer",
    "tiderace.compat.channels_redis.pubsub.RedisPubSubChannelLayer",
)
# fmt: off
_LAYER_CLASSES = frozenset({
    "BaseChannelLayer", "InMemoryChannelLayer", "RedisChannelLayer",
    "RedisPubSubChannelLayer",
})
# fmt: on
_LIVE_SERVER = frozenset({"ProtocolServerProcess", "_server_process", "_port"})
_ROUTES = frozenset({"path", "re_path", "url"})
_KEYS = ("asgi:group:", "asgi::group:", "asgi:specific.")


def consumer_names(sources: Iterable[SourceFile]) -> set[str]:
    """Return the names of the consumer classes of a project.

    They are derived, directly or not, from a consumer of Channels or of a package that
    uses it.
    """
    bases: dict[str, set[str]] = {}
    names: set[str] = set()
    for source in sources:
        imported = _imported_consumers(source)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                of_class = {dotted(base) or "" for base in node.bases}
                last = {base.rpartition(".")[2] for base in of_class}
                bases[node.name] = bases.get(node.name, set()) | last
                if last & imported or any(
                    is_old(base) and base.endswith("Consumer") for base in of_class
                ):
                    names.add(node.name)
    while more := {n for n, over in bases.items() if over & names} - names:
        names |= more
    return names


def _imported_consumers(source: SourceFile) -> set[str]:
    return {
        alias.asname or alias.name
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module
        for alias in node.names
        if alias.name.endswith("Consumer")
        and node.module.partition(".")[0] in {*OLD_PACKAGES, *PACKAGES, "tiderace"}
    }


def examine_code(source: SourceFile, consumers: set[str]) -> None:
    """Report the consumers of a file, and what in it depends on how Channels works.

    Args:
        source: the file.
        consumers: the ``consumer_names`` of the project.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef):
            bases = [dotted(base) or "" for base in node.bases]
            if node.name in consumers:
                _examine_consumer(source, node, bases)
            _examine_class(source, node, {base.rpartition(".")[2] for base in bases})
        elif isinstance(node, ast.Call):
            _examine_route(source, node, consumers)
        elif isinstance(node, ast.Attribute):
            _examine_layer_attribute(source, node)
        elif isinstance(node, ast.Constant) and _names_a_key(node.value):
            source.unsupported(
                node,
                f"{node.value!r}: the keys in Redis are others; use "
                "layer.group_channels() and layer.group_count()",
            )


def _names_a_key(value: object) -> bool:
    return isinstance(value, str) and any(key in value for key in _KEYS)


def _examine_consumer(source: SourceFile, node: ast.ClassDef, bases: list[str]) -> None:
    found = len(source.findings)
    names: dict[str, ast.AST] = {}
    for name, where in _own_names(node):
        names.setdefault(name, where)
    for name, where in names.items():
        if name in _ADDED:
            why = _HOOKS.get(
                name, "Tiderace's consumers have an attribute of this name"
            )
            source.unsupported(
                where, f"{node.name}.{name}: {why}; rename it unless that is meant"
            )
        elif name == "groups" and _is_string(where):
            source.unsupported(
                where,
                f"{node.name}.groups is a string, each letter of which would be a group; "
                "write a list",
            )
    if any(base.endswith("AsyncHttpConsumer") for base in bases):
        source.changes(
            node,
            f"{node.name}: disconnect() runs as soon as the client leaves, and a body "
            "above DATA_UPLOAD_MAX_MEMORY_SIZE is answered with 413",
        )
    for raised in _stops(node):
        source.changes(
            raised,
            f"{node.name}: after StopConsumer groups are left and disconnect() runs, "
            "unless it has",
        )
    if len(source.findings) == found:
        source.same(node, f"consumer {node.name}")


def _stops(node: ast.ClassDef) -> Iterator[ast.Raise]:
    """Yield where ``StopConsumer`` is raised other than at the end of a connection."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            for raised in ast.walk(method):
                if isinstance(raised, ast.Raise) and raised.exc is not None:
                    error = raised.exc
                    error = error.func if isinstance(error, ast.Call) else error
                    if (dotted(error) or "").endswith(
                        "StopConsumer"
                    ) and not method.name.endswith("disconnect"):
                        yield raised


def _is_string(node: ast.AST) -> bool:
    value = getattr(node, "value", None)
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _own_names(node: ast.ClassDef) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names that a class defines or sets on ``self``, and where."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child.name, child
        elif isinstance(child, ast.Assign):
            for target in child.targets:
                if isinstance(target, ast.Name):
                    yield target.id, child
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            yield child.target.id, child
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.Attribute)
            and isinstance(inner.ctx, ast.Store)
            and isinstance(inner.value, ast.Name)
            and inner.value.id == "self"
        ):
            yield inner.attr, inner


def _examine_class(source: SourceFile, node: ast.ClassDef, bases: set[str]) -> None:
    """Report a class derived from a layer, the live server or the denier."""
    if "WebsocketDenier" in bases:
        source.unsupported(
            node,
            f"{node.name}: WebsocketDenier is an ASGI application and no consumer; write "
            "a consumer that closes in connect()",
        )
    if layers := bases & _LAYER_CLASSES:
        [layer, *_] = layers
        source.changes(
            node,
            f"{node.name}: a layer over {layer}; test it with "
            "tiderace.testing.layer_contract",
        )
    if "ChannelsLiveServerTestCase" in bases:
        source.changes(
            node,
            f"{node.name}: the server runs in a thread, so an in-memory database works",
        )
        for inner in ast.walk(node):
            name = inner.attr if isinstance(inner, ast.Attribute) else None
            if name in _LIVE_SERVER or (
                isinstance(inner, ast.Assign)
                and any(dotted(target) in _LIVE_SERVER for target in inner.targets)
            ):
                source.unsupported(
                    inner,
                    f"{node.name}: there is no process of the server; use live_server_url",
                )


def _examine_route(source: SourceFile, node: ast.Call, consumers: set[str]) -> None:
    function = (dotted(node.func) or "").rpartition(".")[2]
    if function not in _ROUTES or len(node.args) < 2:
        return
    target = dotted(node.args[1])
    if target is not None and target.rpartition(".")[2] in consumers:
        source.unsupported(
            node.args[1],
            f"the route names the class {target}; write {target}.as_asgi()",
        )


@cache
def _layers() -> list[type]:
    """Return the layers a project may use; those over Redis if their packages are there."""
    layers: list[type] = [InMemoryChannelLayer]
    with suppress(ImportError):
        layers += [import_string(name) for name in _LAYERS_OVER_REDIS]
    return layers


def _examine_layer_attribute(source: SourceFile, node: ast.Attribute) -> None:
    """Report a private attribute of a layer."""
    owner = (dotted(node.value) or "").rpartition(".")[2]
    private = node.attr.startswith("_") and not node.attr.startswith("__")
    if not private or not owner.endswith("channel_layer"):
        return
    layers = _layers()
    having = [layer.__name__ for layer in layers if hasattr(layer, node.attr)]
    if having:
        text = f"{owner}.{node.attr}: private, and there in {', '.join(having)}"
        source.changes(node, text)
        return
    text = "no layer of Tiderace has it"
    if len(layers) == 1:
        text = (
            "InMemoryChannelLayer does not have it; to examine those over Redis too: "
            'pip install "tiderace[redis]"'
        )
    source.unsupported(node, f"{owner}.{node.attr}: {text}")
