"""Fixtures of the tests that run the guides' configurations."""

from __future__ import annotations

import pytest

from support.servers.nginx import nginx_program


@pytest.fixture(scope="session")
def nginx():
    """Return the path of the program."""
    found = nginx_program()
    if found is None:
        pytest.skip("no nginx; install the package nginx")
    return found
