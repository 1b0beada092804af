"""Permissions: who may subscribe, publish, see who is there, read what was said.

    class Room(Topic):
        permission_classes = [IsAuthenticated & ~Banned, HasPerm("chat.view_room")]

It knows users and topics as objects with names, Django REST Framework's permissions by
their shape alone, and no connection.

Nothing is allowed by default, and nothing by accident: an exception in a permission is no
agreement; it goes on to the caller.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import PermissionDenied

from tiderace.asgi import Scope
from tiderace.db import database_sync_to_async
from tiderace.topics.handshake_request import HandshakeRequest

__all__ = [
    "Action",
    "AllowAny",
    "BasePermission",
    "HasPerm",
    "IsAdminUser",
    "IsAuthenticated",
    "IsStaff",
    "allowed",
]


class Action(StrEnum):
    """What somebody wants to do with a topic."""

    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    PRESENCE = "presence"
    HISTORY = "history"


ActionName = Literal["subscribe", "publish", "presence", "history"]

# The method of a topic that is asked too, where the topic has it.
_HOOKS = {
    Action.SUBSCRIBE: "can_subscribe",
    Action.PUBLISH: "can_publish",
    Action.PRESENCE: "can_see_presence",
    Action.HISTORY: "can_read_history",
}


@dataclass(frozen=True, slots=True)
class _Question:
    """Whether a user may do something with a topic, over this connection."""

    user: Any
    topic: Any
    action: Action
    scope: Scope


class _Combinable(type):
    """Lets permission classes be combined before anybody has made an instance."""

    def __and__(cls, other: Any) -> BasePermission:
        return _All(_permission(cls), _permission(other))

    def __or__(cls, other: Any) -> BasePermission:  # type: ignore[override]  # no union of types is meant
        return _Any(_permission(cls), _permission(other))

    def __rand__(cls, other: Any) -> BasePermission:
        return _All(_permission(other), _permission(cls))

    def __ror__(cls, other: Any) -> BasePermission:  # type: ignore[override]  # likewise
        return _Any(_permission(other), _permission(cls))

    def __invert__(cls) -> BasePermission:
        return _Not(_permission(cls))


class BasePermission(metaclass=_Combinable):
    """A rule; subclass it and say in ``has_permission`` whom it lets do what.

    Classes and instances are combined with ``&``, ``|`` and ``~``; what stands to the
    right is not asked when the left has decided.
    """

    def has_permission(self, user: Any, topic: Any, action: Action) -> Any:
        """Whether ``user`` may do ``action`` with ``topic``; this one lets nobody.

        Override it with a plain method, which runs in a thread and may use the ORM, or
        with a coroutine function.

        Args:
            user: the connection's user, perhaps an ``AnonymousUser``.
            topic: the topic: ``topic.topic`` is its name, ``topic.kwargs`` what its
                pattern captured.
            action: an ``Action``, which equals its name: ``"subscribe"``,
                ``"publish"``, ``"presence"`` or ``"history"``.

        Returns:
            Something true lets the user. ``PermissionDenied`` may be raised for False.
        """
        return False

    async def _agrees(self, question: _Question) -> bool:
        asked = (question.user, question.topic, question.action)
        return await _ask(self.has_permission, *asked)

    def __and__(self, other: Any) -> BasePermission:
        return _All(self, _permission(other))

    def __or__(self, other: Any) -> BasePermission:
        return _Any(self, _permission(other))

    def __rand__(self, other: Any) -> BasePermission:
        return _All(_permission(other), self)

    def __ror__(self, other: Any) -> BasePermission:
        return _Any(_permission(other), self)

    def __invert__(self) -> BasePermission:
        return _Not(self)


class AllowAny(BasePermission):
    """Lets everybody, logged in or not."""

    async def has_permission(self, user: Any, topic: Any, action: Action) -> bool:
        """True."""
        return True


class IsAuthenticated(BasePermission):
    """Lets users who are logged in."""

    async def has_permission(self, user: Any, topic: Any, action: Action) -> bool:
        """Whether ``user`` is somebody."""
        return bool(user is not None and user.is_authenticated)


class IsStaff(BasePermission):
    """Lets users who may use Django's admin (``is_staff``)."""

    async def has_permission(self, user: Any, topic: Any, action: Action) -> bool:
        """Whether ``user`` is on the staff."""
        return bool(user is not None and getattr(user, "is_staff", False))


IsAdminUser = IsStaff
"""``IsStaff`` by the name that Django REST Framework has for it."""


class HasPerm(BasePermission):
    """Lets users who have a permission of Django's: ``HasPerm("chat.view_room")``.

    Args:
        perm: one as ``user.has_perm`` takes it, ``"app.codename"``.
        *more: others, all of which are needed.
    """

    def __init__(self, perm: str, *more: str) -> None:
        self.perms = (perm, *more)
        for each in self.perms:
            if "." not in each:
                raise ValueError(
                    f"{each!r} is no permission of Django's; write 'app.codename', "
                    "such as 'chat.view_room'"
                )

    def has_permission(self, user: Any, topic: Any, action: Action) -> bool:
        """Whether ``user`` has them all; asks the database where Django would."""
        return bool(user is not None and user.has_perms(self.perms))


