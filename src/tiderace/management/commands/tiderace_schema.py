"""``manage.py tiderace_schema``: the declared topics as AsyncAPI or TypeScript."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tiderace.topics.declaration.topic import declared
from tiderace.topics.schema.asyncapi import asyncapi
from tiderace.topics.schema.typescript import typescript


class Command(BaseCommand):
    """Writes the messages of this project's topics as a schema for other programs."""

    help = "Write the declared topics as an AsyncAPI 3 document or as TypeScript types."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--format", choices=["asyncapi", "typescript"], default="asyncapi"
        )
        parser.add_argument("--output", type=Path, help="a file; by default stdout")
        parser.add_argument("--title", default="Topics")
        parser.add_argument("--api-version", default="1.0.0")
        parser.add_argument(
            "--check",
            action="store_true",
            help="write nothing, and fail when the file is not up to date",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the document."""
        topics = list(declared)
        if not topics:
            raise CommandError(
                "no topic is declared; write classes of tiderace.topics.Topic in the "
                "topics.py of an installed app"
            )
        document = asyncapi(
            topics, title=options["title"], version=options["api_version"]
        )
        if options["format"] == "typescript":
            text = typescript(document)
        else:
            text = json.dumps(document, indent=2) + "\n"
        output: Path | None = options["output"]
        if options["check"]:
            self._check(output, text)
        elif output is None:
            self.stdout.write(text, ending="")
        else:
            output.write_text(text, encoding="utf-8")

    def _check(self, output: Path | None, text: str) -> None:
        if output is None:
            raise CommandError("--check needs --output, the file to be checked")
        if not output.is_file() or output.read_text("utf-8") != text:
            raise CommandError(
                f"{output} is not what the topics say; write it again without --check"
            )
