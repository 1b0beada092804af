"""Permissions to subscribe to a topic, publish, and read presence and history.

    class Room(Topic):
        permission_classes = [IsAuthenticated & ~Banned, HasPerm("chat.view_room")]

Nothing is allowed by default. An exception in a permission propagates to the caller.
Permissions of Django REST Framework work too; it is not imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import SimpleNamespace
from typing import Any, Literal

import msgspec
from django.core.exceptions import ImproperlyConfigured, PermissionDenied

from tiderace.asgi import Scope
from tiderace.topics.declaration.checks import full_name, require_hooks
from tiderace.topics.handshake_request import HandshakeRequest
from tiderace.topics.hooks import call_hook

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
    """An action on a topic that needs permission."""

    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    PRESENCE = "presence"
    HISTORY = "history"
    WHISPER = "whisper"


ActionName = Literal["subscribe", "publish", "presence", "history", "whisper"]

# The method of the topic that has to allow the action too, if the topic defines it.
_HOOKS: Mapping[str, str] = {
    Action.SUBSCRIBE: "can_subscribe",
    Action.PUBLISH: "can_publish",
    Action.PRESENCE: "can_see_presence",
    Action.HISTORY: "can_read_history",
    Action.WHISPER: "can_whisper",
}

# Actions that send something to others: Django REST Framework's permissions get a POST.
_WRITING = (Action.PUBLISH, Action.WHISPER)


class _Check(msgspec.Struct, frozen=True):
    """The arguments of a permission check, and what it found."""

    user: Any
    topic: Any
    action: Action
    scope: Scope
    undecided: list[str] = msgspec.field(default_factory=list)
    """The permissions that returned None, as a method without ``return`` does."""

    def decide(self, permission: BasePermission, result: Any) -> bool:
        """Return what a permission returned as a bool; note None."""
        if result is None:
            self.undecided.append(repr(permission))
        return bool(result)


class _Operators:
    """The operators that combine permissions: classes, instances, or one of each."""

    def __and__(self, other: Any) -> BasePermission:
        return _Combination("AND", self, other)

    def __or__(self, other: Any) -> BasePermission:
        return _Combination("OR", self, other)

    def __rand__(self, other: Any) -> BasePermission:
        return _Combination("AND", other, self)

    def __ror__(self, other: Any) -> BasePermission:
        return _Combination("OR", other, self)

    def __invert__(self) -> BasePermission:
        return _Combination("NOT", self)


class _PermissionClass(_Operators, type):  # type: ignore[misc]  # no union of types is meant
    """Lets permission classes be combined like their instances."""


class BasePermission(_Operators, metaclass=_PermissionClass):
    """Base class of permissions; override ``has_permission``.

    Classes and instances are combined with ``&``, ``|`` and ``~``; the right side is not
    evaluated when the left one decides.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_hooks(cls, {"has_permission": ("self", "user", "topic", "action")})

    def has_permission(self, user: Any, topic: Any, action: Action) -> Any:
        """Return whether ``user`` may do ``action`` with ``topic``; here always False.

        Override it with a plain method, which runs in a thread and may use the ORM, or
        with a coroutine function.

        Args:
            user: the connection's user; may be an ``AnonymousUser``.
            topic: the topic: ``topic.topic`` is its name, ``topic.kwargs`` the values
                that its pattern captured.
            action: an ``Action``, which equals its name: ``"subscribe"``,
                ``"publish"``, ``"presence"``, ``"history"`` or ``"whisper"``.

        Returns:
            A true value to allow it. ``PermissionDenied`` may be raised for False.
        """
        return False

    def __repr__(self) -> str:
        return type(self).__name__

    async def _allows(self, check: _Check) -> bool:
        result = await call_hook(
            self.has_permission, check.user, check.topic, check.action
        )
        return check.decide(self, result)


class AllowAny(BasePermission):
    """Allows all users, logged in or not."""

    async def has_permission(self, user: Any, topic: Any, action: Action) -> bool:
        """Return True."""
        return True


class IsAuthenticated(BasePermission):
    """Allows users who are logged in."""

    async def has_permission(self, user: Any, topic: Any, action: Action) -> bool:
        """Return whether ``user`` is authenticated."""
        return _is_authenticated(user)


class IsStaff(BasePermission):
    """Allows users who may use Django's admin (``is_staff``)."""

    async def has_permission(self, user: Any, topic: Any, action: Action) -> bool:
        """Return whether ``user`` is staff."""
        return _is_staff(user)


