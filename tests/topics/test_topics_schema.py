"""The schemas of topics for other programs: AsyncAPI and TypeScript."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from io import StringIO
from typing import Literal

import msgspec
import pytest
from django.core.management import CommandError, call_command

from support.paths import ROOT
from tiderace.topics import AllowAny, Topic, rpc
from tiderace.topics.schema.asyncapi import asyncapi
from tiderace.topics.schema.typescript import typescript
from tiderace.topics.topic import declared


class Reaction(msgspec.Struct):
    kind: Literal["up", "down"]
    count: int = 1


class ChatMessage(msgspec.Struct):
    """One message."""

    text: str
    reactions: list[Reaction] = []
    to: str | None = None


@dataclass
class Point:
    x: float
    y: float


@pytest.fixture
def topics():
    before = list(declared)

    class Room(Topic):
        """A room."""

        pattern = "room:<slug:name>"
        message = ChatMessage
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            return message

        @rpc
        async def rename(self, user, to: str, loud: bool = False) -> Point:
            return Point(0, 0)

        @rpc
        def who(self) -> list[str]:
            return []

    class News(Topic):
        pattern = "news"

    made = [Room, News]
    yield made
    for topic in list(declared):
        if topic not in before:
            declared.remove(topic)


@pytest.fixture
def document(topics):
    return asyncapi(topics, title="Chat", version="2")


def test_a_topic_is_a_channel_with_its_parameters(document):
    room = document["channels"]["Room"]

    assert document["asyncapi"] == "3.0.0"
    assert room["address"] == "room:{name}"
    assert list(room["parameters"]) == ["name"]
    assert room["description"] == "A room."


def test_messages_refer_to_existing_schemas(document):
    text = json.dumps(document)
    schemas = document["components"]["schemas"]

    assert set(schemas) == {"ChatMessage", "Reaction", "Point"}
    assert text.count("#/components/schemas/") == sum(
        text.count(f'#/components/schemas/{name}"') for name in schemas
    )


def test_only_topics_that_accept_publications_have_a_publish_operation(document):
    assert set(document["operations"]) == {
        "Room.publication",
        "Room.publish",
        "Room.rename",
        "Room.who",
        "News.publication",
    }


def test_a_call_lists_its_arguments_without_the_user(document):
    payload = document["channels"]["Room"]["messages"]["rename"]["payload"]

    assert set(payload["properties"]) == {"to", "loud"}
    assert payload["required"] == ["to"]


def test_typescript_has_the_types_and_the_maps(document):
    text = typescript(document)

    assert "export interface ChatMessage {\n  text: string;" in text
    assert "  reactions?: Array<Reaction>;" in text
    assert "  to?: string | null;" in text
    assert '  kind: "up" | "down";' in text or '  kind: "down" | "up";' in text
    assert "  [topic: `room:${string}`]: ChatMessage;" in text
    assert '  "news": any;' in text
    assert "    rename(data: { to: string; loud?: boolean }): Point;" in text
    assert "    who(): Array<string>;" in text


def test_the_typescript_compiles(document, tmp_path):
    tsc = ROOT / "clients/js/node_modules/.bin/tsc"
    if not (tsc.exists() and shutil.which("node")):
        pytest.skip("no Node, or no packages; run npm ci in clients/js")
    (tmp_path / "topics.ts").write_text(typescript(document))
    (tmp_path / "use.ts").write_text(
        'import type { Calls, Topics } from "./topics";\n'
        'const message: Topics["room:tea"] = { text: "hi" };\n'
        "// @ts-expect-error a number is no text\n"
        'const wrong: Topics["room:tea"] = { text: 3 };\n'
        'const where: ReturnType<Calls["room:tea"]["rename"]> = { x: 1, y: 2 };\n'
        "export { message, where, wrong };\n"
    )
    done = subprocess.run(
        [str(tsc), "--noEmit", "--strict", "use.ts"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert done.returncode == 0, done.stdout


def test_the_command_writes_checks_and_notices_what_is_out_of_date(topics, tmp_path):
    output = tmp_path / "topics.ts"
    options = {"format": "typescript", "output": output}
    with pytest.raises(CommandError, match="is not what the topics say"):
        call_command("tiderace_schema", check=True, **options)
    call_command("tiderace_schema", **options)
    call_command("tiderace_schema", check=True, **options)
    output.write_text("old")

    with pytest.raises(CommandError, match="write it again without --check"):
        call_command("tiderace_schema", check=True, **options)


def test_the_command_writes_asyncapi_to_standard_output(topics):
    out = StringIO()
    call_command("tiderace_schema", stdout=out)

    assert json.loads(out.getvalue())["info"]["title"] == "Topics"


def test_without_topics_the_command_names_the_module_to_write(monkeypatch):
    monkeypatch.setattr(declared, "_topics", [])
    with pytest.raises(CommandError, match=r"topics\.py of an installed app"):
        call_command("tiderace_schema")
