"""The conformance server as a child process, started by its one command.

It uses the command line and the HTTP API, and imports none of the site's code.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx
import jwt

from support.servers.asgi_process import AsgiProcess

__all__ = ["SECRET", "ConformanceProcess", "token"]

SECRET = "secret"


def token(user: str = "42", **claims: Any) -> str:
    """A token as the suites make them, signed with their secret."""
    return jwt.encode({"sub": user, **claims}, SECRET, "HS256")


class ConformanceProcess(AsgiProcess):
    """``with ConformanceProcess() as server``: it listens at ``server.http``."""

    def __init__(self, *, env: dict[str, str] | None = None) -> None:
        super().__init__("uvicorn", "", env=env)

    def _line(self, application: str) -> list[str]:
        python = (sys.executable, "-W", "default", "-m", "conformance")
        return [*python, "--port", str(self.port)]

    def call(self, method: str, **params: Any) -> Any:
        """Return the result of a method of the HTTP API."""
        answer = httpx.post(f"{self.http}/api/{method}", json=params, timeout=15)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    async def acall(self, method: str, **params: Any) -> Any:
        """The same, while an event loop has other things to do."""
        async with httpx.AsyncClient(timeout=15) as client:
            answer = await client.post(f"{self.http}/api/{method}", json=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]
