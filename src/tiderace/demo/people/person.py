"""One visitor, user or guest, in the few words the demo's apps need.

It knows Django's user and session, and no request, page or socket.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ValidationError

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase
    from django.http import HttpRequest, HttpResponseBase

__all__ = [
    "NAME_LENGTH",
    "SEEDED",
    "STAFF",
    "Person",
    "as_context",
    "guest_name",
    "new_guest",
    "person_of",
    "person_required",
    "session_group",
    "user_group",
]

SEEDED = {"alice": "alice-tide", "bob": "bob-tide", "carol": "carol-tide"}
# Whoever sees who is connected, at /admin/, and may do nothing else there.
STAFF = {"harbour": "harbour-tide"}
NAME_LENGTH = 24

_GUEST = "demo_guest"


@dataclass(frozen=True, slots=True)
class Person:
    """A visitor: ``id`` is public and stable for the session, ``name`` is shown."""

    id: str
    name: str
    guest: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as the browser is told them."""
        return asdict(self)


def person_of(
    user: AbstractBaseUser | AnonymousUser, session: SessionBase
) -> Person | None:
    """Return who a request or socket belongs to, or None for a stranger.

    A logged-in user counts before a guest name left in the same session. May
    read the session from the database, so call it from synchronous code.
    """
    if user.is_authenticated:
        return Person(id=f"user-{user.pk}", name=user.get_username(), guest=False)
    kept = session.get(_GUEST)
    if kept:
        return Person(id=kept["id"], name=kept["name"], guest=True)
    return None


def new_guest(session: SessionBase, name: str) -> Person:
    """Write a new guest called ``name`` into the session; the name is trusted."""
    person = Person(id=f"guest-{secrets.token_hex(6)}", name=name, guest=True)
    session[_GUEST] = {"id": person.id, "name": person.name}
    return person


def guest_name(text: str) -> str:
    """Return ``text`` as a display name: composed, single-spaced, printable.

    Raises:
        ValidationError: when nothing is left, it is longer than ``NAME_LENGTH``,
            holds invisible characters, or is the name of a user.
    """
    name = " ".join(unicodedata.normalize("NFKC", text).split())
    if not name:
        raise ValidationError("Enter a name.")
    if len(name) > NAME_LENGTH:
        raise ValidationError(f"Enter at most {NAME_LENGTH} characters.")
    if not name.isprintable():
        raise ValidationError("Leave out invisible characters.")
    if not any(character.isalnum() for character in name):
        raise ValidationError("Use at least one letter or digit.")
    taken = {user.casefold() for user in (*SEEDED, *STAFF)}
    if name.casefold() in taken or User.objects.filter(username__iexact=name).exists():
        raise ValidationError("That name belongs to a user; choose another.")
    return name


def person_required(
    view: Callable[..., HttpResponseBase],
) -> Callable[..., HttpResponseBase]:
    """Decorate a view that takes ``(request, person, ...)``; strangers go to sign-in."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        person = person_of(request.user, request.session)
        if person is None:
            return redirect_to_login(request.get_full_path())
        return view(request, person, *args, **kwargs)

    return guarded


def as_context(request: HttpRequest) -> dict[str, Any]:
    """Context processor: every template may say ``person`` (None for a stranger)."""
    return {"person": person_of(request.user, request.session)}


def user_group(pk: object) -> str:
    """Return the group that holds every window of the user with this primary key."""
    return f"user.{pk}"


def session_group(session: SessionBase) -> str:
    """Return the group that holds every window of one browser's session.

    The session key is a credential, so the name carries only its digest.
    """
    digest = hashlib.sha256(str(session.session_key).encode()).hexdigest()
    return f"session.{digest[:32]}"
