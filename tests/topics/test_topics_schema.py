"""The schemas of topics for other programs: AsyncAPI and TypeScript."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from decimal import Decimal
from io import StringIO
from typing import Literal

import msgspec
import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import models

from support.paths import ROOT
from tiderace.json_compat import to_json
from tiderace.topics import AllowAny, Topic, rpc
from tiderace.topics.declaration.topic import declared
from tiderace.topics.models import PublishesChanges, changes_of
from tiderace.topics.schema.asyncapi import asyncapi
from tiderace.topics.schema.typescript import typescript


class Reaction(msgspec.Struct):
    kind: Literal["up", "down"]
    count: int = 1


class ChatMessage(msgspec.Struct):
    """One message."""

    text: str
    reactions: list[Reaction] = []
    to: str | None = None


class Draft(msgspec.Struct):
    """A message as a page sends it; the server adds the rest."""

    text: str


class Entry(PublishesChanges, models.Model):
    title = models.CharField(max_length=20)
    state = models.CharField(max_length=1, choices=[("d", "draft"), ("p", "public")])
    price = models.DecimalField(max_digits=5, decimal_places=2, null=True)
    # A cascade would fail: the table does not exist.
    author = models.ForeignKey(User, models.DO_NOTHING, db_constraint=False)
    secret = models.TextField()

    publish_fields = ["title", "state", "price", "author_id", "size"]

    class Meta:
        app_label = "entries_of_the_tests"

    def __str__(self):
        return self.title

    @property
    def size(self):
        return len(self.title)

    def topics(self):
        return ["news"]


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
        message = Draft
        permission_classes = [AllowAny]

        async def on_publish(self, user, message: Draft) -> ChatMessage | None:
            return ChatMessage(message.text)

        @rpc
        async def rename(self, user, to: str, loud: bool = False) -> Point:
            return Point(0, 0)

        @rpc
        def who(self) -> list[str]:
            return []

    class News(Topic):
        pattern = "news"
        publication = ChatMessage | changes_of(Entry)

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

    assert set(schemas) == {
        "ChatMessage",
        "Draft",
        "EntryChange",
        "EntryFields",
        "Point",
        "Reaction",
    }
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
    assert '  "news": ChatMessage | EntryChange;' in text
    assert text.endswith(
        "export interface Sends {\n  [topic: `room:${string}`]: Draft;\n}\n"
    )
    assert "    rename(data: { to: string; loud?: boolean }): Point;" in text
    assert "    who(): Array<string>;" in text


PAGE = """
import { topics } from "%s/clients/js/src/index.js";
import type { Calls, Sends, Topics } from "./topics.js";

const client = topics<Topics, Calls, Sends>();
const room = client.subscribe("room:tea");
room.addEventListener("publication", ({ data }) => data.reactions?.[0]?.kind === "up");
export const sending = room.publish({ text: "hi" });
// @ts-expect-error a number is no text
export const wrong = room.publish({ text: 3 });
// @ts-expect-error only the server adds reactions
export const added = client.publish("room:tea", { text: "hi", reactions: [] });
export const where: Promise<{ x: number }> = room.call("rename", { to: "tea" });

const news = client.subscribe("news");
// @ts-expect-error pages may not publish there
export const nothing = news.publish({ text: "hi" });
news.addEventListener("publication", ({ data }) => {
  if ("text" in data) return data.text.length;
  // @ts-expect-error the field is not published
  const secret = data.fields.secret;
  const state: "d" | "p" = data.fields.state;
  return [secret, state, data.event === "deleted", data.pk + 1, data.fields.price ?? ""];
});
"""


def test_a_page_compiles_with_what_it_receives_and_may_send(document, tmp_path):
    client = ROOT / "clients/js"
    tsc = client / "node_modules/.bin/tsc"
    if not (tsc.exists() and shutil.which("node")):
        pytest.skip("no Node, or no packages; run npm ci in clients/js")
    (tmp_path / "topics.ts").write_text(typescript(document))
    (tmp_path / "page.ts").write_text(PAGE % ROOT)
    options = {"types": [], "noEmit": True}
    (tmp_path / "tsconfig.json").write_text(
        json.dumps(
            {
                "extends": str(client / "tsconfig.json"),
                "compilerOptions": options,
                "include": ["page.ts"],
            }
        )
    )
    done = subprocess.run(
        [str(tsc), "--project", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert done.returncode == 0, done.stdout


def received(topic):
    document = asyncapi([topic], title="", version="1")
    return document["channels"][topic.__name__]["messages"]["publication"]["payload"]


def test_topics_with_bytes_are_not_for_pages(own_topics):
    class Camera(Topic):
        pattern = "camera:<slug:name>"
        permission_classes = [AllowAny]
        message = bytes

    document = asyncapi([Camera], title="Cameras", version="1")
    payload = document["channels"]["Camera"]["messages"]["publication"]["payload"]

    assert payload == {"type": "string", "contentEncoding": "base64"}
    assert "camera" not in typescript(document)


@pytest.mark.usefixtures("topics")
def test_the_received_type_is_unknown_where_a_hook_has_no_return_type():
    class Unannotated(Topic):
        pattern = "unannotated"
        message = Draft
        permission_classes = [AllowAny]

        def on_publish(self, user, message):
            return {"anything": message.text}

    assert received(Unannotated) == {}


@pytest.mark.usefixtures("topics")
def test_the_received_type_is_the_sent_type_without_a_hook():
    class WithoutHook(Topic):
        pattern = "without-hook"
        message = Draft
        permission_classes = [AllowAny]

        def can_publish(self, user):
            return True

    assert received(WithoutHook) == {"$ref": "#/components/schemas/Draft"}


@pytest.mark.usefixtures("topics")
def test_a_declared_publication_comes_before_the_hooks_return_type():
    class Declared(Topic):
        pattern = "declared"
        publication = Point
        permission_classes = [AllowAny]

        def on_publish(self, user, message) -> Draft:
            return Draft("")

    assert received(Declared) == {"$ref": "#/components/schemas/Point"}


# Changes of models


@pytest.mark.parametrize("price", [None, Decimal("1.50")])
def test_a_change_of_a_model_has_the_declared_type(price):
    entry = Entry(pk=1, title="Tea", state="p", price=price, author_id=2)
    published = msgspec.json.decode(to_json(entry.publication("created")))

    change = msgspec.convert(published, changes_of(Entry))

    assert (change.event, change.model, change.pk) == (
        "created",
        "entries_of_the_tests.entry",
        1,
    )
    assert (change.fields.author_id, change.fields.price) == (2, price)


def test_a_change_with_a_publication_of_its_own_has_the_type_of_that_method():
    class OwnEntry(Entry):
        class Meta:
            app_label = "entries_of_the_tests"
            proxy = True

        def publication(self, change) -> Draft | None:
            return Draft(self.title)

    assert changes_of(OwnEntry) == Draft


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
