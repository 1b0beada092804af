"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import django
from django.conf import settings

from tiderace import __version__

project = "Tiderace"
author = "The Tiderace contributors"
copyright = author  # noqa: A001  (Sphinx's name)
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"Tiderace {version}"

# docs/api is generated from the package, whose modules need a configured Django.
settings.configure(
    INSTALLED_APPS=[
        "tiderace",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
    ],
)
django.setup()

autodoc_typehints = "signature"
autodoc_default_options = {"show-inheritance": True, "member-order": "bysource"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
