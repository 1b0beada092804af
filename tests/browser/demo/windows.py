"""Windows of the demo in Chromium: their consoles are watched, and must stay silent."""

from __future__ import annotations

import re

from playwright.sync_api import BrowserContext, Locator, Page, expect

__all__ = ["CLIENT", "PATIENCE", "Visitor", "badge"]

CLIENT = "/static/tiderace/tiderace.js"
"""The client's module, as the pages of the demo import it."""

PATIENCE = 15_000  # milliseconds

VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`refused by the policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
expect.set_options(timeout=PATIENCE)


class Visitor:
    """One person's browser window, and what its console had to complain about."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.complaints: list[str] = []
        self.forgiven: list[str] = []
        context.add_init_script(VIOLATIONS)
        context.on("page", self._watch)
        self.page = context.new_page()

    def _watch(self, page: Page) -> None:
        page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text)
                if said.type in ("error", "warning")
                else None
            ),
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

        def refuse(dialog) -> None:
            self.complaints.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("dialog", refuse)

    def unforgiven(self) -> list[str]:
        return [
            said
            for said in self.complaints
            if not any(re.search(pattern, said) for pattern in self.forgiven)
        ]

    def enter(self, room: str) -> Page:
        """Open a room and wait for its socket."""
        self.page.goto(f"{self.url}/chat/{room}/")
        expect(badge(self.page)).to_have_text("Connected")
        expect(self.page.locator("#people li")).not_to_have_count(0)
        return self.page


def badge(page: Page) -> Locator:
    return page.locator("#badge")
