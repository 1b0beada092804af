"""Runs the Python blocks of one documentation page, in a process of its own.

Started by test_docs.py in the page's throw-away project, with the blocks as JSON on
standard input.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import os
import sys
from pathlib import Path

__all__ = ["main"]


def main() -> None:
    """Execute every block in order; the first that raises ends the process."""
    blocks = json.load(sys.stdin)
    sys.path.insert(0, str(Path.cwd()))
    os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"

    # The project's package first: it is where install_as_channels() is called.
    importlib.import_module("mysite")
    import django

    django.setup()
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        if block["file"]:
            module = block["file"].removesuffix(".py").removesuffix("/__init__")
            importlib.import_module(module.replace("/", "."))
        else:
            run(block["code"], block["where"], block["line"], namespace)


def run(code: str, where: str, line: int, namespace: dict[str, object]) -> None:
    """Execute one block; tracebacks name the page's own lines; `await` is allowed."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile("\n" * (line - 1) + code, where, "exec", flags=flags)
    result = eval(compiled, namespace)
    if inspect.iscoroutine(result):
        asyncio.run(result)


if __name__ == "__main__":
    main()