IsAdminUser = IsStaff
"""``IsStaff`` under Django REST Framework's name."""


class HasPerm(BasePermission):
    """Allows users with permissions of Django: ``HasPerm("chat.view_room")``.

    Args:
        perm: a permission in the form of ``user.has_perm``, ``"app.codename"``.
        *more: further permissions; all are required.
    """

    def __init__(self, perm: str, *more: str) -> None:
        self.perms = (perm, *more)
        for each in self.perms:
            if "." not in each:
                raise ValueError(
                    f"{each!r} is no permission of Django's; write 'app.codename', "
                    "such as 'chat.view_room'"
                )

    def __repr__(self) -> str:
        return f"HasPerm({', '.join(map(repr, self.perms))})"

    def has_permission(self, user: Any, topic: Any, action: Action) -> bool:
        """Return whether ``user`` has all of them; may query the database."""
        return bool(user is not None and user.has_perms(self.perms))


def _is_authenticated(user: Any) -> bool:
    return bool(user is not None and user.is_authenticated)


def _is_staff(user: Any) -> bool:
    return bool(user is not None and getattr(user, "is_staff", False))


class _Combination(BasePermission):
    """Combines permissions by an operator of Django REST Framework: AND, OR or NOT."""

    def __init__(self, operator: str, *rules: Any) -> None:
        self._operator = operator
        self._parts = [as_permission(rule) for rule in rules]

    def __repr__(self) -> str:
        if self._operator == "NOT":
            return f"~{self._parts[0]!r}"
        sign = " & " if self._operator == "AND" else " | "
        return f"({sign.join(map(repr, self._parts))})"

    async def _allows(self, check: _Check) -> bool:
        # The first part with this result decides.
        decisive = self._operator == "OR"
        for part in self._parts:
            if await _evaluate(part, check) is decisive:
                return self._operator != "AND"
        return self._operator == "AND"


class _RestFrameworkPermission(BasePermission):
    """A permission with Django REST Framework's interface: a request and a view."""

    def __init__(self, permission: Any) -> None:
        self._permission = permission

    def __repr__(self) -> str:
        return type(self._permission).__name__

    async def _allows(self, check: _Check) -> bool:
        method = "POST" if check.action in _WRITING else "GET"
        request = HandshakeRequest(check.scope, check.user, method)
        view = SimpleNamespace(
            topic=check.topic,
            args=(),
            kwargs=dict(getattr(check.topic, "kwargs", {})),
            action=check.action.value,
            request=request,
        )
        try:
            result = await call_hook(self._permission.has_permission, request, view)
        except Exception as error:
            # Exceptions of that framework have a status.
            if getattr(error, "status_code", None) in (401, 403, 404):
                return False
            raise
        return check.decide(self, result)


async def allowed(
    topic: Any, user: Any, action: ActionName, scope: Scope, *, admitted: bool = False
) -> bool:
    """Return whether ``user`` may do ``action`` with ``topic``.

    All of the topic's ``permission_classes`` have to allow it, and its own method
    (``can_subscribe``, ``can_publish``, ``can_see_presence``, ``can_read_history``,
    ``can_whisper``) if it defines one. A topic with neither ``permission_classes`` nor
    ``can_subscribe`` allows nothing, and one with neither ``can_publish`` nor
    ``on_publish`` allows no publications.

    The caller checks that the client is subscribed, for actions that need it.

    Args:
        topic: an instance.
        user: the connection's user.
        action: ``"subscribe"``, ``"publish"``, ``"presence"``, ``"history"`` or
            ``"whisper"``.
        scope: the connection's, for permissions that read its headers.
        admitted: whether a token or the server has subscribed the client; then
            ``permission_classes`` are checked for publishing and whispers alone.

    Raises:
        ValueError: for another action.
        Exception: raised by a permission or method, other than ``PermissionDenied``.
    """
    return await refusal(topic, user, action, scope, admitted=admitted) is None


