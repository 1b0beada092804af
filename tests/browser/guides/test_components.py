"""The recipes for React, Vue and Alpine, typed as printed, in Chromium."""

from __future__ import annotations

import subprocess

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from support.clients.npm_packages import MODULES, serve_packages

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

LIBRARIES = ("react", "vue", "alpine")
# esm.sh makes modules of packages that have none, as React; esbuild does it here.
BUNDLE = """
import { build } from "esbuild";
await build({
  stdin: {
    contents: `export { createElement, useEffect, useState } from "react";
               export { createRoot } from "react-dom/client";`,
    resolveDir: process.cwd(),
  },
  bundle: true,
  format: "esm",
  define: { "process.env.NODE_ENV": '"production"' },
});
"""


@pytest.fixture(scope="module")
def react() -> str:
    """Return one module with what the recipe imports of React."""
    if not MODULES.exists():
        pytest.skip(f"{MODULES} does not exist; run npm ci in clients/js")
    bundled = subprocess.run(
        ["node", "--input-type=module", "--eval", BUNDLE],
        cwd=MODULES.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return bundled.stdout


def serve_react(context: BrowserContext, module: str) -> None:
    """Answer requests to esm.sh: all its addresses share one module, and so one React."""
    shared = "https://esm.sh/shared.js"

    def answer(route: Route) -> None:
        is_shared = route.request.url == shared
        route.fulfill(
            body=module if is_shared else f'export * from "{shared}";',
            content_type="text/javascript",
            headers={"Access-Control-Allow-Origin": "*"},
        )

    context.route("https://esm.sh/**", answer)


def test_the_components_of_all_libraries_show_the_same(typed_site, new_context, react):
    typed_site.start_project("rooms")
    typed_site.read("docs/guides/react-vue-alpine.md")
    typed_site.type_rest()
    errors: list[str] = []

    def enter(library: str) -> Page:
        context = new_context()
        serve_packages(context)
        serve_react(context, react)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(error.message))
        page.on("console", lambda message: errors.append(message.text))
        page.goto(f"{typed_site.url()}/{library}/")
        return page

    said = []
    pages = []
    for library in LIBRARIES:
        page = enter(library)
        pages.append(page)
        # What was said before is shown, then what is said now.
        expect(page.get_by_role("listitem")).to_have_text(said)
        page.get_by_label("Message").fill(f"<b>from</b> {library}")
        page.get_by_label("Message").press("Enter")
        said.append(f"<b>from</b> {library}")
        for each in pages:
            expect(each.get_by_role("listitem")).to_have_text(said)
        expect(page.get_by_label("Message")).to_have_value("")

    assert not errors
