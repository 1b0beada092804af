"""System checks of the declared topics, and of the classes beside them.

They report what may be intended. What cannot work raises where the class is defined
(``tiderace.topics.declaration.checks``).
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 (Django's name)
from django.utils.module_loading import import_string

from tiderace import conf
from tiderace.checks import check, subclasses
from tiderace.layers import BaseChannelLayer

# How similar a name has to be, from 0 to 1: "patern" to "pattern" is 0.92.
_SIMILAR = 0.8
# Text of a pattern that means something in regular expressions, f-strings and globs.
_FOREIGN = re.compile(r"\{\w*\}|\(\?P|%[s(]|\*|^\^|\$$")


@check()
def check_misspelt_names() -> Iterator[CheckMessage]:
    """Warn of attributes whose names resemble those of an option or hook."""
    for base in _bases():
        known = _names_of(base)
        for cls in _of_the_project(base):
            for name, value in vars(cls).items():
                meant = _meant(name, value, known)
                if meant is not None and not _is_defined(cls, meant, base):
                    yield Warning(
                        f"{_place(cls)}.{name} has no effect; did you mean {meant!r}?",
                        hint=f"Rename it to {meant}, or give it another name if it is "
                        "for your own code.",
                        id="tiderace.W024",
                    )


@check()
def check_forbidding_topics() -> Iterator[CheckMessage]:
    """Warn of topics that no client may subscribe to."""
    for topic in _topics():
        if topic.permission_classes or topic.require_token:
            continue
        if topic.pattern and not callable(topic.can_subscribe):
            yield Warning(
                f"{_place(topic)} has neither permission_classes nor can_subscribe, so "
                "no client may subscribe to it.",
                hint="Write permission_classes = [IsAuthenticated], or [AllowAny] for "
                "everybody; with require_token = True only tokens and the server "
                "subscribe clients.",
                id="tiderace.W025",
            )


@check()
def check_patterns() -> Iterator[CheckMessage]:
    """Warn of topic classes without a pattern, and of patterns in another notation."""
    for topic in _topics():
        in_topics_module = topic.__module__.rpartition(".")[2] == "topics"
        if not topic.pattern and in_topics_module and not topic.__subclasses__():
            yield Warning(
                f"{_place(topic)} has no pattern, so no topic belongs to it.",
                hint='Write pattern = "room:<slug:name>", or delete the class.',
                id="tiderace.W026",
            )
        elif found := _FOREIGN.search(topic.pattern):
            yield Warning(
                f"The pattern {topic.pattern!r} of {_place(topic)} contains "
                f"{found[0]!r}, which stands for that text alone.",
                hint="Values are written as in path(): 'room:<slug:name>'.",
                id="tiderace.W027",
            )


@check()
def check_layers_of_topics() -> Iterator[CheckMessage]:
    """Check that the channel layers of the declared topics exist and have streams."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    if not isinstance(layers, Mapping):
        return  # reported as tiderace.E004
    users: dict[str, str] = {}
    for topic in _topics():
        if topic.pattern:
            users.setdefault(topic.layer, f"{_place(topic)} needs")
            users.setdefault("default", "Topics need")
    for alias, needs in users.items():
        problem = _layer_problem(layers, alias)
        if problem:
            yield Error(
                f"{needs} the channel layer {alias!r}, {problem}.",
                hint=f'Write CHANNEL_LAYERS = {{"{alias}": {{"BACKEND": '
                '"tiderace.layers.database.DatabaseChannelLayer"}}; '
                '"tiderace.layers.redis.RedisChannelLayer" and, for one process, '
                '"tiderace.layers.InMemoryChannelLayer" are the others.',
                id="tiderace.E028",
            )


