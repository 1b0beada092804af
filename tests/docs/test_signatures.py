"""The generated signatures in docs/api cover every documented module."""

from __future__ import annotations

import importlib
import re

import pytest

from support.paths import ROOT
from test_exports import DOCUMENTED

PAGES = "".join(page.read_text("utf-8") for page in ROOT.glob("docs/api/*.md"))
MODULES = re.findall(r"^\.\. automodule:: tiderace\.(\S+)$", PAGES, re.MULTILINE)
OPTIONS = re.findall(r"^\.\. automodule:: (\S+)\n((?:   :.*\n)+)", PAGES, re.MULTILINE)


def test_every_documented_module_has_its_signatures_on_one_page():
    missing = set(DOCUMENTED) - set(MODULES)

    assert not missing, "write an automodule directive for it on a page of docs/api"
    assert len(MODULES) == len(set(MODULES))


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=[o[0] for o in OPTIONS])
def test_a_name_left_out_of_one_module_is_described_with_another(name, options):
    excluded = re.findall(r":exclude-members: (.+)", options)
    module = importlib.import_module(name)

    for left_out in ", ".join(excluded).split(", ") if excluded else ():
        home = getattr(module, left_out).__module__
        ours = home.removeprefix("tiderace.")
        assert ours in MODULES or not home.startswith("tiderace"), left_out
