"""An AsyncAPI 3 document of the declared topics, with JSON Schemas of their types."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from django.core.exceptions import ImproperlyConfigured

from tiderace.topics.topic import Topic, rpc_method

_REF = "#/components/schemas/{name}"
_UNTYPED = inspect.Signature.empty
# Of a pattern: ``<converter:name>`` or ``<name>``.
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
        self._kinds = {id(kind): Any if kind is _UNTYPED else kind for kind in kinds}
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


@dataclass(frozen=True, slots=True)
class _Call:
    """A method that clients may call: its parameters that they send, and its result."""

    parameters: list[inspect.Parameter]
    result: Any


def _calls(topic: type[Topic]) -> dict[str, _Call]:
    """Return the methods that clients may call, by name."""
    calls = {}
    for name, method in inspect.getmembers(topic, inspect.isfunction):
        if rpc_method(topic, name):
            signature = inspect.signature(method, eval_str=True)
            parameters = list(signature.parameters.values())[1:]
            sent = [each for each in parameters if each.name != "user"]
            calls[name] = _Call(sent, signature.return_annotation)
    return calls


def _types(calls: Mapping[type[Topic], Mapping[str, _Call]]) -> Iterator[Any]:
    for topic, of_topic in calls.items():
        yield topic.message or Any
        for call in of_topic.values():
            yield from (each.annotation for each in call.parameters)
            yield call.result


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
    calls = {topic: _calls(topic) for topic in topics}
    schemas = _Schemas(_types(calls))
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for topic, of_topic in calls.items():
        name = topic.__name__
        channels[name] = _channel(topic, of_topic, schemas)
        # Actions are those of the application: it sends what subscribers receive.
        publication = _carries(name, "publication")
        operations[f"{name}.publication"] = {"action": "send", **publication}
        if topic.can_publish is not None or topic.on_publish is not None:
            operations[f"{name}.publish"] = {"action": "receive", **publication}
        for call in of_topic:
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
    topic: type[Topic], calls: Mapping[str, _Call], schemas: _Schemas
) -> dict[str, Any]:
    address, parameters = _address(topic)
    messages = {"publication": {"payload": schemas.of(topic.message or Any)}}
    for name, call in calls.items():
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


def _arguments(call: _Call, schemas: _Schemas) -> dict[str, Any]:
    """Return the JSON Schema of the object that a call sends."""
    parameters = call.parameters
    return {
        "type": "object",
        "properties": {each.name: schemas.of(each.annotation) for each in parameters},
        "required": [each.name for each in parameters if each.default is _UNTYPED],
        "additionalProperties": False,
    }