@check()
def check_published_fields() -> Iterator[CheckMessage]:
    """Warn of models that publish fields that they do not have."""
    module = _loaded("models")
    if module is None:
        return
    for model in _of_the_project(module.PublishesChanges):
        for option in ("publish_fields", "publish_on"):
            names = getattr(model, option) or ()
            if isinstance(names, str):
                problem = f"is {names!r}, a string and no list of fields"
                hint = f'Write {option} = ["{names}"].'
            elif missing := [name for name in names if not hasattr(model, name)]:
                known = [field.attname for field in model._meta.fields]  # noqa: SLF001
                near = conf.nearest(missing[0], known)
                problem = f"names {missing[0]!r}, which is no field{near}"
                hint = f"Name attributes of the model, such as {', '.join(known)}."
            else:
                continue
            yield Warning(
                f"{_place(model)}.{option} {problem}.", hint=hint, id="tiderace.W030"
            )


def _layer_problem(layers: Mapping[Any, Any], alias: str) -> str:
    if alias not in layers:
        known = ", ".join(map(repr, layers))
        return f"which CHANNEL_LAYERS lacks (it has {known or 'none'})"
    entry = layers[alias]
    path: Any = entry.get("BACKEND") if isinstance(entry, Mapping) else None
    try:
        backend = import_string(path)
    except (ImportError, AttributeError, TypeError):
        return ""  # reported as tiderace.E004 and E005
    if not inspect.isclass(backend) or hasattr(backend, "__getattr__"):
        return ""  # such as a proxy over one layer for each event loop
    missing = (None, BaseChannelLayer.stream_publish)
    if getattr(backend, "stream_publish", None) in missing:
        return f"and its BACKEND {path!r} has no streams"
    return ""


# The classes of the project


def _loaded(name: str) -> ModuleType | None:
    """Return a module that the project uses; topics need ``django.contrib.auth``."""
    return sys.modules.get(f"tiderace.topics.{name}")


def _bases() -> Iterator[type[Any]]:
    for module, name in (
        ("declaration.topic", "Topic"),
        ("endpoint", "TopicsEndpoint"),
        ("permissions", "BasePermission"),
        ("models", "PublishesChanges"),
    ):
        if (loaded := _loaded(module)) is not None:
            yield getattr(loaded, name)


def _of_the_project(base: type[Any]) -> Iterator[type[Any]]:
    for cls in dict.fromkeys(subclasses(base)):
        module = sys.modules.get(cls.__module__)
        # Leave out classes defined in functions, and those that a reload has replaced.
        is_current = getattr(module, cls.__qualname__, None) is cls
        if is_current and not cls.__module__.startswith("tiderace."):
            yield cls


def _topics() -> Iterator[type[Any]]:
    if (module := _loaded("declaration.topic")) is not None:
        yield from _of_the_project(module.Topic)


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# Names


def _names_of(base: type[Any]) -> dict[str, bool]:
    """Return the public names of a class, and whether each is the name of a method."""
    module = _loaded("declaration.topic")
    hooks = () if module is None else module.TOPIC_HOOKS
    return {
        name: name in hooks or callable(inspect.getattr_static(base, name))
        for cls in base.__mro__[:-1]
        if cls.__module__.startswith("tiderace.")
        for name in vars(cls)
        if not name.startswith("_")
    }


def _meant(name: str, value: Any, known: Mapping[str, bool]) -> str | None:
    if name.startswith("_") or name in known:
        return None
    is_method = callable(value) or isinstance(value, classmethod | staticmethod)
    possible = [each for each, method in known.items() if method is is_method]
    if isinstance(value, bool):  # as in can_publish = True, where a method is meant
        possible += [each for each in known if each.startswith("can_")]
    matches = difflib.get_close_matches(name, possible, n=1, cutoff=_SIMILAR)
    return matches[0] if matches else None


def _is_defined(cls: type[Any], name: str, base: type[Any]) -> bool:
    """Return whether the project has defined ``name`` in ``cls`` or above it."""
    return any(
        name in vars(each)
        for each in cls.__mro__
        if each not in base.__mro__ and each is not base
    )
