"""An AsyncAPI 3 document of the declared topics, with JSON Schemas of their types."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import msgspec
from django.core.exceptions import ImproperlyConfigured

from tiderace.topics.declaration.topic import Topic
from tiderace.topics.schema.message_types import (
    UNTYPED,
    Call,
    MessageTypes,
    parts,
)

_REF = "#/components/schemas/{name}"
SENT = "publication.sent"
"""The message of a channel that clients publish; no method has such a name."""
# A parameter of a pattern: ``<converter:name>`` or ``<name>``.
_PARAMETER = re.compile(r"<(?:(\w+):)?(\w+)>")


class _Schemas:
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
        self._kinds = {id(kind): Any if kind is UNTYPED else kind for kind in kinds}
        native = {}
        for kind in self._kinds.values():
            for part in parts(kind):
                if hasattr(part, "model_json_schema"):
                    self._of[id(part)] = self._pydantic(part)
                else:
                    native[id(part)] = part
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
        schemas = [self._of[id(part)] for part in parts(self._kinds[id(kind)])]
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}

    def _pydantic(self, kind: Any) -> Any:
        whole = kind.model_json_schema(
            ref_template=_REF.replace("{name}", "{model}"), mode="serialization"
        )
        self.components.update(whole.pop("$defs", {}))
        self.components[kind.__name__] = whole
        return {"$ref": _REF.format(name=kind.__name__)}


def _address(topic: type[Topic]) -> tuple[str, dict[str, str]]:
    """Return a pattern in AsyncAPI's form, and the converters of its parameters."""
    parameters = {
        name: kind or "str" for kind, name in _PARAMETER.findall(topic.pattern)
    }
    return _PARAMETER.sub(r"{\2}", topic.pattern), parameters


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
    messages = {topic: MessageTypes.of(topic) for topic in topics}
    schemas = _Schemas(kind for of_topic in messages.values() for kind in of_topic)
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for topic, of_topic in messages.items():
        name = topic.__name__
        channels[name] = _channel(topic, of_topic, schemas)
        # Actions are those of the application: it sends what subscribers receive.
        operations[f"{name}.publication"] = {
            "action": "send",
            **_carries(name, "publication"),
        }
        if of_topic.sent is not UNTYPED:
            operations[f"{name}.publish"] = {
                "action": "receive",
                **_carries(name, SENT),
            }
        for call in of_topic.calls:
            operations[f"{name}.{call}"] = {
                "action": "receive",
                **_carries(name, call),
                "reply": _carries(name, f"{call}.answer"),
            }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas.components},
    }


def _carries(channel: str, message: str) -> dict[str, Any]:
    reference = f"#/channels/{channel}"
    messages = [{"$ref": f"{reference}/messages/{message}"}]
    return {"channel": {"$ref": reference}, "messages": messages}


def _channel(
    topic: type[Topic], types_of: MessageTypes, schemas: _Schemas
) -> dict[str, Any]:
    address, parameters = _address(topic)
    messages = {"publication": {"payload": schemas.of(types_of.received)}}
    if types_of.sent is not UNTYPED:
        messages[SENT] = {"payload": schemas.of(types_of.sent)}
    for name, call in types_of.calls.items():
        messages[name] = {"payload": _arguments(call, schemas)}
        messages[f"{name}.answer"] = {"payload": schemas.of(call.result)}
    channel: dict[str, Any] = {"address": address, "messages": messages}
    description = inspect.getdoc(topic)
    if description and description != inspect.getdoc(Topic):
        channel["description"] = description
    if parameters:
        channel["parameters"] = {
            name: {
                "description": "integer (int)" if kind == "int" else f"string ({kind})"
            }
            for name, kind in parameters.items()
        }
    return channel


def _arguments(call: Call, schemas: _Schemas) -> dict[str, Any]:
    """Return the JSON Schema of the object that a call sends."""
    parameters = call.parameters
    return {
        "type": "object",
        "properties": {each.name: schemas.of(each.annotation) for each in parameters},
        "required": [each.name for each in parameters if each.default is UNTYPED],
        "additionalProperties": False,
    }