async def refusal(
    topic: Any, user: Any, action: ActionName, scope: Scope, *, admitted: bool = False
) -> str | None:
    """Return why ``user`` may not do ``action`` with ``topic``, or None if they may.

    The arguments and exceptions are those of ``allowed``. The reason is for developers.
    """
    name = _HOOKS.get(action) or _HOOKS[Action(action)]
    rules, hook = topic.permission_classes or (), getattr(topic, name, None)
    if admitted:
        if action in ("presence", "history"):
            rules = ()
    elif not rules and not callable(getattr(topic, "can_subscribe", None)):
        kind = type(topic).__name__
        return f"{kind} has neither permission_classes nor can_subscribe"
    if (
        action == "publish"
        and not callable(hook)
        and not callable(getattr(topic, "on_publish", None))
    ):
        return f"{type(topic).__name__} has neither can_publish nor on_publish"
    for rule in rules:
        if not _allows_by_itself(rule, user):
            reason = await _refusal_by_rules(rules, topic, user, Action(action), scope)
            if reason is not None:
                return reason
            break
    if not callable(hook):
        return None
    may: Any
    try:
        may = await call_hook(hook, user)
    except PermissionDenied:
        may = False
    if may:
        return None
    returned = " (it returned None, not True)" if may is None else ""
    return f"{type(topic).__name__}.{name} does not allow {_name(user)}{returned}"


def _allows_by_itself(rule: Any, user: Any) -> bool:
    """Return whether a permission of this module allows ``user`` all actions.

    The shortcut for the most common permissions, which are checked for each command: an
    object and a coroutine for each check would take longer than the check.
    """
    if rule is AllowAny:
        return True
    if rule is IsAuthenticated:
        return _is_authenticated(user)
    return rule is IsStaff and _is_staff(user)


async def _refusal_by_rules(
    rules: Iterable[Any], topic: Any, user: Any, action: Action, scope: Scope
) -> str | None:
    check = _Check(user, topic, action, scope)
    for rule in rules:
        if not await _evaluate(as_permission(rule), check):
            name = rule.__name__ if isinstance(rule, type) else repr(rule)
            kind = type(topic).__name__
            text = f"{name} in {kind}.permission_classes does not allow {_name(user)}"
            if not check.undecided:
                return text
            return f"{text} ({', '.join(check.undecided)} returned None, not True)"
    return None


def may_refuse_history(topic: Any) -> bool:
    """Return whether ``topic`` may refuse its history to some of its subscribers.

    False if it has no ``can_read_history``, and each of its ``permission_classes`` is one
    of this module: these allow all actions or none.
    """
    if callable(getattr(topic, "can_read_history", None)):
        return True
    # A loop: with any() and its generator this took 1.5 % of a client's connecting.
    for rule in topic.permission_classes or ():
        if rule is not AllowAny and not _is_uniform(rule):
            return True
    return False


def _is_uniform(rule: Any) -> bool:
    kind = rule if isinstance(rule, type) else type(rule)
    return kind in (AllowAny, IsAuthenticated, IsStaff, HasPerm)


def _name(user: Any) -> str:
    pk = getattr(user, "pk", None)
    return "an anonymous user" if pk is None else f"the user {pk!r}"


def require_permissions(cls: type[Any]) -> None:
    """Check that ``permission_classes`` is a list of permissions.

    Raises:
        ImproperlyConfigured: for anything else.
    """
    rules = inspect.getattr_static(cls, "permission_classes")
    if isinstance(rules, property) or rules is None:
        return
    if not isinstance(rules, list | tuple | set | frozenset):
        written = getattr(rules, "__name__", None) or repr(rules)
        raise ImproperlyConfigured(
            f"{full_name(cls)}.permission_classes is {written}, not a list; write "
            f"permission_classes = [{written}]"
        )
    for rule in rules:
        try:
            as_permission(rule)
        except TypeError as error:
            raise ImproperlyConfigured(
                f"{full_name(cls)}.permission_classes: {error}"
            ) from None


async def _evaluate(permission: BasePermission, check: _Check) -> bool:
    try:
        return await permission._allows(check)  # noqa: SLF001 (private to this module)
    except PermissionDenied:
        return False


def as_permission(rule: Any) -> BasePermission:
    """Return a rule in any of the accepted forms as a ``BasePermission``.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(rule, BasePermission):
        return rule
    operator = getattr(getattr(rule, "operator_class", None), "__name__", "")
    if operator in ("AND", "OR", "NOT"):
        # A combination by Django REST Framework may contain our permissions too.
        parts = [getattr(rule, f"op{place}_class", None) for place in (1, 2)]
        return _Combination(operator, *(part for part in parts if part is not None))
    made = rule() if isinstance(rule, type) else rule
    if isinstance(made, BasePermission):
        return made
    if not callable(getattr(made, "has_permission", None)):
        raise TypeError(
            f"{rule!r} is no permission; use a subclass of "
            "tiderace.topics.permissions.BasePermission or of Django REST Framework's"
        )
    return _RestFrameworkPermission(made)
