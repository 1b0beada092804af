"""The types of a topic: of its publications, of clients' messages and of its calls."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from tiderace.topics.declaration.topic import Topic, rpc_method

UNTYPED = inspect.Signature.empty
"""Stands for a type where there is no annotation, or where nothing is sent."""


def parts(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, else the type: msgspec refuses some unions."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


@dataclass(frozen=True, slots=True)
class Call:
    """A method that clients may call: its parameters that they send, and its result."""

    parameters: list[inspect.Parameter]
    result: Any


def _calls(topic: type[Topic]) -> dict[str, Call]:
    """Return the methods that clients may call, by name."""
    calls = {}
    for name, method in inspect.getmembers(topic, inspect.isfunction):
        if rpc_method(topic, name):
            signature = inspect.signature(method, eval_str=True)
            parameters = list(signature.parameters.values())[1:]
            sent = [each for each in parameters if each.name != "user"]
            result = signature.return_annotation
            if inspect.isasyncgenfunction(method) and result is not UNTYPED:
                # Without a stream, clients get a list of what it yields.
                items = get_args(result)
                result = types.GenericAlias(list, items[:1]) if items else list
            calls[name] = Call(sent, result)
    return calls


@dataclass(frozen=True, slots=True)
class MessageTypes:
    """The types of a topic's publications and calls."""

    received: Any
    """The type that subscribers receive."""
    sent: Any
    """The type that clients publish; ``UNTYPED`` where none may publish."""
    calls: Mapping[str, Call]

    @classmethod
    def of(cls, topic: type[Topic]) -> MessageTypes:
        """Return the types that a class declares."""
        hook: Callable[..., Any] | None = topic.on_publish
        message = Any if topic.message is None else topic.message
        may_publish = topic.can_publish is not None or hook is not None
        if topic.publication is not None:
            received = topic.publication
        else:
            received = message if hook is None else returned_by(hook)
        return cls(received, message if may_publish else UNTYPED, _calls(topic))

    def __iter__(self) -> Iterator[Any]:
        yield self.received
        yield self.sent
        for call in self.calls.values():
            yield from (each.annotation for each in call.parameters)
            yield call.result


def returned_by(hook: Callable[..., Any]) -> Any:
    """Return the annotated return type of a hook that returns None for nothing."""
    kind = inspect.signature(hook, eval_str=True).return_annotation
    if kind is UNTYPED:
        return Any
    published = [part for part in parts(kind) if part not in (None, types.NoneType)]
    return Union[tuple(published)] if published else Any  # noqa: UP007 (any number)
