"""A visitor of the demo: a seeded user, or a guest, for whom a user is created."""

from __future__ import annotations

import secrets
import unicodedata
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.core.exceptions import ValidationError
from django.http import HttpRequest

SEEDED = {"alice": "alice-tide", "bob": "bob-tide", "carol": "carol-tide"}
# The account that may view the connections at /admin/.
STAFF = {"harbour": "harbour-tide"}
# They talk in the chat and cannot log in.
BOTS = ("marina", "otto")
NAME_LENGTH = 24

_GUEST = "guest-"


@dataclass(frozen=True, slots=True)
class Person:
    """A visitor as the pages show them: ``id`` is the primary key of the user."""

    id: str
    name: str
    guest: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as sent to the browser."""
        return asdict(self)


def person_of(user: AbstractBaseUser | AnonymousUser) -> Person:
    """Return the person of a logged-in user."""
    guest = user.get_username().startswith(_GUEST)
    name = user.first_name if guest and isinstance(user, User) else user.get_username()
    return Person(str(user.pk), name, guest)


def new_guest(name: str) -> User:
    """Create a user without a password for a guest; ``name`` is not validated."""
    username = _GUEST + secrets.token_hex(6)
    return User.objects.create_user(username, first_name=name)


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
    taken = {user.casefold() for user in (*SEEDED, *STAFF, *BOTS)}
    if name.casefold() in taken or User.objects.filter(username__iexact=name).exists():
        raise ValidationError("That name belongs to a user; choose another.")
    return name


def as_context(request: HttpRequest) -> dict[str, Any]:
    """Context processor for ``person``, None when not logged in."""
    user = getattr(request, "user", AnonymousUser())
    return {"person": person_of(user) if user.is_authenticated else None}
