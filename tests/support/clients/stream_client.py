"""A topic client for tests over HTTP: an endless response, and one POST per message."""

from __future__ import annotations

import json
from collections import deque
from typing import Any
from urllib.parse import quote

from support.clients.asgi_client import Client
from support.clients.wire_client import WireClient
from support.waiting import within

__all__ = ["ORIGIN", "Answer", "StreamClient", "request"]

ORIGIN = (b"origin", b"http://testserver")
JSON = (b"content-type", b"application/json")


class Answer:
    """A whole response."""

    def __init__(self, sent: list[dict[str, Any]]) -> None:
        self.status: int = sent[0]["status"]
        self.headers = dict(sent[0].get("headers", ()))
        self.body = b"".join(event.get("body", b"") for event in sent[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def begin(app, method, path, *, body=b"", headers=(ORIGIN, JSON), query="", **scope):
    """Send a request whose response is read as it comes."""
    client = Client(
        app,
        type="http",
        method=method,
        path=path,
        query_string=query.encode(),
        headers=[(b"host", b"testserver"), *headers],
        **scope,
    )
    client.say("http.request", body=body, more_body=False)
    return client


async def request(app, method, path, **asked: Any) -> Answer:
    """Send a request and wait for the whole response."""
    client = begin(app, method, path, **asked)
    await client.end()
    return Answer(client.sent)


class StreamClient(WireClient):
    """A ``WireClient`` over HTTP; ``kind`` is ``"http_stream"`` or ``"sse"``."""

    def __init__(
        self,
        app,
        *,
        kind: str = "http_stream",
        user: Any = None,
        connect: dict[str, Any] | None = {},  # noqa: B006 (read only)
        headers: tuple[tuple[bytes, bytes], ...] = (ORIGIN, JSON),
        other_app: Any = None,
    ) -> None:
        super().__init__(app, connect=connect)
        self.app = app
        self.kind = kind
        self.headers = headers
        # Which application gets the POSTs: perhaps one of another process.
        self.other_app = other_app or app
        self.scope = {} if user is None else {"user": user}
        self.client: Client | None = None
        self._read_so_far = 1
        self._text = ""
        self._frames: deque[str] = deque()

    async def __aenter__(self):
        if self._connect is not None:
            self.connected = await self.ask("connect", **self._connect)
        return self

    async def __aexit__(self, *error):
        if self.client is not None and not self.client.task.done():
            self.client.say("http.disconnect")
            await self.client.end()

    async def say(self, *commands: dict[str, Any]) -> None:
        await self.write("\n".join(json.dumps(each) for each in commands))

    async def write(self, text: str) -> None:
        """Send a message as it is: the first begins the stream, the others are posts."""
        if self.client is None:
            self.client = self._open(text)
            return
        answer = await self.post(text)
        assert answer.status == 204, (answer.status, answer.body)

    async def post(self, text: str, **scope: Any) -> Answer:
        """Send a message in a request of its own."""
        result = self.connected["connect"]
        body = {"session": result["session"], "node": result["node"], "data": text}
        return await request(
            self.other_app,
            "POST",
            "/connection/emulation",
            body=json.dumps(body).encode(),
            **{**self.scope, **scope},
        )

    def _open(self, text: str) -> Client:
        path = f"/connection/{self.kind}"
        asked: dict[str, Any] = {"headers": self.headers, **self.scope}
        if self.kind == "sse":
            return begin(
                self.app, "GET", path, query=f"cf_connect={quote(text)}", **asked
            )
        return begin(self.app, "POST", path, body=text.encode(), **asked)

    @property
    def response(self) -> dict[str, Any]:
        """The head of the response."""
        assert self.client is not None
        return self.client.sent[0]

    @property
    def response_headers(self) -> dict[bytes, bytes]:
        return dict(self.response["headers"])

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the disconnect push, after which the response has ended."""
        push = await self.push("disconnect")
        assert self.client is not None
        await self.client.end()
        assert self.client.sent[-1].get("more_body", False) is False
        return push["disconnect"]["code"], push["disconnect"]["reason"]

    async def _read(self) -> None:
        while not self._frames:
            await within(self._receive())
        self._sort(self._frames.popleft())

    async def _receive(self) -> None:
        assert self.client is not None
        self._read_so_far += 1
        event = await self.client.until("http.response.body", self._read_so_far - 1)
        self._text += event["body"].decode()
        end = "\n\n" if self.kind == "sse" else "\n"
        *frames, self._text = self._text.split(end)
        for frame in frames:
            line = frame.lstrip("\r\n")
            if self.kind == "sse":
                assert line.startswith("data: ")
                line = line.removeprefix("data: ")
            assert "\n" not in line
            self._frames.append(line)