class _All(BasePermission):
    """Both agree."""

    def __init__(self, left: BasePermission, right: BasePermission) -> None:
        self._left, self._right = left, right

    async def _agrees(self, question: _Question) -> bool:
        return await _verdict(self._left, question) and await _verdict(
            self._right, question
        )


class _Any(BasePermission):
    """One of the two agrees."""

    def __init__(self, left: BasePermission, right: BasePermission) -> None:
        self._left, self._right = left, right

    async def _agrees(self, question: _Question) -> bool:
        return await _verdict(self._left, question) or await _verdict(
            self._right, question
        )


class _Not(BasePermission):
    """The other one does not agree."""

    def __init__(self, inner: BasePermission) -> None:
        self._inner = inner

    async def _agrees(self, question: _Question) -> bool:
        return not await _verdict(self._inner, question)


class _View:
    """What a permission of Django REST Framework sees as the view."""

    def __init__(self, topic: Any, action: str, request: HandshakeRequest) -> None:
        self.topic = topic
        self.kwargs = dict(getattr(topic, "kwargs", {}))
        self.args = ()
        self.action = action
        self.request = request


class _Foreign(BasePermission):
    """A permission that wants a request and a view, as Django REST Framework's do."""

    def __init__(self, permission: Any) -> None:
        self._permission = permission

    async def _agrees(self, question: _Question) -> bool:
        method = "POST" if question.action is Action.PUBLISH else "GET"
        request = HandshakeRequest(question.scope, question.user, method)
        view = _View(question.topic, question.action.value, request)
        try:
            return await _ask(self._permission.has_permission, request, view)
        except Exception as error:
            # That framework's own exceptions, which say no in a status.
            if getattr(error, "status_code", None) in (401, 403, 404):
                return False
            raise


async def allowed(topic: Any, user: Any, action: ActionName, scope: Scope) -> bool:
    """Whether ``user`` may do ``action`` with ``topic``; nobody may what is not allowed.

    All of the topic's ``permission_classes`` must agree, and so must its own method
    (``can_subscribe``, ``can_publish``, ``can_see_presence``, ``can_read_history``)
    where it has one. A topic with neither ``permission_classes`` nor ``can_subscribe``
    is closed to everybody, and one with neither ``can_publish`` nor ``on_publish``
    takes no publications.

    That the user is subscribed, where an action needs that, is not asked here.

    Args:
        topic: the topic, an instance.
        user: the connection's user.
        action: ``"subscribe"``, ``"publish"``, ``"presence"`` or ``"history"``.
        scope: the connection's, for permissions that look at its headers.

    Raises:
        ValueError: for another action.
        Exception: what a permission or method raised that is not ``PermissionDenied``.
    """
    wanted = Action(action)
    classes: Iterable[Any] = topic.permission_classes or ()
    permissions = [_permission(each) for each in classes]
    if not permissions and not callable(getattr(topic, "can_subscribe", None)):
        return False
    hook = getattr(topic, _HOOKS[wanted], None)
    if (
        wanted is Action.PUBLISH
        and not callable(hook)
        and not callable(getattr(topic, "on_publish", None))
    ):
        return False
    question = _Question(user, topic, wanted, scope)
    for permission in permissions:
        if not await _verdict(permission, question):
            return False
    if not callable(hook):
        return True
    try:
        return await _ask(hook, user)
    except PermissionDenied:
        return False


async def _verdict(permission: BasePermission, question: _Question) -> bool:
    try:
        return await permission._agrees(question)  # noqa: SLF001 (ours, under a name no rule takes)
    except PermissionDenied:
        return False


async def _ask(rule: Any, *asked: Any) -> bool:
    """Call a rule: on the loop if it is a coroutine function, else in a thread."""
    if iscoroutinefunction(rule):
        answer = await rule(*asked)
    else:
        answer = await database_sync_to_async(rule)(*asked)
        if inspect.isawaitable(answer):
            answer = await answer
    return bool(answer)


# What Django REST Framework calls them.
_COMBINATIONS: dict[str, Callable[..., BasePermission]] = {
    "AND": _All,
    "OR": _Any,
    "NOT": _Not,
}


def _name_of(operator: Any) -> str:
    return str(getattr(operator, "__name__", ""))


def _permission(rule: Any) -> BasePermission:
    """A rule as an instance of ours, however it was written.

    Raises:
        TypeError: when it is none.
    """
    if isinstance(rule, BasePermission):
        return rule
    combination = _COMBINATIONS.get(_name_of(getattr(rule, "operator_class", None)))
    if combination is not None:
        # One of Django REST Framework's, which may hold permissions of ours too.
        parts = [getattr(rule, f"op{place}_class", None) for place in (1, 2)]
        return combination(*(_permission(part) for part in parts if part is not None))
    made = rule() if isinstance(rule, type) else rule
    if isinstance(made, BasePermission):
        return made
    if not callable(getattr(made, "has_permission", None)):
        raise TypeError(
            f"{rule!r} is no permission; use a subclass of "
            "tiderace.topics.permissions.BasePermission or of Django REST Framework's"
        )
    return _Foreign(made)
