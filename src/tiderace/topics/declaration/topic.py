"""The classes with which an application declares its topics and their policy.

::

    class Room(Topic):
        pattern = "room:<slug:name>"
        history = History(size=100, ttl=3600)
        permission_classes = [IsAuthenticated]

        async def can_subscribe(self, user):
            members = Membership.objects.filter(room=self.kwargs["name"])
            return await members.filter(user=user).aexists()
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import reprlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import msgspec
from django.core.exceptions import ImproperlyConfigured

from tiderace import conf
from tiderace.json_compat import loads, well_formed_text
from tiderace.layers.broker import Retention
from tiderace.presence.tracker import Presence
from tiderace.protocol.codes import Failure
from tiderace.ratelimit import Rate
from tiderace.revocation import signals
from tiderace.topics.declaration.checks import (
    full_name,
    require_compatible,
    require_delivery,
    require_hooks,
    require_kinds,
)
from tiderace.topics.declaration.latest import Latest
from tiderace.topics.growing.options import Growing
from tiderace.topics.names import Pattern, is_reserved
from tiderace.topics.permissions import require_permissions

F = TypeVar("F", bound=Callable[..., Any])
_Permission: TypeAlias = bool | Awaitable[bool]

_APPLICATION_CODES = range(400, 2000)


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """How many publications a topic keeps for recovery and reading.

    Args:
        size: maximum number of publications.
        ttl: seconds each of them is kept.

    Raises:
        ImproperlyConfigured: for values that are no numbers, or keep nothing.
    """

    size: int = 100
    ttl: float = 300.0
    retention: Retention = dataclasses.field(init=False, repr=False, compare=False)
    """``size`` and ``ttl`` in the form in which layers take them."""

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or not isinstance(self.ttl, int | float):
            raise ImproperlyConfigured(
                f"History(size={self.size!r}, ttl={self.ttl!r}) has a value that is no "
                "number; write the number of publications and the seconds, such as "
                "History(size=100, ttl=300)"
            )
        if self.size < 1 or self.ttl <= 0:
            raise ImproperlyConfigured(
                f"History(size={self.size}, ttl={self.ttl}) keeps nothing; leave "
                "history = None for a topic without one"
            )
        object.__setattr__(self, "retention", Retention(self.size, self.ttl))


_KEEPS_NOTHING = Retention(0, 0.0)


class Refuse(Exception):
    """Raise it in a hook or an RPC method to send an error to the client.

    Args:
        message: for developers of the client, not for its user.
        code: 400 to 1999.
        temporary: whether the client may retry by itself.

    Raises:
        ValueError: for another code.
    """

    def __init__(
        self, message: str = "refused", *, code: int = 400, temporary: bool = False
    ) -> None:
        if code not in _APPLICATION_CODES:
            raise ValueError(
                f"{code} is no error code of an application; use 400 to 1999"
            )
        super().__init__(message)
        # JSON and Protobuf encode neither a lazy translation nor a lone surrogate.
        self.failure = Failure(code, well_formed_text(str(message)), temporary)


class UnknownTopic(LookupError):
    """No declared topic has a pattern that matches this name."""


def rpc(method: F) -> F:
    """Let clients call a method of a topic: ``await room.call("rename", {"to": "tea"})``.

    The client sends an object with the arguments by name; they are validated and
    converted by the annotations. An argument named ``user`` gets the calling user. Only
    subscribers may call. The return value is sent as the reply.

    The method may be an async generator. A client that calls it with
    ``tiderace/stream`` gets each item when it is yielded, and may stop the generator;
    for any other client the reply is a list of all items.

    Raises:
        ImproperlyConfigured: for a generator that is not async.
    """
    if inspect.isgeneratorfunction(method):
        raise ImproperlyConfigured(
            f"{method.__qualname__} is a generator; write async def, or return a list"
        )
    method._tiderace_rpc = True  # type: ignore[attr-defined]  # noqa: SLF001
    return method


class Topic:
    """Base class of topics: a subclass declares a pattern of names, an instance is one name.

    ``self.topic`` is the whole name and ``self.kwargs`` has the captured values.
    Instances are created on demand and hold no state.

    Nothing is allowed by default: a client may subscribe if all ``permission_classes``
    and ``can_subscribe`` (if defined) allow it, and never if the class has neither.
    Clients may publish if the class also defines ``can_publish`` or ``on_publish``, and
    only while they are subscribed unless ``subscribers_only`` is False.

    Hooks may be plain methods or coroutine functions; plain ones run in a thread.
    """

    pattern: ClassVar[str] = ""
    """The names: literal text and Django's path converters."""
    history: ClassVar[History | None] = None
    """How many publications are kept; None for a topic without recovery."""
    rewind: ClassVar[int] = 0
    """How many of the last publications a subscriber gets when it is new, or when the
    publications that it missed cannot be recovered; at most ``history.size``."""
    growing: ClassVar[Growing | None] = None
    """``Growing(...)`` for a topic with messages that grow; None for one without."""
    deliver: ClassVar[Latest | None] = None
    """``Latest(...)`` to deliver the newest values at a pace; None for every publication."""
    presence: ClassVar[Presence] = Presence.OFF
    """Whether and how members are tracked."""
    presence_grace: ClassVar[float] = 15.0
    """Seconds a user stays present after the last connection; for ``PER_USER``."""
    closing_grace: ClassVar[float] = 15.0
    """Seconds from the end of the last subscription to ``topic_closed``: reloads and
    deploys last less."""
    push_joins: ClassVar[bool] = False
    """Whether all subscribers get joins and leaves, or only those that request them."""
    permission_classes: ClassVar[Iterable[Any]] = ()
    """Permissions of Tiderace or Django REST Framework; each has to allow an action."""
    publish_rate: ClassVar[str | None] = "50/s"
    """How often one connection may publish; None for no limit."""
    user_rate: ClassVar[str | None] = "100/s"
    """How often one user may publish, over all connections and processes; None for no
    limit. With ``on_publish``, and in a Redis Cluster, it takes a request to the broker."""
    whispers: ClassVar[bool | str] = False
    """Whether subscribers may send each other messages that no hook sees and that are not
    stored, such as typing and cursors; True for 20 a second of each connection in one
    topic, or another rate, ``"5/s"``. Beyond it they are refused."""
    delta: ClassVar[bool] = False
    """Whether clients that request it get each publication as the difference from the
    one before, to which SDKs apply it; for states that change little."""
    message: ClassVar[Any] = None
    """The type of a client's publications: a msgspec Struct, dataclass, TypedDict,
    pydantic model or any other type that msgspec can validate; None for any JSON. With
    ``bytes`` all publications are bytes instead of JSON, for clients with Protobuf."""
    publication: ClassVar[Any] = None
    """The type of what subscribers receive, for the schema alone: nothing is checked
    against it. None for the return type of ``on_publish``, or else ``message``."""
    require_token: ClassVar[bool] = False
    """Whether a subscription token is required too."""
    subscribers_only: ClassVar[bool] = True
    """Whether only subscribers may publish, read and call; False for all clients with
    the permission to subscribe."""
    layer: ClassVar[str] = "default"
    """The alias of its channel layer."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_kinds(cls, _KINDS)
        require_permissions(cls)
        require_hooks(cls, TOPIC_HOOKS, optional="data")
        require_delivery(cls)
        require_compatible(cls)
        for name in ("publish_rate", "user_rate", "whispers"):
            rate = getattr(cls, name)
            if rate is not None and not isinstance(rate, bool):
                try:
                    Rate.parse(rate)
                except ValueError as error:
                    raise ImproperlyConfigured(
                        f"{full_name(cls)}.{name}: {error}"
                    ) from None
        if cls.pattern:
            declared.add(cls)

    def __init__(self, topic: str, kwargs: Mapping[str, Any] | None = None) -> None:
        self.topic = topic
        self.kwargs = dict(kwargs or {})

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self.topic!r}>"

    # Hooks that a class may define. They are None here, and not methods, which shows
    # whether an application has defined them. Type checkers see methods, with which they
    # compare those of the application.

    if TYPE_CHECKING:

        def can_subscribe(self, user: Any, /) -> _Permission: ...
        def can_publish(self, user: Any, /) -> _Permission: ...
        def can_see_presence(self, user: Any, /) -> _Permission: ...
        def can_read_history(self, user: Any, /) -> _Permission: ...
        def can_whisper(self, user: Any, /) -> _Permission: ...
        def may_receive(self, user: Any, tags: Mapping[str, str], /) -> _Permission: ...
        def can_cancel(self, user: Any, message: Any, /) -> _Permission: ...
        def on_publish(self, user: Any, message: Any, /) -> Any: ...
        def user_joined(self, user_id: str, /) -> Any: ...
        def user_left(self, user_id: str, /) -> Any: ...
        def topic_opened(self) -> Any: ...
        def topic_closed(self) -> Any: ...

        on_subscribe: Callable[..., Any] | None  # with one parameter or with two
    else:
        can_subscribe = None
        """``can_subscribe(self, user) -> bool``."""
        can_publish = None
        """``can_publish(self, user) -> bool``."""
        can_see_presence = None
        """``can_see_presence(self, user) -> bool``; without it every subscriber may."""
        may_receive = None
        """``may_receive(self, user, tags) -> bool``; without it every subscriber gets every
        publication. Called once for each set of tags and subscriber."""
        can_read_history = None
        """``can_read_history(self, user) -> bool``; without it every subscriber may."""
        can_whisper = None
        """``can_whisper(self, user) -> bool``, where the class has ``whispers``: called at
        the first whisper of a subscription; without it every subscriber may."""
        can_cancel = None
        """``can_cancel(self, user, message) -> bool``: whether a subscriber may cancel a
        growing message, whose data without the text is ``message``; without it none
        may."""
        on_publish = None
        """``on_publish(self, user, message)``: returns the data to publish, or None."""
        on_subscribe = None
        """``on_subscribe(self, user, data)``: returns data for the subscriber, or None; the
        parameter ``data``, what the client sent with its command, may be left out."""
        user_joined = None
        """``user_joined(self, user_id)``: called at least once for each join of a user."""
        user_left = None
        """``user_left(self, user_id)``: called at least once for each leave of a user,
        ``presence_grace`` seconds after the last connection."""
        topic_opened = None
        """``topic_opened(self)``: called when the topic has its first subscriber in all
        processes, in one of them."""
        topic_closed = None
        """``topic_closed(self)``: called ``closing_grace`` seconds after the last
        subscription has ended, in one of the processes."""

    @classmethod
    def topics_for(cls, user: Any) -> Iterable[str] | Awaitable[Iterable[str]]:
        """Return names that ``user`` is subscribed to on connect.

        A plain or a coroutine function. Permissions are checked as for a subscribe
        command.
        """
        return ()

    # For the topic client

    @classmethod
    def is_binary(cls) -> bool:
        """Return whether publications are bytes, which JSON clients cannot get."""
        return cls.message is bytes

    @classmethod
    def reports_occupancy(cls) -> bool:
        """Return whether the class has a hook for the first or the last subscriber."""
        return cls.topic_opened is not None or cls.topic_closed is not None

    @classmethod
    def keep(cls) -> Retention:
        """Return how many publications the layer keeps, and for how long."""
        history = cls.history
        return _KEEPS_NOTHING if history is None else history.retention

    def checked(self, data: bytes) -> Any:
        """Return a client's data as a value of the type ``message``.

        Raises:
            Refuse: for other data, with the place of the error.
        """
        if self.message is bytes:
            return data
        kind = Any if self.message is None else self.message
        # pydantic's models; its errors, too, are ValueErrors.
        validate = getattr(kind, "model_validate_json", None)
        try:
            return loads(data, kind) if validate is None else validate(data)
        except ValueError as error:
            raise Refuse(f"not a valid message: {error}", code=422) from None


TOPIC_HOOKS = {
    "can_subscribe": ("self", "user"),
    "can_publish": ("self", "user"),
    "can_see_presence": ("self", "user"),
    "can_read_history": ("self", "user"),
    "can_whisper": ("self", "user"),
    "may_receive": ("self", "user", "tags"),
    "can_cancel": ("self", "user", "message"),
    "on_publish": ("self", "user", "message"),
    "on_subscribe": ("self", "user", "data"),
    "user_joined": ("self", "user_id"),
    "user_left": ("self", "user_id"),
    "topic_opened": ("self",),
    "topic_closed": ("self",),
    "topics_for": ("cls", "user"),
}
"""The hooks of a topic, and the arguments with which they are called."""

_BOOL = (bool, "True or False")
_KINDS: dict[str, tuple[Any, str]] = {
    "pattern": (str, 'a text such as "room:<slug:name>"'),
    "history": (History | None, "History(size=100, ttl=300), or None"),
    "rewind": (int, "how many of the last publications a new subscriber gets, or 0"),
    "growing": (Growing | None, "Growing(), or None"),
    "deliver": (Latest | None, 'Latest(rate="5/s", key="id"), or None'),
    "presence": (Presence, " or ".join(str(each) for each in Presence)),
    "presence_grace": (int | float, "a number of seconds"),
    "closing_grace": (int | float, "a number of seconds"),
    "push_joins": _BOOL,
    "require_token": _BOOL,
    "delta": _BOOL,
    "whispers": (bool | str, 'True, or a rate such as "5/s"'),
    "subscribers_only": _BOOL,
    "layer": (str, "the alias of one of CHANNEL_LAYERS"),
}


def rpc_method(owner: Any, name: str) -> Callable[..., Any] | None:
    """Return the method marked with ``@rpc`` that clients call as ``name``, or None."""
    method = None if name.startswith("_") else getattr(owner, name, None)
    return method if getattr(method, "_tiderace_rpc", False) else None


def rpc_names(owner: Any) -> list[str]:
    """Return the names of the methods marked with ``@rpc``, in order."""
    return [name for name in dir(owner) if rpc_method(owner, name) is not None]


def rpc_arguments(method: Callable[..., Any], user: Any, data: bytes) -> dict[str, Any]:
    """Return the arguments for an RPC method from the object that a client sent.

    Raises:
        Refuse: when they do not fit the method's annotations.
    """
    parameters = inspect.signature(method, eval_str=True).parameters
    try:
        given = loads(data, dict[str, msgspec.Raw]) if data else {}
        arguments: dict[str, Any] = {}
        for name, parameter in parameters.items():
            if name == "user":
                arguments[name] = user
            elif name in given:
                kind = parameter.annotation
                untyped = kind is inspect.Parameter.empty
                arguments[name] = loads(bytes(given[name]), Any if untyped else kind)
            elif parameter.default is inspect.Parameter.empty:
                raise Refuse(f"the argument {name!r} is missing", code=422)
        unknown = given.keys() - parameters.keys()
        if unknown or ("user" in given and "user" in parameters):
            raise Refuse(f"unknown arguments: {sorted(unknown or {'user'})}", code=422)
    except ValueError as error:
        raise Refuse(f"the arguments do not fit: {error}", code=422) from None
    return arguments


_NO_TOPICS = vars(Topic)["topics_for"].__func__

_NONE_DECLARED = (
    'none; declare topics in a module "topics" of an app in INSTALLED_APPS, and list '
    '"tiderace" there'
)


class Registry:
    """The declared topic classes; finds the one that a name belongs to."""

    def __init__(self) -> None:
        self._topics: list[tuple[Pattern, type[Topic]]] = []
        self.with_topics_for: list[type[Topic]] = []
        """The classes that define ``topics_for``."""

    def add(self, topic: type[Topic]) -> None:
        """Declare a class; if several match a name, the most specific one is used.

        Raises:
            ImproperlyConfigured: for an invalid pattern, or that of another class.
        """
        # So that subscriptions end when users are logged out or lose permissions.
        signals.require()
        pattern = Pattern(topic.pattern)
        for known, other in self._topics:
            # A class that is defined again, as after a reload, replaces the first one.
            if known.shape == pattern.shape and full_name(other) != full_name(topic):
                names = "" if known.text == pattern.text else f" as {known.text!r}"
                raise ImproperlyConfigured(
                    f"{full_name(topic)} and {full_name(other)} have the same pattern "
                    f"{pattern.text!r}{names}, so only one would be used; change one "
                    "of them"
                )
        self._replace(
            sorted(
                [each for each in self._topics if each[0].shape != pattern.shape]
                + [(pattern, topic)],
                key=lambda each: each[0].specificity,
            )
        )

    def remove(self, topic: type[Topic]) -> None:
        """Undeclare a class; for tests."""
        self._replace([each for each in self._topics if each[1] is not topic])

    def _replace(self, topics: list[tuple[Pattern, type[Topic]]]) -> None:
        self._topics = topics
        # That of the base class returns nothing: no client has to call it.
        self.with_topics_for = [
            kind
            for kind in self
            if getattr(kind.topics_for, "__func__", None) is not _NO_TOPICS
        ]

    def __iter__(self) -> Iterator[type[Topic]]:
        return iter([topic for _, topic in self._topics])

    def resolve(self, name: str) -> Topic:
        """Return the topic of this name.

        Raises:
            UnknownTopic: when no pattern matches, with the patterns in its text, or when
                the name is longer than ``NAME_LENGTH`` or has a NUL.
            TypeError: when the name is not a string.
        """
        if not isinstance(name, str):
            raise TypeError(
                f"a topic is addressed by its name, a string such as 'room:tea', not by "
                f"{type(name).__qualname__} {reprlib.repr(name)}"
            )
        # Checked before any pattern: two converters that match the same characters make
        # a pattern quadratic in the length of a client's text.
        if len(name) > (limit := conf.current().topics.name_length):
            raise UnknownTopic(
                f"a topic name of {len(name)} characters is longer than {limit} "
                f'(TIDERACE["TOPICS"]["NAME_LENGTH"])'
            )
        if "\0" in name:
            raise UnknownTopic("a topic name has a NUL, which PostgreSQL cannot store")
        for pattern, topic in () if is_reserved(name) else self._topics:
            kwargs = pattern.match(name)
            if kwargs is not None:
                return topic(name, kwargs)
        known = ", ".join(str(pattern) for pattern, _ in self._topics) or _NONE_DECLARED
        shown = re.sub(r"[^\x20-\x7e]", "?", name[:80])
        raise UnknownTopic(f"no topic matches {shown!r} (declared: {known})")


declared = Registry()
"""The topics of the project, added when their classes are defined."""
