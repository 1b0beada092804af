"""The client of topics for async tests, and the topics that it subscribes to."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any, Self, TypedDict

from asgiref.sync import sync_to_async
from django.contrib.auth.base_user import AbstractBaseUser
from django.test import Client

from tiderace.asgi import ASGIApp
from tiderace.history import Position
from tiderace.protocol.messages import (
    ConnectRequest,
    DataMessage,
    RPCRequest,
    SubscribeRequest,
)
from tiderace.routing import get_default_application
from tiderace.testing.topics.connection import TIMEOUT, TopicsConnection
from tiderace.testing.topics.subscribed_topic import AsyncSubscribedTopic
from tiderace.testing.websocket import WebsocketCommunicator
from tiderace.topics import hub
from tiderace.topics.json_fields import as_python, as_raw

# The host of Django's test client, which its test runner allows.
_HOST = "testserver"


class ClientOptions(TypedDict, total=False):
    """The arguments of a client, described by ``AsyncTopicsClient``."""

    user: AbstractBaseUser | None
    cookies: SimpleCookie | None
    token: str
    headers: Mapping[str, str] | None
    data: Any
    origin: str | None
    url: str
    application: ASGIApp | None
    protobuf: bool


class AsyncTopicsClient:
    """A client of the project's topics, without a browser and without a server.

    It connects to ``ASGI_APPLICATION`` as a page does, so the origin, ``ALLOWED_HOSTS``,
    the session and the middleware are those of the project::

        async with AsyncTopicsClient(user=alice) as client:
            room = await client.subscribe("room:tea")
            await apublish("room:tea", {"text": "hi"})
            assert await room.receive() == {"text": "hi"}

    Args:
        user: is logged in with a new session, as by ``Client.force_login``.
        cookies: of Django's test client that has logged in: ``self.client.cookies``.
        token: a connection token, of ``connection_token()``, or a ticket.
        headers: of the handshake, such as ``{"Authorization": "Bearer ..."}``.
        data: for the hook ``on_connect``.
        origin: of the page; None for a client that is no browser.
        url: where the endpoint is mounted, as for ``topics()`` in the page.
        application: in place of ``ASGI_APPLICATION``.
        protobuf: whether to speak Protobuf, as devices do, which topics with bytes need;
            it takes the extra of that name.
    """

    def __init__(
        self,
        *,
        user: AbstractBaseUser | None = None,
        cookies: SimpleCookie | None = None,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        origin: str | None = f"http://{_HOST}",
        url: str = "/connection/",
        application: ASGIApp | None = None,
        protobuf: bool = False,
    ) -> None:
        self.id = ""
        """The client's id, from the reply to connect."""
        self.data: Any = None
        """The value that the hook ``on_connect`` has returned."""
        self._user = user
        self._user_id = ""
        self._cookies = cookies
        self._headers = {"host": _HOST, **({"origin": origin} if origin else {})}
        self._headers |= {name.lower(): text for name, text in (headers or {}).items()}
        self._request = ConnectRequest(token=token, data=as_raw(data))
        self._path = f"{url.rstrip('/')}/websocket"
        self._application = application
        self._protobuf = protobuf
        self._connection: TopicsConnection | None = None
        self._topics: dict[str, AsyncSubscribedTopic] = {}

    # Beginning and end

    @property
    def connected(self) -> bool:
        """Whether it has connected and not disconnected."""
        return self._connection is not None

    async def connect(self) -> Self:
        """Log in and connect; return this client.

        Raises:
            Refusal: when the server refuses the handshake or the connect command.
            RuntimeError: when the application ignores the session of ``user``.
        """
        cookies = self._cookies
        if self._user is not None:
            cookies = await sync_to_async(_session_of)(self._user)
        connection = TopicsConnection(
            self._socket(cookies), speaks_protobuf=self._protobuf
        )
        try:
            result = await connection.open(self._request)
        except BaseException:
            await connection.close()
            raise
        self._connection, self._topics = connection, {}
        self.id, self.data = result.client, as_python(result.data)
        self._user_id = _user_id_of(self.id)
        if self._user is not None and self._user_id != str(self._user.pk):
            await self.disconnect()
            raise RuntimeError(
                f"{self._user} has logged in, but the user of the connection is "
                f"{self._user_id or 'anonymous'}; serve the endpoint inside "
                "AuthMiddlewareStack, as get_application() does"
            )
        for name, subscribed in (result.subs or {}).items():
            self.topic(name).begin(subscribed)
        return self

    def _socket(self, cookies: SimpleCookie | None) -> WebsocketCommunicator:
        headers = dict(self._headers)
        if cookies:
            headers["cookie"] = "; ".join(
                f"{name}={morsel.coded_value}" for name, morsel in cookies.items()
            )
        socket = WebsocketCommunicator(
            self._application or get_default_application(),
            self._path,
            [(name.encode(), text.encode()) for name, text in headers.items()],
            subprotocols=["centrifuge-protobuf"] if self._protobuf else None,
            cancel_on_timeout=False,
        )
        socket.scope.update(
            scheme="ws",
            client=("127.0.0.1", 50000),
            server=(_HOST, 80),
            extensions={"websocket.http.response": {}},
        )
        socket.scope["tiderace.testing"] = True  # refusals have their reasons
        return socket

    async def disconnect(self) -> None:
        """Close the connection; without effect when it is closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> Self:
        return self if self.connected else await self.connect()

    async def __aexit__(self, *error: object) -> None:
        await self.disconnect()

    # Topics

    def topic(self, name: str) -> AsyncSubscribedTopic:
        """Return a topic without subscribing to it.

        For topics with ``subscribers_only = False``, and for those that the server
        subscribes this client to (``topics_for``, ``subscribe()``).
        """
        topic = AsyncSubscribedTopic(
            self._connected(), name, client=self.id, user_id=self._user_id
        )
        return self._topics.setdefault(name, topic)

    async def subscribe(
        self,
        name: str,
        *,
        token: str = "",
        data: Any = None,
        since: Position | None = None,
    ) -> AsyncSubscribedTopic:
        """Subscribe to a topic.

        Args:
            name: the topic's.
            token: a subscription token.
            data: for the hook ``on_subscribe``.
            since: recovers what was published after this position.

        Raises:
            Refusal: when the server refuses it.
        """
        request = SubscribeRequest(
            channel=name, token=token, data=as_raw(data), join_leave=True
        )
        if since is not None:
            request.recover = True
            request.epoch, request.offset = since.epoch, since.offset
        result = await self._ask("subscribe", request, f"subscribe to {name!r}")
        topic = self.topic(name)
        topic.begin(result)
        return topic

    # Calls and messages

    async def call(self, method: str, /, **arguments: Any) -> Any:
        """Call a method of the endpoint marked with ``@rpc``; return its result.

        Raises:
            Refusal: when the server refuses it.
        """
        request = RPCRequest(method=method, data=as_raw(arguments))
        result = await self._ask("rpc", request, f"call {method!r}")
        return as_python(result.data)

    async def send(self, data: Any) -> None:
        """Send a message to the endpoint's hook ``on_message``, and wait for its end.

        Raises:
            Refusal: when the hook raises, which a page does not notice.
        """
        message = DataMessage(data=as_raw(data, always=True))
        await self._ask("send", message, "send a message")

    async def receive(self, *, timeout: float | None = TIMEOUT) -> Any:
        """Return the next message of ``send_to``; wait ``timeout`` seconds for it.

        Raises:
            TimeoutError: when there is none.
            Refusal: when the server has closed the connection.
        """
        push = await self._connected().take("message", "", timeout)
        return None if push.message is None else as_python(push.message.data)

    async def receive_close(
        self, *, timeout: float | None = TIMEOUT
    ) -> tuple[int, str]:
        """Wait until the server closes the connection; return the code and reason.

        Raises:
            TimeoutError: when it does not within ``timeout`` seconds.
        """
        end = await self._connected().ended(timeout)
        return end.code, end.reason

    async def _ask(self, command: str, request: Any, action: str) -> Any:
        return await self._connected().request(command, request, action)

    def _connected(self) -> TopicsConnection:
        if self._connection is None:
            raise RuntimeError(
                "the client is not connected; call connect(), or use it in a with block"
            )
        return self._connection


def _session_of(user: AbstractBaseUser) -> SimpleCookie:
    """Return the cookies of a browser in which a user has logged in."""
    if not hasattr(user, "pk"):
        raise TypeError(
            f"user is {user!r}; pass a saved user of the database, such as "
            "User.objects.create_user('alice')"
        )
    if not user.is_authenticated:
        raise ValueError("an anonymous user cannot log in; leave user out")
    if user.pk is None:
        raise ValueError(f"the user {user} cannot log in before it is saved")
    client = Client()
    client.force_login(user)
    return client.cookies


def _user_id_of(client_id: str) -> str:
    """Return the user id of a client of this event loop; empty for an anonymous one."""
    for client in hub.current():
        if client.context.client_id == client_id:
            return client.context.identity.user_id
    return ""
