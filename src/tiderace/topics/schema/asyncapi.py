"""An AsyncAPI 3 document of the declared topics, with JSON Schemas of their types."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from django.core.exceptions import ImproperlyConfigured

from tiderace.topics.topic import Topic, rpc_method

__all__ = ["Schemas", "asyncapi", "calls_of", "parameters_of"]

_REF = "#/components/schemas/{name}"
_KINDS = {"int": "integer", "slug": "string", "str": "string", "uuid": "string"}


class Schemas:
    """JSON Schemas of Python types, with each named type as one component.

    Args:
        kinds: all types for which ``of`` will be called.

    Raises:
        ImproperlyConfigured: for a type that JSON Schema cannot describe.
    """

    def __init__(self, kinds: Iterable[Any]) -> None:
        self.components: dict[str, Any] = {}
        self._of: dict[int, Any] = {}
        # By id, since different types may be equal, and some are not hashable.
        self._kinds = {id(kind): kind for kind in kinds}
        native = {}
        for key, kind in self._kinds.items():
            if hasattr(kind, "model_json_schema"):
                self._of[key] = self._pydantic(kind)
            else:
                native[key] = kind
        try:
            schemas, components = msgspec.json.schema_components(
                native.values(), ref_template=_REF
            )
        except TypeError as error:
            raise ImproperlyConfigured(
                f"a type of a topic has no JSON Schema: {error}"
            ) from error
        self.components.update(components)
        self._of.update(zip(native, schemas, strict=True))

    def of(self, kind: Any) -> Any:
        """Return the schema of a type, usually a reference to a component."""
        return self._of[id(kind)]

    def _pydantic(self, kind: Any) -> Any:
        whole = kind.model_json_schema(
            ref_template=_REF.replace("{name}", "{model}"), mode="serialization"
        )
        self.components.update(whole.pop("$defs", {}))
        self.components[kind.__name__] = whole
        return {"$ref": _REF.format(name=kind.__name__)}


def calls_of(topic: type[Topic]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield names and functions of the methods that clients may call, by name."""
    for name, method in inspect.getmembers(topic, inspect.isfunction):
        if rpc_method(topic, name):
            yield name, method


def parameters_of(method: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters that a client sends, with evaluated annotations."""
    return [
        parameter
        for parameter in list(_signature(method).parameters.values())[1:]
        if parameter.name != "user"
    ]


@functools.cache
def _signature(method: Callable[..., Any]) -> inspect.Signature:
    # Cached, since an annotation must be the same object in every call.
    return inspect.signature(method, eval_str=True)


def _annotation(annotation: Any) -> Any:
    return Any if annotation is inspect.Signature.empty else annotation


def _types(topics: Iterable[type[Topic]]) -> Iterator[Any]:
    yield Any
    for topic in topics:
        yield _message(topic)
        for _, method in calls_of(topic):
            for parameter in parameters_of(method):
                yield _annotation(parameter.annotation)
            yield _result(method)


def _message(topic: type[Topic]) -> Any:
    return Any if topic.message is None else topic.message


def _result(method: Callable[..., Any]) -> Any:
    return _annotation(_signature(method).return_annotation)


def address_of(topic: type[Topic]) -> tuple[str, dict[str, str]]:
    """Return a pattern in AsyncAPI's form, and the converters of its parameters."""
    parts = topic.pattern.split("<")
    address, parameters = parts[0], {}
    for part in parts[1:]:
        inside, _, after = part.partition(">")
        converter, _, name = inside.rpartition(":")
        parameters[name] = converter or "str"
        address += f"{{{name}}}{after}"
    return address, parameters


def asyncapi(
    topics: Iterable[type[Topic]], *, title: str, version: str
) -> dict[str, Any]:
    """Return an AsyncAPI 3.0 document of the topics.

    Args:
        topics: declared ones.
        title: of the document.
        version: of the document.

    Raises:
        ImproperlyConfigured: for a type that JSON Schema cannot describe.
    """
    listed = list(topics)
    schemas = Schemas(_types(listed))
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for topic in listed:
        name = topic.__name__
        channels[name] = _channel(topic, schemas)
        reference = {"$ref": f"#/channels/{name}"}
        publication = [{"$ref": f"#/channels/{name}/messages/publication"}]
        # Actions are those of the application: it sends what subscribers receive.
        operations[f"{name}.publication"] = {
            "action": "send",
            "channel": reference,
            "messages": publication,
        }
        if topic.can_publish or topic.on_publish:
            operations[f"{name}.publish"] = {
                "action": "receive",
                "channel": reference,
                "messages": publication,
            }
        for call, _ in calls_of(topic):
            operations[f"{name}.{call}"] = {
                "action": "receive",
                "channel": reference,
                "messages": [{"$ref": f"#/channels/{name}/messages/{call}"}],
                "reply": {
                    "channel": reference,
                    "messages": [{"$ref": f"#/channels/{name}/messages/{call}.answer"}],
                },
            }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas.components},
    }


def _channel(topic: type[Topic], schemas: Schemas) -> dict[str, Any]:
    address, parameters = address_of(topic)
    messages = {"publication": {"payload": schemas.of(_message(topic))}}
    for call, method in calls_of(topic):
        messages[call] = {"payload": arguments_of(method, schemas)}
        messages[f"{call}.answer"] = {"payload": schemas.of(_result(method))}
    channel: dict[str, Any] = {"address": address, "messages": messages}
    description = inspect.getdoc(topic)
    if description and description != inspect.getdoc(Topic):
        channel["description"] = description
    if parameters:
        channel["parameters"] = {
            name: {"description": f"{_KINDS.get(converter, 'string')} ({converter})"}
            for name, converter in parameters.items()
        }
    return channel


def arguments_of(method: Callable[..., Any], schemas: Schemas) -> dict[str, Any]:
    """Return the JSON Schema of the object that a call sends."""
    parameters = parameters_of(method)
    return {
        "type": "object",
        "properties": {
            each.name: schemas.of(_annotation(each.annotation)) for each in parameters
        },
        "required": [
            each.name for each in parameters if each.default is inspect.Parameter.empty
        ],
        "additionalProperties": False,
    }
