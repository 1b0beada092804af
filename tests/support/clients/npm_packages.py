"""Files of npm packages, in place of those that pages load from a CDN."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.paths import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Route

__all__ = ["script_of", "serve_packages"]

MODULES = ROOT / "clients/js/node_modules"
CDN = "https://cdn.jsdelivr.net/npm/"
# Packages of which two versions are installed: those that are not under their name.
INSTALLED_AS = {"htmx.org@2": "htmx2"}


def serve_packages(context: BrowserContext) -> None:
    """Answer a context's requests to the CDN from the installed packages.

    A version that is not the installed one fails the test.
    """
    _require_packages()
    context.route(f"{CDN}**", _answer)


def script_of(path: str) -> str:
    """Return a file of an installed package, such as ``axe-core/axe.min.js``."""
    _require_packages()
    return (MODULES / path).read_text()


def _require_packages() -> None:
    if not MODULES.exists():
        pytest.skip(f"{MODULES} does not exist; run npm ci in clients/js")


def _answer(route: Route) -> None:
    match = re.match(
        r"((?:@[^/]+/)?[^/@]+)@([^/]+)/(.+)", route.request.url[len(CDN) :]
    )
    assert match, route.request.url
    name, version, path = match.groups()
    folder = MODULES / INSTALLED_AS.get(f"{name}@{version.partition('.')[0]}", name)
    installed = _version(folder)
    assert version == installed, f"{name} {version} is named, {installed} is installed"
    route.fulfill(path=folder / path, headers={"Access-Control-Allow-Origin": "*"})


def _version(folder: Path) -> str:
    text = (folder / "package.json").read_text()
    found = re.search(r'"version": "([^"]+)"', text)
    assert found
    return found[1]
