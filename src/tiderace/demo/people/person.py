"""A visitor of the demo, a user or a guest."""

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

SEEDED = {"alice": "alice-tide", "bob": "bob-tide", "carol": "carol-tide"}
# The account that may view the connections at /admin/.
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
        """Return the fields as sent to the browser."""
        return asdict(self)


def person_of(
    user: AbstractBaseUser | AnonymousUser, session: SessionBase
) -> Person | None:
    """Return the person of a request or socket, or None.

    A logged-in user takes precedence over a guest of the same session. May read the
    session from the database: call it from synchronous code.
    """
    if user.is_authenticated:
        return Person(id=f"user-{user.pk}", name=user.get_username(), guest=False)
    stored = session.get(_GUEST)
    return Person(**stored, guest=True) if stored else None


def new_guest(session: SessionBase, name: str) -> Person:
    """Add a guest to the session; ``name`` is not validated."""
    person = Person(id=f"guest-{secrets.token_hex(6)}", name=name, guest=True)
    session[_GUEST] = {"id": person.id, "name": person.name}
    return person


def guest_name(text: str) -> str:
    """Return ``text`` as a display name: normalized, single-spaced, printable.

    Raises:
        ValidationError: when it is empty, longer than ``NAME_LENGTH``, has invisible
            characters, or is the name of a user.
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
    """Decorate a view of ``(request, person, ...)``; others are sent to sign in."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        person = person_of(request.user, request.session)
        if person is None:
            return redirect_to_login(request.get_full_path())
        return view(request, person, *args, **kwargs)

    return guarded


def as_context(request: HttpRequest) -> dict[str, Any]:
    """Context processor for ``person``, None when not signed in."""
    return {"person": person_of(request.user, request.session)}


def user_group(pk: object) -> str:
    """Return the group of the windows of the user with this primary key."""
    return f"user.{pk}"


def session_group(session: SessionBase) -> str:
    """Return the group of the windows of one browser's session.

    The session key is a credential, so the name has its digest only.
    """
    digest = hashlib.sha256(str(session.session_key).encode()).hexdigest()
    return f"session.{digest[:32]}"
