"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

from tiderace import __version__

project = "Tiderace"
author = "The Tiderace contributors"
copyright = author  # noqa: A001  (Sphinx's name)
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"Tiderace {version}"
