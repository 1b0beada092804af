"""TypeScript types for the browser client, from an AsyncAPI document of topics."""

from __future__ import annotations

import json
import re
from typing import Any

from tiderace.topics.schema.asyncapi import SENT

_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_PLAIN = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}


def typescript(document: dict[str, Any]) -> str:
    """Return all types, and the interfaces ``Topics``, ``Calls`` and ``Sends``.

    With ``topics<Topics, Calls, Sends>()`` the browser client is typed for each topic.
    """
    lines = [
        "// Written by `manage.py tiderace_schema --format typescript`; do not edit.",
        "",
    ]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _declaration(_name(name), schema)
    topics, calls, sends = [], [], []
    for channel in document["channels"].values():
        key = _key(channel["address"])
        messages = channel["messages"]
        if messages["publication"]["payload"].get("contentEncoding"):
            continue  # bytes, which the browser client does not get
        topics.append(f"  {key}: {_type(messages['publication']['payload'])};")
        if SENT in messages:
            sends.append(f"  {key}: {_type(messages[SENT]['payload'])};")
        methods = [
            f"    {name}({_arguments(message['payload'])}): "
            f"{_type(messages[f'{name}.answer']['payload'])};"
            for name, message in messages.items()
            if f"{name}.answer" in messages
        ]
        if methods:
            calls += [f"  {key}: {{", *methods, "  };"]
    for comment, name, fields in (
        ("What a page receives in each topic.", "Topics", topics),
        ("What can be called on each topic.", "Calls", calls),
        ("What a page may publish to each topic.", "Sends", sends),
    ):
        lines += [f"/** {comment} */", f"export interface {name} {{", *fields, "}", ""]
    return "\n".join(lines)


def _declaration(name: str, schema: dict[str, Any]) -> list[str]:
    comment = []
    if description := schema.get("description"):
        comment = [f"/** {' '.join(description.split()).replace('*/', '* /')} */"]
    if schema.get("type") == "object" and "properties" in schema:
        fields = [f"  {field};" for field in _fields(schema)]
        return [*comment, f"export interface {name} {{", *fields, "}", ""]
    return [*comment, f"export type {name} = {_type(schema)};", ""]


def _type(schema: Any) -> str:
    if not isinstance(schema, dict) or not schema:
        return "any"
    if "$ref" in schema:
        return _name(schema["$ref"].rpartition("/")[2])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " | ".join(dict.fromkeys(_type(each) for each in schema[several]))
    return _by_kind(schema)


def _by_kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_by_kind({**schema, "type": each}) for each in kind)
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(_type(each) for each in schema['prefixItems'])}]"
        return f"Array<{_type(schema.get('items'))}>"
    if kind == "object":
        if "properties" in schema:
            return _inline(schema)
        return f"Record<string, {_type(schema.get('additionalProperties'))}>"
    return _PLAIN.get(str(kind), "any")


def _inline(schema: dict[str, Any]) -> str:
    fields = "; ".join(_fields(schema))
    return f"{{ {fields} }}" if fields else "Record<string, never>"


def _fields(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required", ())
    fields = []
    for name, field in schema["properties"].items():
        key = name if _IDENTIFIER.fullmatch(name) else json.dumps(name)
        fields.append(f"{key}{'' if name in required else '?'}: {_type(field)}")
    return fields


def _arguments(schema: dict[str, Any]) -> str:
    if not schema["properties"]:
        return ""
    return f"data{'' if schema['required'] else '?'}: {_inline(schema)}"


def _name(name: str) -> str:
    """Return a component's name as identifier: ``Page_Note_`` for ``Page[Note]``."""
    return re.sub(r"[^A-Za-z0-9_$]", "_", name)


def _key(address: str) -> str:
    """Return an address as a key: a string, or a template if it has parameters."""
    if "{" not in address:
        return json.dumps(address)
    text = re.sub(r"[`\\]|\$(?=\{)", r"\\\g<0>", re.sub(r"\{\w+\}", "\0", address))
    return f"[topic: `{text.replace(chr(0), '${string}')}`]"
