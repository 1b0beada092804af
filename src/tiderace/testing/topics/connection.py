"""The connection of a test client: commands with their replies, and received pushes."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tiderace.protocol.messages import (
    Command,
    ConnectRequest,
    ConnectResult,
    Push,
    Reply,
)
from tiderace.protocol.stream_codecs import protobuf
from tiderace.testing.topics.refusals import Refusal
from tiderace.testing.websocket import WebsocketCommunicator

if TYPE_CHECKING:
    from tiderace.protocol.protobuf import ProtobufCodec

TIMEOUT = 5.0
"""Seconds that a client waits by default for what it is to receive. Only a test that fails
waits this long."""

# Seconds for the reply to a command; long, since a hook may be in a debugger.
_REPLY_TIMEOUT = 60.0

# The kinds of pushes by the field that has them, as errors name them.
_KINDS = {
    **{name: name for name in Push.__struct_fields__[1:]},
    "pub": "publication",
    "changed": "change of presence",
    "unsubscribe": "unsubscription",
    "subscribe": "server-side subscription",
}

# The pushes of a subscription, which an unsubscription ends.
_OF_SUBSCRIPTIONS = frozenset({"pub", "join", "leave", "whisper"})


class TopicsConnection:
    """One connection to an application, without a server.

    A task answers pings and sorts what the server sends, so a connection belongs to the
    event loop in which it was opened.

    Args:
        socket: not connected yet.
        speaks_protobuf: whether to speak Protobuf instead of JSON.
    """

    def __init__(
        self, socket: WebsocketCommunicator, *, speaks_protobuf: bool = False
    ) -> None:
        self._socket = socket
        self._codec = _protobuf() if speaks_protobuf else None
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._pushes: deque[Push] = deque()
        self._news = asyncio.Event()
        self._end: BaseException | None = None
        self._decoder = msgspec.json.Decoder(Reply)
        self._reading: asyncio.Task[None] | None = None

    async def open(self, request: ConnectRequest) -> ConnectResult:
        """Open the socket and send the connect command.

        Raises:
            Refusal: when either is refused.
        """
        path = self._socket.scope["path"]
        accepted, status = await self._socket.connect(_REPLY_TIMEOUT)
        if not accepted:
            raise Refusal(
                *await self._denial(status), action=f"the handshake at {path!r}"
            )
        self._reading = asyncio.create_task(self._read())
        result = await self.request("connect", request, "connect")
        assert isinstance(result, ConnectResult)
        return result

    async def _denial(self, status: Any) -> tuple[int, str]:
        """Return the HTTP status and body for a refused handshake."""
        if self._socket.future.done() or status < 200 or status > 599:
            # Closed before it was accepted, for which servers send 403.
            return 403, "the log names the reason"
        event = await self._socket.receive_output(_REPLY_TIMEOUT)
        return status, bytes(event.get("body", b"")).decode()

    async def request(self, name: str, request: Any, action: str) -> Any:
        """Send a command and return the result of its reply.

        Args:
            name: of the command, a field of ``Command``.
            request: the field's value.
            action: describes it in the error.

        Raises:
            Refusal: when the server replies with an error, or has closed.
            TimeoutError: when it does not reply.
        """
        if self._end is not None:
            raise self._end
        number = next(self._ids)
        command = Command(id=number)
        setattr(command, name, request)
        reply = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        await self._send(command)
        try:
            async with asyncio.timeout(_REPLY_TIMEOUT):
                answer = await reply
        except TimeoutError:
            raise TimeoutError(
                f"{action}: no reply within {_REPLY_TIMEOUT:g} s"
            ) from None
        finally:
            del self._replies[number]
        if answer.error is not None:
            raise Refusal(answer.error.code, answer.error.message, action=action)
        return getattr(answer, name, None)

    def put(self, push: Push) -> None:
        """Add a push to those that were received and not read."""
        self._pushes.append(push)
        self._news.set()

    async def take(
        self,
        kind: str,
        topic: str,
        timeout: float | None,
        where: Callable[[Push], bool] = lambda push: True,
    ) -> Push:
        """Return the first push of a kind and topic for which ``where`` is true.

        Waits for it.

        Raises:
            Refusal: when the subscription or the connection has ended.
            TimeoutError: when there is none within ``timeout`` seconds.
        """

        def wanted(push: Push) -> bool:
            is_kind = push.channel == topic and getattr(push, kind) is not None
            return is_kind and where(push)

        try:
            async with asyncio.timeout(timeout):
                while not (found := self.take_received(wanted)):
                    self._raise_end(kind, topic)
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise TimeoutError(
                f"no {_KINDS[kind]} of {topic or 'the connection'} within {timeout:g} s "
                f"(received and not read: {self._summary()})"
            ) from None
        return found[0]

    def take_received(
        self, wanted: Callable[[Push], bool], *, everything: bool = False
    ) -> list[Push]:
        """Return the first push that matches, or all that do; without waiting."""
        matching = [push for push in self._pushes if wanted(push)]
        taken = matching if everything else matching[:1]
        for push in taken:
            self._pushes.remove(push)
        return taken

    async def ended(self, timeout: float | None) -> Refusal:
        """Wait until the server closes the connection.

        Raises:
            TimeoutError: when it does not within ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._end is None:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise TimeoutError(
                f"the server has not closed the connection within {timeout:g} s"
            ) from None
        if not isinstance(self._end, Refusal):
            raise self._end
        return self._end

    async def close(self) -> None:
        """Disconnect, and wait for the application to end."""
        if self._reading is None:
            return
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self._reading = None
        if self._end is None:
            self._end = Refusal(1000, "the client has disconnected")
        if not self._socket.future.done():
            await self._socket.disconnect(timeout=_REPLY_TIMEOUT)

    def _raise_end(self, kind: str, topic: str) -> None:
        if self._end is not None:
            raise self._end
        if kind in _OF_SUBSCRIPTIONS:
            for push in self._pushes:
                if push.channel == topic and (end := push.unsubscribe) is not None:
                    action = f"the subscription to {topic!r} has ended"
                    raise Refusal(end.code, end.reason, action=action)

    def _summary(self) -> str:
        kinds = [
            f"{word} of {push.channel or 'the connection'}"
            for push in self._pushes
            for kind, word in _KINDS.items()
            if getattr(push, kind) is not None
        ]
        return ", ".join(kinds) or "nothing"

    # What arrives

    async def _read(self) -> None:
        try:
            while True:
                event = await self._socket.receive_output(None)
                if event["type"] == "websocket.close":
                    action = "the server has closed the connection"
                    code, reason = event.get("code", 1000), event.get("reason") or ""
                    self._finish(Refusal(code, reason, action=action))
                    return
                for reply in self._replies_in(event):
                    await self._sort(reply)
        except Exception as error:
            self._finish(error)

    async def _send(self, command: Command) -> None:
        if self._codec is not None:
            frame = self._codec.encode_command(command)
            await self._socket.send_to(bytes_data=frame)
        else:
            await self._socket.send_to(msgspec.json.encode(command).decode())

    def _replies_in(self, event: Mapping[str, Any]) -> list[Reply]:
        if self._codec is not None:
            return self._codec.decode_replies(event["bytes"])
        return [self._decoder.decode(line) for line in event["text"].split("\n")]

    async def _sort(self, reply: Reply) -> None:
        if reply.push is not None:
            self.put(reply.push)
        elif reply.id:
            waiting = self._replies.get(reply.id)
            if waiting is not None and not waiting.done():
                waiting.set_result(reply)
        else:  # a ping
            await self._send(Command())

    def _finish(self, end: BaseException) -> None:
        self._end = end
        self._news.set()
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(end)


def _protobuf() -> ProtobufCodec:
    codec = protobuf("Protobuf, as the test asks")
    if codec is None:
        raise RuntimeError('Protobuf needs the extra: pip install "tiderace[protobuf]"')
    return codec
